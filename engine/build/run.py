"""The composition root: settings in, a run that is checked, loaded and wired out. Only it knows everyone.

Holds no algorithm. The order is the point: settings, folders, dataset and memory are refused before a weight
is read, models are loaded before a run folder exists, and from then on nothing that was finished is lost.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engine import plugins
from engine.build import exported
from engine.build import model_folders as models
from engine.build.estimate import TimeEstimate, estimate
from engine.commands._progress import Display, Watched
from engine.datasets.physics_iq import TREES
from engine.errors import DatasetError, VideoError
from engine.loop import boundary
from engine.loop.policy import RefinementPolicy, scenario_seed
from engine.loop.scheduler import HOST_LANES, LANE_JOBS, Scheduler
from engine.loop.selection import TakeScorer, load_selectors
from engine.machine.device import resolve_device, resolve_dtype, use_threads
from engine.machine.memory import MemoryPlan, device_budget
from engine.machine.streams import HostPool, LaneStreams
from engine.protocols import Critic, Dataset, Generator, Selector, Sink
from engine.runs.manifest import collect, write_manifest
from engine.runs.store import DATABASE, RunStore
from engine.runs.trace import CudaRecorder, HostRecorder, Span, read_trace, write_trace
from engine.settings.config import RunConfig, read_config, shard_of, write_config
from engine.settings.environment import cache_folder, num_threads, offline
from engine.types import Outcome, Scenario, Video, VideoSpec
from engine.video.files import write_mp4

DATASETS = "engine.datasets"
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All that is known before a weight is read. `refused` has the reason by id of each unusable scenario."""

    config: RunConfig
    device: str
    dtype: str
    generator: models.ModelFolder
    critic: models.ModelFolder
    selectors: Mapping[str, Selector]
    spec: VideoSpec
    num_steps: int  # of denoising
    scenarios: tuple[Scenario, ...]
    refused: Mapping[str, str]
    memory: MemoryPlan
    opened: tuple[Path, ...]  # of the dataset so far
    exported: exported.Exported | None = None

    @property
    def usable(self) -> tuple[Scenario, ...]:
        return tuple(scenario for scenario in self.scenarios if scenario.id not in self.refused)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a run would need."""

    memory: MemoryPlan
    num_steps: int  # of denoising, in one take
    num_scenarios: int
    num_refused: int
    time: TimeEstimate | None


class Run:
    """A run folder with its models loaded; a context that closes the store. `execute` runs it to the end."""

    def __init__(self, store: RunStore, prepared: Prepared | None, loaded: tuple[Generator, Critic] | None):
        """`prepared` is None when every scenario has its outcome, `loaded` when no other one is usable."""
        self.folder = store.folder
        self._store = store
        self._prepared = prepared
        self._loaded = loaded
        self.warning = None if loaded is None else loaded[0].notes.get(exported.FALLBACK)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.close()

    @property
    def num_pending(self) -> int:
        return 0 if self._prepared is None else len(self._prepared.scenarios)

    def execute(self, display: Display) -> dict[str, Outcome]:
        """Outcomes of all scenarios by id, also of earlier processes. DeviceError when the GPU is lost."""
        if self._prepared is not None:
            sink = Watched(self._store, display)
            for scenario_id, reason in self._prepared.refused.items():
                sink.outcome(Outcome(scenario_id=scenario_id, attempts=(), failure=reason))
                display.finished([scenario_id])
            if self._loaded is not None:
                self._generate(self._prepared, *self._loaded, sink, display)
        return self._store.outcomes()

    def _generate(
        self, prepared: Prepared, generator: Generator, critic: Critic, sink: Sink, display: Display
    ) -> None:
        import torch

        config, scenarios, trace = prepared.config, prepared.usable, self.folder / "trace.json"
        earlier = read_trace(trace) if trace.is_file() else ()
        origin_s = max((span.end_s for span in earlier), default=0.0)
        on_gpu = prepared.device == "cuda"
        recorder = CudaRecorder(origin_s=origin_s) if on_gpu else HostRecorder(origin_s=origin_s)
        policy = _policy(config, generator)
        lookers = {name: prepared.selectors[name] for name in policy.lookers}
        scorer = TakeScorer(self.folder, lookers) if lookers else None
        self._store.opened(prepared.opened)
        with (
            boundary.watch(
                config.dataset, own=self.folder, allowed=[scenario.prefix.path for scenario in scenarios]
            ) as watch,
            HostPool(sum(LANE_JOBS[lane] for lane in HOST_LANES)) as host,
            _traced(trace, earlier, recorder),
        ):
            scheduler = Scheduler(
                scenarios=scenarios,
                generator=generator,
                critic=critic,
                policy=policy,
                encode=_encoder(self._store),
                host=host,
                sink=sink,
                recorder=recorder,
                progress=display,
                select=scorer.scores if scorer else None,
                read=scorer.read if scorer else None,
                history={scenario.id: self._store.history(scenario.id) for scenario in scenarios},
                on_lane=LaneStreams(torch.device(prepared.device)),
                overlap=config.schedule.overlap,
                ahead=config.schedule.ahead,
            )
            try:
                for _ in scheduler.run():  # each outcome is stored and shown by the sink
                    self._store.opened(watch.paths())
            finally:
                self._store.opened(watch.paths())


def build_run(config: RunConfig) -> Run:
    """A new run in `config.out`. Raises the RetakeError of whatever does not fit, cheapest checks first."""
    if (config.out / DATABASE).exists():
        RunStore.create(config.out, ())  # refuses, with the way out
    prepared = prepare(config)
    loaded = load(prepared)
    config = replace(config, denoise=exported.pinned(config.denoise, prepared.exported, loaded[0].notes))
    config.out.mkdir(parents=True, exist_ok=True)
    write_config(config, config.out / "config.toml")  # before the store: whoever finds a store can resume it
    notes = loaded[0].notes
    write_manifest(config.out / MANIFEST, _manifest(replace(prepared, config=config), notes))
    return Run(RunStore.create(config.out, prepared.scenarios), prepared, loaded)


def resume_run(folder: Path, *, denoiser: str | None = None) -> Run:
    """The unfinished and the failed scenarios of a run folder, with its own settings.

    `denoiser` says where the exported form is now that the run was started with; StoreError for another one.
    """
    with ExitStack() as refused:
        store = RunStore.open(folder)
        refused.callback(store.close)  # so that it can be tried again with what the error says
        config = exported.moved(read_config(folder), denoiser)
        store.forget_failures()
        pending = [scenario.id for scenario in store.pending()]
        prepared = prepare(config, only=pending) if pending else None
        loaded = None
        if prepared is not None:
            exported.require_same(prepared.exported, folder / MANIFEST)
            loaded = load(prepared) if prepared.usable else None
        refused.pop_all()
        return Run(store, prepared, loaded)


def prepare(config: RunConfig, *, only: Sequence[str] | None = None) -> Prepared:
    """Check settings, folders, every prefix clip and memory. With `only`, of these scenarios.

    A bad clip becomes a reason in `refused`; a new run in which all are bad is refused as a whole.
    """
    offline()
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    generator, critic = models.find_generator(config.generator.name), models.find_critic(config.critic.name)
    selectors = load_selectors(config.loop.selectors, config.selectors.on(device))
    outline: Any = _load_generator(config, generator, device, dtype, with_weights=False)
    form = exported.find(config.denoise, generator.path, outline, device)
    if form is not None:
        outline.denoiser_bytes = form.num_bytes
    judge = load_critic(config, critic, device, dtype, with_weights=False)
    spec = outline.spec
    with boundary.watch(config.dataset, own=config.out) as watch:
        dataset = open_dataset(config.dataset)
        scenarios = _wanted(dataset.scenarios(spec.fps), config, only)
        refused = dict(_refusals(dataset, scenarios))
    if only is None and len(refused) == len(scenarios):
        first = next(iter(refused.values()), "it holds no scenario")
        raise DatasetError(
            f"none of the {len(scenarios)} scenarios of {config.dataset} is usable: {first}",
            fix="mend the clips, or give another dataset",
        )
    parts = {"generator": outline.footprint(spec), "critic": judge.footprint(spec)}
    memory = MemoryPlan.solve(device_budget(device), parts, overlap=config.schedule.overlap)
    return Prepared(
        config=config,
        device=device,
        dtype=dtype,
        generator=generator,
        critic=critic,
        selectors=selectors,
        spec=spec,
        num_steps=outline.schedule.num_steps,
        scenarios=scenarios,
        refused=refused,
        memory=memory,
        opened=watch.paths(),
        exported=form,
    )


def load(prepared: Prepared) -> tuple[Generator, Critic]:
    """Read the weights of both models onto the device."""
    if prepared.device == "cpu":
        use_threads(num_threads())
    config, arguments = prepared.config, (prepared.device, prepared.dtype)
    form = exported.load(prepared.exported, config.denoise, prepared.device)
    return (
        _load_generator(config, prepared.generator, *arguments, with_weights=True, form=form),
        load_critic(config, prepared.critic, *arguments, with_weights=True),
    )


def open_dataset(root: Path) -> Dataset:
    """Physics-IQ where there is a descriptions.csv or its tree, else a folder of the user's clips."""
    trees = [root / tree / "split-videos" for tree in ("", *TREES)]
    benchmark = (root / "descriptions.csv").is_file() or any(tree.is_dir() for tree in trees)
    opened: Dataset = plugins.load(DATASETS, "physics_iq" if benchmark else "folder").open_dataset(root)
    return opened


