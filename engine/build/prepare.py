"""All that is known and checked before a weight is read, and then the reading of the weights.

Raises the error of whatever does not fit, the cheapest checks first. Families of models and kinds of datasets
are found by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.build import exported, libraries, model_folders
from engine.build.choosing import Choosing, choosing
from engine.build.model_folders import ModelFolder
from engine.build.opened_dataset import is_benchmark, open_dataset
from engine.errors import DatasetError, VideoError
from engine.loop import boundary
from engine.loop.expected_gain import GainModel
from engine.loop.policy import RefinementPolicy
from engine.loop.selection import load_selectors
from engine.machine import compiled
from engine.machine.device import open_ahead, resolve_device, resolve_dtype, use_threads
from engine.machine.memory import MemoryPlan, device_budget
from engine.protocols import Critic, Dataset, Generator, Selector
from engine.runs.digests import FileDigests
from engine.settings.config import AUTO, CHOOSE, LEAVE, PATCH, RunConfig, shard_of
from engine.settings.environment import cache_folder, compile_into, num_threads, offline
from engine.types import Scenario, VideoSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All that is known before a weight is read. `refused` has the reason by id of each unusable scenario."""

    config: RunConfig
    device: str
    dtype: str
    generator: ModelFolder
    critic: ModelFolder
    selectors: Mapping[str, Selector]
    spec: VideoSpec
    num_steps: int  # of denoising
    scenarios: tuple[Scenario, ...]
    refused: Mapping[str, str]
    memory: MemoryPlan
    opened: tuple[Path, ...]  # of the dataset so far
    choosing: Choosing
    exported: exported.Exported | None = None

    @property
    def usable(self) -> tuple[Scenario, ...]:
        return tuple(scenario for scenario in self.scenarios if scenario.id not in self.refused)


def prepare(config: RunConfig, *, only: Sequence[str] | None = None) -> Prepared:
    """Check settings, folders, every prefix clip and memory. With `only`, of these scenarios.

    A bad clip becomes a reason in `refused`; a new run in which all are bad is refused as a whole.
    """
    offline()
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    generator, critic = (
        model_folders.find_generator(config.generator.name),
        model_folders.find_critic(config.critic.name),
    )
    if device != "cpu":
        open_ahead(device)
    if compiled.hold(cache_folder() / "compiled"):
        compile_into(cache_folder() / "compiled")
    libraries.import_families(generator, critic)
    selectors = load_selectors(config.loop.selectors, config.selectors.on(device))
    outline: Any = load_generator(config, generator, device, dtype, with_weights=False)
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
    chosen_by = choosing(
        config.loop.gain,
        generator=generator.path,
        critic=critic.path,
        selectors=config.loop.selectors,
        digest=FileDigests(cache_folder() / "digests").digest,
    )
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
        choosing=chosen_by,
    )


def load(prepared: Prepared) -> tuple[Generator, Critic]:
    """Read the weights of both models onto the device."""
    if prepared.device == "cpu":
        use_threads(num_threads())
    config, arguments = prepared.config, (prepared.device, prepared.dtype)
    form = exported.load(prepared.exported, config.denoise, prepared.device)
    return (
        load_generator(config, prepared.generator, *arguments, with_weights=True, form=form),
        load_critic(config, prepared.critic, *arguments, with_weights=True),
    )


def load_generator(
    config: RunConfig,
    found: ModelFolder,
    device: str,
    dtype: str,
    *,
    with_weights: bool,
    form: exported.Loaded | None = None,
) -> Generator:
    """The generator of a checked folder with the settings of `config`; without weights it is an outline."""
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
    config: RunConfig, found: ModelFolder, device: str, dtype: str, *, with_weights: bool
) -> Critic:
    """The critic of a checked folder with the settings of `config`."""
    family: Any = found.loader()
    critic: Critic = family.load(
        found.path,
        device=device,
        dtype=dtype,
        quantization=config.critic.quantization,
        patches=config.critic.critique_form == PATCH,
        with_weights=with_weights,
        replies=replies_at_once(config, device),
    )
    return critic


def replies_at_once(config: RunConfig, device: str) -> int:
    """How many plans and critiques are written side by side. A GPU reads the weights once for all of them; a
    CPU gains nothing, and the first would only be ready later."""
    schedule = config.schedule
    return min(schedule.replies, schedule.ahead) if schedule.overlap and device == "cuda" else 1


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


def refinement_policy(
    config: RunConfig, generator: Generator, gain: GainModel | None = None
) -> RefinementPolicy:
    given = config.generator.negative
    negative = generator.negative_prompt if given is None else given
    loop = config.loop
    if loop.unreadable == AUTO:
        loop = replace(loop, unreadable=CHOOSE if is_benchmark(config.dataset) else LEAVE)
    return RefinementPolicy(settings=loop, negative=negative, gain=gain)
