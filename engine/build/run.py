"""The composition root: settings in, a run that is checked, loaded and wired out. Only it knows everyone.

Holds no algorithm. The order is the point: settings, folders, dataset and memory are refused before a weight
is read, models are loaded before a run folder exists, and from then on nothing that was finished is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engine.build import exported
from engine.build.engine import Engine
from engine.build.facts import facts_ahead, manifest_of
from engine.build.prepare import Prepared, load, prepare
from engine.errors import StoreError
from engine.machine.phases import collecting, phase
from engine.machine.usage import device_memory
from engine.protocols import Critic, Display, Generator, Sink
from engine.runs.changes import changes, listed
from engine.runs.folder import DATABASE
from engine.runs.live import Live
from engine.runs.log_file import RunLog
from engine.runs.manifest import MANIFEST, read_manifest, write_manifest
from engine.runs.requests import Requests
from engine.runs.store import RunStore
from engine.runs.trace import CudaRecorder, HostRecorder
from engine.runs.trace_file import end_of_trace_s, kept_trace
from engine.runs.watched import Watched
from engine.settings.config import RunConfig, read_config, write_config
from engine.types import Outcome, Scenario
from engine.video.files import is_readable
from engine.words import counted


class Run:
    """A run folder with its models loaded; a context that closes the store. `execute` runs it to the end."""

    def __init__(
        self,
        store: RunStore,
        log: RunLog,
        prepared: Prepared | None,
        loaded: tuple[Generator, Critic] | None,
        loaded_bytes: Mapping[str, int] | None = None,
    ) -> None:
        """`prepared` is None when every scenario has its outcome, `loaded` when no other one is usable.

        `loaded_bytes`: what each model took of a GPU, where that was measured."""
        self.folder = store.folder
        self._store = store
        self._log = log
        self._prepared = prepared
        self._loaded = loaded
        self._loaded_bytes = loaded_bytes or {}
        known = [scenario.id for scenario in store.scenarios()]
        self._control = Requests(store.folder, store.requests, known)
        self.warning = None if loaded is None else loaded[0].notes.get(exported.FALLBACK)
        self.changed = () if prepared is None else prepared.changed
        """Settings that were changed so that the run fits, with their price."""
        self.told = () if prepared is None else prepared.told
        """What was decided for a user who named nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.close()
        self._log.close()

    @property
    def num_pending(self) -> int:
        return 0 if self._prepared is None else len(self._prepared.scenarios)

    def worked_s(self) -> float:
        """Since it was loaded, without its pauses."""
        return self._control.worked_s()

    def execute(self, display: Display) -> dict[str, Outcome]:
        """Outcomes of all scenarios by id, also of earlier processes. DeviceError when the GPU is lost."""
        if self._prepared is not None:
            memory = partial(device_memory, self._prepared.device)
            with Live(self.folder, display, worked_s=self.worked_s, memory=memory) as live:
                sink = Watched(self._store, live)
                refused = refuse(self._store, self._prepared.usable, self._prepared.refused, sink, live)
                prepared = replace(self._prepared, refused=refused)
                if self._loaded is not None and prepared.usable:
                    self._generate(prepared, *self._loaded, sink, live)
        return self._store.outcomes()

    def _generate(
        self, prepared: Prepared, generator: Generator, critic: Critic, sink: Watched, display: Display
    ) -> None:
        engine = Engine(
            prepared=prepared,
            generator=generator,
            critic=critic,
            folder=self.folder,
            loaded_bytes=self._loaded_bytes,
        )

        def keeping(recorder: HostRecorder | CudaRecorder) -> AbstractContextManager[Callable[[], None]]:
            sink.timed_by(recorder)
            return kept_trace(self.folder, recorder)

        work = [(scenario, self._store.history(scenario.id)) for scenario in prepared.usable]
        engine.run(
            work,
            sink,
            display,
            opened=self._store.opened,
            keeping=keeping,
            control=self._control,
            origin_s=end_of_trace_s(self.folder),
        )


def build_run(config: RunConfig) -> Run:
    """A new run in `config.out`. Raises the RetakeError of whatever does not fit, cheapest checks first."""
    if (config.out / DATABASE).exists():
        RunStore.claim(config.out, ())  # refuses, with the way out
    with ExitStack() as refused, collecting() as seconds:
        log, loaded_bytes = RunLog(), dict[str, int]()
        refused.callback(log.close)
        with phase("prepare"):
            prepared = prepare(config)
        config = prepared.config  # with what was changed so that it fits
        with facts_ahead(prepared) as ahead:  # weights are read once for their digests, once to load them
            with phase("load"):
                loaded = load(prepared, loaded_bytes)
            denoise = exported.pinned(config.denoise, prepared.exported, loaded[0].notes)
            config = replace(config, denoise=denoise)
            with phase("hash"):  # what is left of it once the models are loaded
                facts = manifest_of(replace(prepared, config=config), ahead, loaded[0].notes, loaded[1].notes)
            facts["setup_s"] = seconds
        store = begin_folder(config, prepared.scenarios, facts, log)
        refused.pop_all()
    return Run(store, log, prepared, loaded, loaded_bytes)