def plan_run(config: RunConfig, *, timed: bool) -> Needs:
    """Memory before a weight is read; with `timed`, also a time from steps run on the first scenario."""
    prepared = prepare(config)
    time = None
    if timed:
        generator, critic = load(prepared)
        rounds, policy = 1 + config.loop.loops, _policy(config, generator)
        takes = rounds * config.loop.samples
        time = estimate(
            generator,
            critic,
            prepared.usable[0],
            num_scenarios=len(prepared.usable),
            takes_per_scenario=takes,
            critiques_per_scenario=takes if policy.judges_every_take else rounds,
            overlap=config.schedule.overlap and prepared.device == "cuda",
        )
    return Needs(
        memory=prepared.memory,
        num_steps=prepared.num_steps,
        num_scenarios=len(prepared.scenarios),
        num_refused=len(prepared.refused),
        time=time,
    )


def _load_generator(
    config: RunConfig,
    found: models.ModelFolder,
    device: str,
    dtype: str,
    *,
    with_weights: bool,
    form: exported.Loaded | None = None,
) -> Generator:
    family: Any = found.loader()
    generator: Any = family.load(
        found.path,
        device=device,
        dtype=dtype,
        num_inference_steps=config.generator.steps,
        guidance_scale=config.generator.guidance_scale,
        denoise=config.denoise.settings(),
        cache=cache_folder() / "kernels",
        with_weights=with_weights,
        exported=None if form is None else form.assembled,
    )
    if form is not None:
        generator.notes.update(form.notes)
    made: Generator = generator
    return made


