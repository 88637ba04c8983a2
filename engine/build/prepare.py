"""All that is known and checked before a weight is read, and then the reading of the weights.

Raises the error of whatever does not fit, the cheapest checks first. Families of models and kinds of datasets
are found by name.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.build import exported, fit, libraries, model_folders, preset
from engine.build.choosing import Choosing, choosing, first_prompt_told
from engine.build.model_folders import ModelFolder
from engine.build.opened_dataset import is_benchmark, open_dataset, refusals, wanted
from engine.build.probing import Probing, keep_states_of, keeps_states, probing, require_sites, selectors_of
from engine.build.scouts import check_scouts, footprint_of
from engine.denoise.lora import read_loras
from engine.denoise.lora_grid import grid_of
from engine.errors import ConfigError, DatasetError
from engine.loop import boundary
from engine.loop.expected_gain import GainModel
from engine.loop.policy import RefinementPolicy
from engine.machine import compiled
from engine.machine.cards import Card
from engine.machine.device import open_ahead, resolve_device, resolve_dtype, use_threads
from engine.machine.memory import MemoryPlan, device_budget, enforce_budget
from engine.machine.phases import phase
from engine.machine.usage import allocated_bytes
from engine.protocols import Critic, Generator, Selector
from engine.runs.digests import FileDigests
from engine.runs.manifest import Digest
from engine.settings.config import NO_DATASET, PATCH, STREAMED, LoopConfig, RunConfig
from engine.settings.environment import cache_folder, compile_into, num_threads, offline
from engine.settings.loop import AUTO, CHOOSE, LEAVE
from engine.types import Footprint, Scenario, VideoSpec
from engine.weights.linked import linked_parts

_LOADING = threading.Lock()
"""While diffusers and transformers build or load a model they switch off, for the whole process, how weights
begin and which are tied: with engines on two threads it is one model at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All that is known before a weight is read. `refused` has the reason by id of each unusable scenario.

    `config` has what was `changed` of the given one to make it fit, each with its price in words.
    """

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
    changed: tuple[str, ...]
    opened: tuple[Path, ...]  # of the dataset so far
    choosing: Choosing
    exported: exported.Exported | None = None
    probe: Probing | None = None
    told: tuple[str, ...] = ()
    """What was decided for a user who named nothing, and should be said at the start: a line each."""

    @property
    def usable(self) -> tuple[Scenario, ...]:
        return tuple(scenario for scenario in self.scenarios if scenario.id not in self.refused)


def prepare(config: RunConfig, *, only: Sequence[str] | None = None, card: Card | None = None) -> Prepared:
    """Check settings, folders, every prefix clip and memory. With `only`, of these scenarios.

    `card`: a GPU to plan for that need not be here; nothing can then be loaded.
    A bad clip becomes a reason in `refused`; a new run in which all are bad is refused as a whole.
    """
    offline()
    if card is not None and config.denoise.engine:
        raise ConfigError(
            "an exported denoiser is built for the card at hand", fix="leave --gpu or --denoiser out"
        )
    device = "cuda" if card is not None else resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    by_itself = preset.chosen(config, device, dtype)
    config = by_itself.config
    generator, critic = _folders(config)
    if device != "cpu" and card is None:
        open_ahead(device)
    if compiled.hold(cache_folder() / "compiled"):
        compile_into(cache_folder() / "compiled")
    with phase("imports"):
        libraries.import_families(generator, critic)
    digest = FileDigests(cache_folder() / "digests").digest
    probe = probing(config, generator.path, digest)
    selectors = selectors_of(config, device if card is None else "cpu", probe)
    outlines = _Outlines(generator, critic, device, dtype, card)
    with phase("outlines"):
        outline, form = outlines.generator(config)
    spec: VideoSpec = outline.spec
    check_scouts(config.loop, outline)
    require_sites(probe, config.loop, outline)
    with phase("clips"):
        scenarios, refused, opened = _questions(config, spec, only)
    chosen_by = _choosing(config.loop, generator, critic, digest)
    budget = device_budget(device, config.memory.vram) if card is None else card.budget(config.memory.vram)
    with phase("memory plan"):
        fitted = preset.fitted(
            by_itself,
            lambda one: fit.fit(one, budget, outlines.footprints, on_gpu=device == "cuda"),
        )
    return Prepared(
        config=fitted.config,
        device=device,
        dtype=dtype,
        generator=generator,
        critic=critic,
        selectors=selectors,
        spec=spec,
        num_steps=outline.num_steps,
        scenarios=scenarios,
        refused=refused,
        memory=fitted.plan,
        changed=fitted.changes,
        opened=opened,
        exported=form,
        choosing=chosen_by,
        probe=probe,
        told=_told(by_itself, fitted.config, chosen_by),
    )


def _told(by_itself: preset.Chosen, config: RunConfig, chosen_by: Choosing) -> tuple[str, ...]:
    """`config`: as it fits, which may have another preset than the one chosen for it."""
    stays = config.denoise.preset == by_itself.config.denoise.preset
    lines = (by_itself.told if stays else None, first_prompt_told(config.loop, chosen_by))
    return tuple(line for line in lines if line is not None)


def _folders(config: RunConfig) -> tuple[ModelFolder, ModelFolder]:
    return (
        model_folders.find_generator(config.generator.name),
        model_folders.find_critic(config.critic.name),
    )


def _choosing(loop: LoopConfig, generator: ModelFolder, critic: ModelFolder, digest: Digest) -> Choosing:
    paths = {"generator": generator.path, "critic": critic.path}
    return choosing(loop.gain, selectors=loop.selectors, digest=digest, **paths)


def _questions(
    config: RunConfig, spec: VideoSpec, only: Sequence[str] | None
) -> tuple[tuple[Scenario, ...], dict[str, str], tuple[Path, ...]]:
    """Scenarios, why some are unusable, and what of the dataset was opened to know that."""
    if config.dataset == NO_DATASET:
        return (), {}, ()
    boundary.require_apart(config.dataset, config.out)
    with boundary.watch(config.dataset, own=config.out) as watch:
        dataset = open_dataset(config.dataset)
        scenarios = wanted(dataset.scenarios(spec.fps), config, only)
        refused = dict(refusals(dataset, scenarios, spec))
    if only is None and len(refused) == len(scenarios):
        first = next(iter(refused.values()), None)
        raise DatasetError(
            f"no scenario of {config.dataset} is usable: {first.problem if first else 'it holds none'}",
            fix=first.fix if first else "give another dataset",
        )
    return scenarios, {name: str(error) for name, error in refused.items()}, watch.paths()


class _Outlines:
    """The models of two folders without weights, by the settings that change them; each is made once."""

    def __init__(
        self, generator: ModelFolder, critic: ModelFolder, device: str, dtype: str, card: Card | None
    ) -> None:
        self._folders = generator, critic
        self._place = device, dtype
        self._capability = None if card is None else card.capability
        self._made: dict[object, Any] = {}

    def generator(self, config: RunConfig) -> tuple[Any, exported.Exported | None]:
        """And the exported form that stands in for its denoiser, if any."""
        lent = lends(config, *self._folders)
        key = (config.generator, config.denoise, *_places(config).items(), lent, keeps_states(config))
        if key not in self._made:
            folder, (device, dtype) = self._folders[0], self._place
            outline: Any = load_generator(
                config,
                folder,
                device,
                dtype,
                with_weights=False,
                capability=self._capability,
                lends=lent,
            )
            self._made[key] = outline, _exported_form(config, folder, outline, device)
        found: tuple[Any, exported.Exported | None] = self._made[key]
        return found

    def footprints(self, config: RunConfig) -> dict[str, Footprint]:
        outline, _ = self.generator(config)
        device, dtype = self._place
        lent = tower_for(config, self._folders, outline)
        key = (config.critic, replies_at_once(config, device), id(lent))
        if key not in self._made:
            self._made[key] = load_critic(
                config, self._folders[1], device, dtype, with_weights=False, tower=lent
            )
        critic = self._made[key]
        return {"generator": footprint_of(outline, config.loop), "critic": critic.footprint(outline.spec)}


def _exported_form(
    config: RunConfig, found: ModelFolder, outline: Any, device: str
) -> exported.Exported | None:
    form = exported.find(config.denoise, found.path, outline, device)
    if form is None:
        return None
    if config.generator.loras:
        raise ConfigError(
            "an exported denoiser cannot take generator.loras: its weights are built in",
            fix="export it with `retake export --lora`, or leave --denoiser or --lora out",
        )
    outline.denoiser_bytes, outline.scratch_bytes = form.num_bytes, form.scratch_bytes
    return form


def load(prepared: Prepared, loaded: MutableMapping[str, int] | None = None) -> tuple[Generator, Critic]:
    """Read the weights of both models onto the device. `loaded` gets the bytes that each took of a GPU."""
    loaded = {} if loaded is None else loaded
    if prepared.device == "cpu":
        use_threads(num_threads())
    config, arguments = prepared.config, (prepared.device, prepared.dtype)
    enforce_budget(prepared.device, config.memory.vram)
    before = allocated_bytes(prepared.device)
    form = exported.load(prepared.exported, config.denoise, prepared.device)
    folders = prepared.generator, prepared.critic
    with phase("generator"):
        generator = load_generator(
            config, folders[0], *arguments, with_weights=True, form=form, lends=lends(config, *folders)
        )
    between = allocated_bytes(prepared.device)
    tower = tower_for(config, folders, generator)
    with phase("critic"):
        critic = load_critic(
            config, folders[1], *arguments, with_weights=True, takes=generator.spec, tower=tower
        )
    loaded["generator"], loaded["critic"] = between - before, allocated_bytes(prepared.device) - between
    return generator, critic


def load_generator(
    config: RunConfig,
    found: ModelFolder,
    device: str,
    dtype: str,
    *,
    with_weights: bool,
    form: exported.Loaded | None = None,
    capability: tuple[int, int] | None = None,
    lends: bool = False,
) -> Generator:
    """The generator of a checked folder with the settings of `config`; without weights it is an outline.
    `lends`: the critic is to read by its text tower."""
    family: Any = found.loader()
    loras = read_loras(config.generator.loras)
    with _LOADING:
        generator: Any = family.load(
            found.path,
            device=device,
            dtype=dtype,
            num_inference_steps=config.generator.steps,
            guidance_scale=config.generator.guidance_scale,
            loras=loras,
            denoise=config.denoise.settings(),
            cache=cache_folder() / "kernels",
            with_weights=with_weights,
            exported=None if form is None else form.assembled,
            streamed=[part for part, place in _places(config).items() if place == STREAMED],
            capability=capability,
            **({"lends": True} if lends else {}),
            **({"states": True} if keep_states_of(found, config) else {}),
        )
    generator.notes.update({f"{kind} file": what for kind, what in linked_parts(found.path).items()})
    if (grid := grid_of(loras)) is not None:
        generator.notes["steps of a LoRA"] = f"{grid.timesteps}, {grid.timesteps_are}"
    if form is not None:
        generator.notes.update(form.notes)
    made: Generator = generator
    return made


def _places(config: RunConfig) -> dict[str, str]:
    """Where each part of a generator lies that need not be on the device."""
    memory = config.memory
    return {"text_encoder": memory.text_encoder, "blocks": memory.blocks, "experts": memory.experts}


def load_critic(
    config: RunConfig,
    found: ModelFolder,
    device: str,
    dtype: str,
    *,
    with_weights: bool,
    takes: VideoSpec | None = None,
    tower: Any = None,
) -> Critic:
    """The critic of a checked folder with the settings of `config`, for `takes`. `tower`: of the generator,
    by which it reads."""
    family: Any = found.loader()
    with _LOADING:
        critic: Critic = family.load(
            found.path,
            device=device,
            dtype=dtype,
            quantization=config.critic.quantization,
            patches=config.critic.critique_form == PATCH,
            with_weights=with_weights,
            replies=replies_at_once(config, device),
            takes=takes,
            **({} if tower is None else {"tower": tower}),
            **({} if config.critic.sure is None else {"sure": config.critic.sure}),
            **({} if config.critic.plan_samples is None else {"plan_samples": config.critic.plan_samples}),
        )
    return critic


def lends(config: RunConfig, generator: ModelFolder, critic: ModelFolder) -> bool:
    """Whether the critic reads by the generator's text tower: one folder is both, and the critic has no
    weights of fewer bits, which would be its own."""
    return generator.path == critic.path and generator.lends and config.critic.quantization == "none"


def tower_for(config: RunConfig, folders: tuple[ModelFolder, ModelFolder], generator: Any) -> Any:
    """What the critic reads by of the generator; None: by weights of its own.

    Raises ConfigError where it would read by a second copy of the same weights.
    """
    if not lends(config, *folders):
        return None
    tower = generator.reasoner
    if tower is None:
        raise ConfigError(
            "memory.text_encoder is streamed, but the critic of the same folder reads by that tower too",
            fix='set critic.quantization = "nf4", for weights of its own, or leave the tower on the device',
        )
    return tower


def replies_at_once(config: RunConfig, device: str) -> int:
    """How many plans and critiques are written side by side. A GPU reads the weights once for all of them; a
    CPU gains nothing, and the first would only be ready later."""
    schedule = config.schedule
    return min(schedule.replies, schedule.ahead) if schedule.overlap and device == "cuda" else 1


def refinement_policy(
    config: RunConfig, generator: Generator, gain: GainModel | None = None
) -> RefinementPolicy:
    given = config.generator.negative
    negative = generator.negative_prompt if given is None else given
    loop = config.loop
    if loop.unreadable == AUTO:
        loop = replace(loop, unreadable=CHOOSE if is_benchmark(config.dataset) else LEAVE)
    return RefinementPolicy(settings=loop, negative=negative, gain=gain)
