"""Every setting of a run, once: default, allowed values, option and help stand beside the field.

The command line (commands/_options.py), the TOML reader and docs/settings.md are made from it. Does not know
what a setting does. Invariant: an instance is valid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.settings.fields import Setting, entries, same_setting, section, setting, validate
from engine.settings.loop import BRIEF, PAPER
from engine.settings.loop import LoopConfig as LoopConfig
from engine.settings.model_names import added_model
from engine.settings.notation import is_hub_name, shard_of
from engine.settings.presets import AUTO_PRESET, EXACT, POLICIES, PRESETS, DenoiseSettings
from engine.settings.selectors import DEVICES, SelectorsConfig
from engine.settings.toml import Table, from_table, put, read_table, rename, to_toml

BUNDLED = "demo"
DTYPES = ("auto", "fp32", "bf16", "fp16")
QUANTIZATIONS = ("none", "nf4", "int8")
FULL, PATCH = "full", "patch"
EXPORT_TARGETS = ("onnx", "tensorrt", "tensorrt-rtx", "aoti")
MACHINE = "Machine"
DEVICE, STREAMED = "device", "streamed"
PLACES = (DEVICE, STREAMED)
RENAMED = {
    "denoise.low_attention": "denoise.quantized_attention",
    "denoise.low_first": "denoise.quantized_first",
    "denoise.low_last": "denoise.quantized_last",
}
"""Old names of settings, which TOML may still have: run folders outlive them."""
LACKED = {"loop.first_prompt": (PAPER, BRIEF)}
"""Settings that run folders of older versions do not have: the loop that they are of, and what was done then,
so that a run ends as it began."""
BY_MODEL = "by model folder"
NO_DATASET = Path("/\0")
"""Stands in for a dataset where only memory is planned. No setting can name it, since paths hold no NUL."""


def _part(name: str) -> Any:
    """A part of the denoiser, which None leaves to the preset."""
    return same_setting(DenoiseSettings, name, None, unset="by preset")


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorConfig:
    name: str = setting(
        BUNDLED,
        option="--generator",
        metavar="NAME_OR_DIR",
        help="The video model: demo, which is bundled, a diffusers folder, a name given with `retake models "
        "add`, or one on the hub that was downloaded.",
    )
    steps: int | None = setting(None, low=1, high=1000, unset=BY_MODEL, help="Denoise steps of a take.")
    guidance_scale: float | None = setting(
        None, low=1.0, high=50.0, unset=BY_MODEL, help="Guidance scale; 1 switches guidance off."
    )
    negative: str | None = setting(None, unset=BY_MODEL, metavar="TEXT", help="Negative prompt.")
    loras: tuple[str, ...] = setting(
        (),
        option="--lora",
        metavar="FILE[:STRENGTH],...",
        unset="none",
        help="LoRA files merged into the transformer, each with its strength, 1 unless given. Of two "
        "transformers each says which: high=FILE (noisy steps), low=FILE or both=FILE.",
    )

    def __post_init__(self) -> None:
        validate(self, "generator")


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiseConfig:
    """How fast at what cost. `presets.DenoiseSettings` declares the parts."""

    preset: str = setting(
        AUTO_PRESET,
        choices=(AUTO_PRESET, *PRESETS),
        help="How fast at what cost. exact: the library's own forward; fast: ours, 8 bits where this device "
        "gains by them; fastest: fewer guided and predicted steps too; auto: fast on a GPU that has room for "
        "it, else exact, as for the bundled generator. The other settings are laid over it.",
    )
    engine: str = setting(
        "",
        unset="none",
        option="--denoiser",
        metavar="DIR_OR_TARGET",
        help="An artifact of retake export in place of the module: its folder, or onnx, aoti, tensorrt or "
        "tensorrt-rtx for the newest that fits. It needs preset exact.",
    )
    allow_fallback: bool = setting(
        False, help="Where that artifact cannot be had, use the module, with a warning instead of an error."
    )
    forward: str | None = _part("forward")
    attention: tuple[str, ...] | None = _part("attention")
    quantized_attention: tuple[str, ...] | None = _part("quantized_attention")
    quantized_first: float | None = _part("quantized_first")
    quantized_last: float | None = _part("quantized_last")
    linear: str | None = _part("linear")
    policy: str | None = _part("policy")
    element_wise: str | None = _part("element_wise")
    compile: str | None = _part("compile")
    graphs: str | None = _part("graphs")
    vae: str | None = _part("vae")
    vae_chunk: int | None = _part("vae_chunk")
    prefix_kept: float | None = _part("prefix_kept")
    cfg_gate: float | None = _part("cfg_gate")
    step_cache: float | None = _part("step_cache")
    step_cache_by: str | None = _part("step_cache_by")
    early_stop: float | None = _part("early_stop")

    def __post_init__(self) -> None:
        validate(self, "denoise")

    def settings(self) -> DenoiseSettings:
        """The preset with the parts that were given laid over it; auto is exact until a run has a device."""
        parts = {entry.name: getattr(self, entry.name) for entry in fields(DenoiseSettings)}
        given = {name: value for name, value in parts.items() if value is not None}
        preset = EXACT if self.preset == AUTO_PRESET else self.preset
        return dataclasses.replace(PRESETS[preset], **given)


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticConfig:
    name: str = setting(
        BUNDLED,
        option="--critic",
        metavar="NAME_OR_DIR",
        help="The vision-language model: demo, which is bundled, a transformers folder, a name given with "
        "`retake models add`, or one on the hub that was downloaded.",
    )
    quantization: str = setting("none", choices=QUANTIZATIONS, help="Format of the critic's weights.")
    critique_form: str = setting(
        FULL,
        choices=(FULL, PATCH),
        help="How a critique revises the plan. full: it writes all of it again, as the bundled critic has "
        "learned to; patch: the fields that change, which is shorter, for critics that take instructions.",
    )
    sure: float | None = setting(
        None,
        low=0,
        high=1,
        unset=BY_MODEL,
        help="How sure the critic must be of a fact of its plan: motions, events and rests whose words were "
        "less likely to it are left out, since a wrong fact in a prompt can cost more than a missing one. 0 "
        "keeps all; 0.95 keeps what it hardly doubts. A plan keeps its surest fact at least.",
    )
    plan_samples: int | None = setting(
        None,
        low=1,
        high=64,
        unset=BY_MODEL,
        help="Plans that the critic writes of a prefix, all but one of them sampled. The one is used that "
        "agrees best with the others: what the critic reads well stands in all of them. Each costs a reply.",
    )

    def __post_init__(self) -> None:
        validate(self, "critic")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    overlap: bool = setting(True, help="Judge one scenario while another is generated.")
    ahead: int = setting(8, low=1, high=64, help="Scenarios in flight at the same time.")
    replies: int = setting(
        8, low=1, high=16, help="Plans and critiques that the critic writes side by side on a GPU."
    )

    def __post_init__(self) -> None:
        validate(self, "schedule")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """What the plan has to go by, and where what does not fit lies instead."""

    vram: str = setting(
        "",
        unset="what is free",
        metavar="SIZE",
        help="Memory of the device that the run may take, such as 24GiB; on a GPU the allocator keeps to it.",
    )
    fit: str = setting(
        "auto",
        choices=("auto", "refuse"),
        help="What becomes of a run that does not fit. auto: what saves memory at the least cost is set, "
        "told, and noted in its config.toml; refuse: an error that names it.",
    )
    text_encoder: str = setting(
        DEVICE, choices=PLACES, help="Where the text encoder lies. streamed: on the host, layer by layer."
    )
    blocks: str = setting(
        DEVICE,
        choices=PLACES,
        help="Where the blocks of the generator lie; streamed needs the library's forward.",
    )
    experts: str = setting(
        DEVICE,
        choices=PLACES,
        help="Where the two transformers of a generator such as Wan2.2-A14B lie. streamed: both on the host, "
        "and on the device the one at work.",
    )

    def __post_init__(self) -> None:
        validate(self, "memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One run. `dataset` and `out` are absolute once they come from `load_config`."""

    dataset: Path = field(
        metadata={
            "setting": Setting(positional=True, help="A Physics-IQ folder, or a folder of your own clips.")
        }
    )
    out: Path = field(metadata={"setting": Setting(unset="a new one in runs/", help="Run folder to make.")})
    model: str = setting(
        "", unset="two folders", metavar="NAME_OR_DIR", help="Generator and critic in one; each wins over it."
    )
    limit: int | None = setting(None, low=1, unset="all", help="Only the first scenarios.")
    shard: str | None = setting(
        None,
        unset="all",
        metavar="K/N",
        help="Only the K-th of N parts of the dataset: one run for each GPU or process, then retake merge.",
    )
    device: str = setting(
        "auto", choices=DEVICES, panel=MACHINE, help="Where models run; auto: on the GPU where there is one."
    )
    dtype: str = setting(
        "auto", choices=DTYPES, panel=MACHINE, help="Format of weights and activations; auto: by the device."
    )
    generator: GeneratorConfig = section(
        GeneratorConfig, title="Generator", help="The model that makes the takes."
    )
    denoise: DenoiseConfig = section(
        DenoiseConfig, title="Denoising", help="How fast the generator denoises, at what cost."
    )
    critic: CriticConfig = section(CriticConfig, title="Critic", help="The model that plans and judges.")
    loop: LoopConfig = section(
        LoopConfig, title="Loop", help="How often a take is made again, and which one is kept."
    )
    selectors: SelectorsConfig = section(
        SelectorsConfig, title="Selectors", help="Through what selectors look at takes."
    )
    schedule: ScheduleConfig = section(
        ScheduleConfig, title=MACHINE, help="How the work is laid out on the machine."
    )
    memory: MemoryConfig = section(
        MemoryConfig, title="Memory", help="How much memory models may take, and where they lie."
    )

    def __post_init__(self) -> None:
        validate(self, "")
        if self.shard is not None:
            shard_of(self.shard)