def load_critic(
    config: RunConfig, found: models.ModelFolder, device: str, dtype: str, *, with_weights: bool
) -> Critic:
    """The critic of a checked folder with the settings of `config`."""
    family: Any = found.loader()
    critic: Critic = family.load(
        found.path,
        device=device,
        dtype=dtype,
        quantization=config.critic.quantization,
        with_weights=with_weights,
    )
    return critic


def _wanted(
    scenarios: Sequence[Scenario], config: RunConfig, only: Sequence[str] | None
) -> tuple[Scenario, ...]:
    if only is None:
        part, parts = shard_of(config.shard) if config.shard else (1, 1)
        return tuple(scenarios[: config.limit][part - 1 :: parts])  # round robin: parts alike in kind
    by_id = {scenario.id: scenario for scenario in scenarios}
    if absent := [scenario_id for scenario_id in only if scenario_id not in by_id]:
        raise DatasetError(
            f"{config.dataset} lacks {len(absent)} scenarios of this run, the first {absent[0]}",
            fix="put the dataset of the run back in its place",
        )
    return tuple(by_id[scenario_id] for scenario_id in only)


def _refusals(dataset: Dataset, scenarios: Sequence[Scenario]) -> Iterator[tuple[str, str]]:
    for scenario in scenarios:
        try:
            dataset.check(scenario)
        except VideoError as error:
            yield scenario.id, str(error)


def _policy(config: RunConfig, generator: Generator) -> RefinementPolicy:
    given = config.generator.negative
    negative = generator.negative_prompt if given is None else given
    return RefinementPolicy(settings=config.loop, negative=negative)


def _encoder(store: RunStore) -> Callable[[Scenario, int, Video], Path]:
    def encode(scenario: Scenario, index: int, video: Video) -> Path:
        path = store.video_path(scenario.id, index)
        write_mp4(store.folder / path, video.frames, video.fps)
        return path

    return encode


@contextmanager
def _traced(path: Path, earlier: Sequence[Span], recorder: CudaRecorder | HostRecorder) -> Iterator[None]:
    """Write the trace at the end and when interrupted; the events of a lost GPU cannot be read."""
    try:
        yield
    except KeyboardInterrupt:
        write_trace(path, [*earlier, *recorder.spans()])
        raise
    write_trace(path, [*earlier, *recorder.spans()])


def _manifest(prepared: Prepared, denoiser: Mapping[str, str]) -> dict[str, Any]:
    config = prepared.config
    facts = collect(
        asdict(config),
        {"generator": prepared.generator.path, "critic": prepared.critic.path},
        seeds={scenario.id: scenario_seed(config.loop.seed, scenario.id) for scenario in prepared.scenarios},
        argv=sys.argv,
    )
    resolved = {"device": prepared.device, "dtype": prepared.dtype, "spec": asdict(prepared.spec)}
    return {**facts, "resolved": resolved, "denoiser": dict(denoiser), "memory": prepared.memory.table()}