def begin_folder(
    config: RunConfig, scenarios: Sequence[Scenario], facts: Mapping[str, Any], log: RunLog
) -> RunStore:
    """The run folder `config.out` with settings, manifest and store; StoreError as `RunStore.claim`."""
    with ExitStack() as refused:
        claim = RunStore.claim(config.out, scenarios)  # before anything of another run is touched
        refused.callback(claim.close)
        log.into(config.out)
        write_config(config, config.out / "config.toml")  # before the store: whoever finds one can resume it
        write_manifest(config.out / MANIFEST, facts)
        store = RunStore.create(config.out, scenarios, claim=claim)
        refused.pop_all()
    return store


def refuse(
    store: RunStore, usable: Sequence[Scenario], refused: Mapping[str, str], sink: Sink, display: Display
) -> dict[str, str]:
    """Store why nothing is made of a scenario, by id: it was refused, or nothing can be kept of it."""
    reasons = {**refused, **store.unwritable(usable)}
    for scenario_id, reason in reasons.items():
        attempts = store.attempts(scenario_id)
        sink.outcome(Outcome(scenario_id=scenario_id, attempts=attempts, failure=reason))
        display.finished([scenario_id])
    return reasons


def resume_run(
    folder: Path, *, denoiser: str | None = None, accept_changes: bool = False, remake_takes: bool = False
) -> Run:
    """The unfinished and the failed scenarios of a run folder, with its own settings.

    StoreError where a stored take is missing or another one; with `remake_takes` it is forgotten, with those
    that followed from it, and made again. What is missing in `chosen/` is copied there again.

    `denoiser` says where the exported form is now that the run was started with; StoreError for another one.
    StoreError too where models, questions, settings or versions are not those of the manifest; with
    `accept_changes` they are noted there instead, with the number of attempts that were made before.
    """
    with ExitStack() as refused:
        store, log, config = reopen(folder, refused, denoiser=denoiser, remake_takes=remake_takes)
        pending = [scenario.id for scenario in store.pending()]
        prepared = prepare(config, only=pending) if pending else None
        loaded, loaded_bytes = None, dict[str, int]()
        if prepared is not None:
            exported.require_same(exported.notes_of(prepared.exported), folder / MANIFEST)
            with facts_ahead(prepared) as ahead:
                now = manifest_of(prepared, ahead, {}, {})
            require_same(store, prepared.scenarios, now, accept=accept_changes)
            loaded = load(prepared, loaded_bytes) if prepared.usable else None
        refused.pop_all()
        return Run(store, log, prepared, loaded, loaded_bytes)


def reopen(
    folder: Path, refused: ExitStack, *, denoiser: str | None, remake_takes: bool
) -> tuple[RunStore, RunLog, RunConfig]:
    """A run folder, mended and with its failed scenarios pending; `refused` closes what was opened, so that
    it can be tried again with what an error says."""
    store = RunStore.open(folder)
    refused.callback(store.close)
    log = RunLog()
    refused.callback(log.close)
    log.into(folder)
    Requests(folder, store.requests, [one.id for one in store.scenarios()]).go_on()
    config = exported.moved(read_config(folder), denoiser)
    end_of_trace_s(folder)  # refused now, not when the models are loaded
    _mend(store, remake=remake_takes, restarts=config.loop.finish_restarts > 0)
    store.forget_failures()
    return store, log, config


def _mend(store: RunStore, *, remake: bool, restarts: bool) -> None:
    """No take is chosen, nor built upon, that is not the one that was judged."""
    bad = store.damaged_takes(is_readable)
    if bad and not remake:
        raise StoreError(
            f"{store.folder} has {counted(len(bad), 'scenario')} of which a video is missing or not as it "
            f"was stored, the first {store.video_path(*next(iter(bad.items())))}",
            fix="put them back; or resume with --remake-takes, which makes them and what followed again",
        )
    store.forget_takes(bad)
    store.scouts.forget_changed(for_restarts=restarts)
    store.restore_chosen()


def require_same(
    store: RunStore, scenarios: Sequence[Scenario], now: Mapping[str, Any], *, accept: bool
) -> None:
    """StoreError unless the run rests on what it was started with; with `accept`, noted in the manifest.

    scenarios: those that are left, as the dataset has them now. now: the manifest of a run that would start.
    """
    path = store.folder / MANIFEST
    then = read_manifest(path)
    asked = {scenario.id: scenario.text for scenario in store.scenarios()}
    found = [f"text of scenario {s.id}" for s in scenarios if asked[s.id] != s.text]
    found += changes(then, now) if then else [f"{path.name} is gone, so nothing can be compared"]
    if not found:
        return
    if not accept:
        raise StoreError(
            f"{store.folder} was started with something else:{listed(found)}",
            fix="put it back; or resume with --accept-changes, which notes it in the manifest; or start a new"
            " run",
        )
    made = {scenario.id: len(store.attempts(scenario.id)) for scenario in scenarios}
    note = {"started": now["started"], "changes": found, "attempts_before": made, "models": now["models"]}
    write_manifest(path, {**then, "resumed": [*then.get("resumed", []), note]})