def load_config(
    file: Path | None,
    overrides: Mapping[str, object],
    *,
    default_out: Path | None = None,
    needs_dataset: bool = True,
) -> RunConfig:
    """Settings of `file` (TOML) with `overrides` (dotted keys; None means not given) laid over them.

    `default_out` stands in where neither names `out`, NO_DATASET for a dataset that is not needed. Raises
    ConfigError: no such file, not TOML, unknown key, wrong type, value out of range, no dataset.
    """
    table = {} if file is None else _read(file)
    for key, value in overrides.items():
        if value is not None:
            put(table, key, value)
    if default_out is not None:
        table.setdefault("out", str(default_out))
    if not needs_dataset:
        table.setdefault("dataset", str(NO_DATASET))
    if model := table.pop("model", None):
        for part in ("generator", "critic"):
            if "name" not in table.setdefault(part, {}):
                put(table, f"{part}.name", model)
    return _absolute(from_table(RunConfig, table))


def read_config(run: Path) -> RunConfig:
    """The resolved settings of a run folder; ConfigError where it lacks them.

    `out` is the folder itself, wherever it has been moved to.
    """
    path = run / "config.toml"
    if not path.is_file():
        raise ConfigError(
            f"{run} lacks {path.name}, in which the settings of a run are kept",
            fix="put the file back from a copy of the run, or start a new run",
        )
    table = _read(path)
    table["out"] = str(run)
    loop = table.setdefault("loop", {})
    for key, (method, value) in LACKED.items():
        if loop.get("method", PAPER) == method:
            loop.setdefault(key.removeprefix("loop."), value)
    return _absolute(from_table(RunConfig, table))


def write_config(config: RunConfig, path: Path) -> None:
    path.write_text(to_toml(config), encoding="utf-8")


def settings() -> Iterator[str]:
    """Every dotted key that exists: "dataset", "generator.steps", ..."""
    return (entry.key for entry in entries(RunConfig))


def _read(path: Path) -> Table:
    table = read_table(path)
    rename(table, RENAMED)
    return table


def _absolute(config: RunConfig) -> RunConfig:
    """Paths that still hold when the run is resumed from another working directory."""

    def folder(name: str, *names: str) -> str:
        return name if name in ("", BUNDLED, *names) else str(Path(name).expanduser().absolute())

    def model(name: str) -> str:
        if Path(name).is_dir():
            return folder(name)
        added = added_model(name)
        return str(added) if added else name if is_hub_name(name) else folder(name)

    engine, policy = folder(config.denoise.engine, *EXPORT_TARGETS), config.denoise.policy
    policy = policy and folder(policy, *POLICIES)
    return dataclasses.replace(
        config,
        dataset=config.dataset.expanduser().absolute(),
        out=config.out.expanduser().absolute(),
        generator=dataclasses.replace(config.generator, name=model(config.generator.name)),
        denoise=dataclasses.replace(config.denoise, engine=engine, policy=policy),
        critic=dataclasses.replace(config.critic, name=model(config.critic.name)),
        selectors=dataclasses.replace(
            config.selectors,
            vjepa=folder(config.selectors.vjepa),
            image_encoder=folder(config.selectors.image_encoder),
            states_probe=folder(config.selectors.states_probe),
        ),
    )
