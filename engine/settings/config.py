"""Settings: nested frozen dataclasses from TOML and command line, exact keys, written back as TOML.

Does not know what a setting does. The invariant: an instance is valid, an unknown key an error,
and what is written reads back equal.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from engine.errors import ConfigError, nearest
from engine.settings.presets import (
    ELEMENT_WISE,
    FORWARDS,
    LINEARS,
    POLICIES,
    PRESETS,
    SWITCH,
    VAES,
    DenoiseSettings,
)
from engine.types import SelectorSettings

BUNDLED = "demo"
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "fp32", "bf16", "fp16")
QUANTIZATIONS = ("none", "nf4", "int8")
EXPORT_TARGETS = ("onnx", "tensorrt", "tensorrt-rtx", "aoti")


def _setting(
    default: Any, *, choices: tuple[str, ...] = (), low: float | None = None, high: float | None = None
) -> Any:
    """A field with its one default and its allowed values; `low` and `high` are inclusive."""
    return field(default=default, metadata={"choices": choices, "low": low, "high": high})


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorConfig:
    """None means: what the model folder recommends."""

    name: str = BUNDLED  # "demo" or a model folder
    steps: int | None = _setting(None, low=1, high=1000)
    guidance_scale: float | None = _setting(None, low=1.0, high=50.0)  # 1 is none
    negative: str | None = None

    def __post_init__(self) -> None:
        _validate(self, "generator")


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiseConfig:
    """How fast at what cost; None means: what the preset says. See presets.py for each part."""

    preset: str = _setting("exact", choices=tuple(PRESETS))
    engine: str = ""  # an exported form: its folder, or onnx, aoti, tensorrt, tensorrt-rtx: the newest of it
    allow_fallback: bool = False  # where that form cannot be had, use the module, with a warning
    forward: str | None = _setting(None, choices=FORWARDS)
    attention: tuple[str, ...] | None = None  # names of `retake kernels`, in the order they are tried
    quantized_attention: tuple[str, ...] | None = None  # 8-bit kernels for the middle noise levels; ["auto"]
    quantized_first: float | None = _setting(None, low=0.0, high=1.0)
    quantized_last: float | None = _setting(None, low=0.0, high=1.0)
    linear: str | None = _setting(None, choices=LINEARS)
    policy: str | None = None  # auto, off, or a file of bench.quality.policy_calibration
    element_wise: str | None = _setting(None, choices=ELEMENT_WISE)
    compile: str | None = _setting(None, choices=SWITCH)
    graphs: str | None = _setting(None, choices=SWITCH)
    vae: str | None = _setting(None, choices=VAES)
    cfg_gate: float | None = _setting(None, low=0.0, high=1.0)  # share of steps with both branches
    step_cache: float | None = _setting(None, low=0.0, high=0.5)  # share of steps that are extrapolated
    early_stop: float | None = _setting(None, low=0.0, high=1.0)  # change of the preview that ends a take

    def __post_init__(self) -> None:
        _validate(self, "denoise")

    def settings(self) -> DenoiseSettings:
        """The preset with the parts that were given laid over it."""
        parts = {entry.name: getattr(self, entry.name) for entry in fields(DenoiseSettings)}
        given = {name: value for name, value in parts.items() if value is not None}
        return dataclasses.replace(PRESETS[self.preset], **given)


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticConfig:
    name: str = BUNDLED
    quantization: str = _setting("none", choices=QUANTIZATIONS)

    def __post_init__(self) -> None:
        _validate(self, "critic")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    loops: int = _setting(4, low=0, high=64)  # refinement rounds after the first one
    samples: int = _setting(1, low=1, high=64)  # takes of each round, which differ in their seed
    patience: int = _setting(2, low=1, high=64)  # rounds without a better take before the loop ends
    distance_threshold: float = _setting(0.005, low=0.0, high=1.0)  # share of changed words
    accept_score: float = _setting(90.0, low=0.0, high=100.0)  # critic's score that ends the loop on accept
    only_incomplete: bool = False
    seed: int = _setting(0, low=0, high=2**31 - 1)
    selectors: tuple[str, ...] = ("critic_score",)

    def __post_init__(self) -> None:
        _validate(self, "loop")
        if not self.selectors:
            raise ConfigError("loop.selectors is empty", fix='name at least one, such as "critic_score"')


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorsConfig:
    """The frozen networks through which selectors look; an empty folder is the bundled model."""

    vjepa: str = ""
    image_encoder: str = ""
    device: str = _setting("auto", choices=DEVICES)  # auto: where the run is

    def __post_init__(self) -> None:
        _validate(self, "selectors")

    def on(self, device: str) -> SelectorSettings:
        """What selectors are built from in a run on `device`."""
        return SelectorSettings(
            vjepa=Path(self.vjepa) if self.vjepa else None,
            image_encoder=Path(self.image_encoder) if self.image_encoder else None,
            device=device if self.device == "auto" else self.device,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    overlap: bool = True
    ahead: int = _setting(4, low=1, high=64)  # scenarios in flight

    def __post_init__(self) -> None:
        _validate(self, "schedule")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One run. `dataset` and `out` are absolute once they come from `load_config`."""

    dataset: Path
    out: Path
    limit: int | None = _setting(None, low=1)
    shard: str | None = None  # "2/8": the second of eight parts of the dataset
    device: str = _setting("auto", choices=DEVICES)
    dtype: str = _setting("auto", choices=DTYPES)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    denoise: DenoiseConfig = field(default_factory=DenoiseConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    selectors: SelectorsConfig = field(default_factory=SelectorsConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        _validate(self, "")
        if self.shard is not None:
            shard_of(self.shard)


def load_config(
    file: Path | None, overrides: Mapping[str, object], *, default_out: Path | None = None
) -> RunConfig:
    """Settings of `file` (TOML) with `overrides` (dotted keys; None means not given) laid over them.

    `default_out` stands in where neither names `out`. Raises ConfigError: no such file, not TOML, unknown
    key, wrong type, value out of range, no dataset.
    """
    table = _read_toml(file) if file is not None else {}
    for key, value in overrides.items():
        if value is not None:
            *sections, leaf = key.split(".")
            target = table
            for section in sections:
                target = target.setdefault(section, {})
                if not isinstance(target, dict):
                    raise ConfigError(
                        f"{section} is {target!r}, not a table", fix=f"write [{section}] above its settings"
                    )
            target[leaf] = value
    if default_out is not None:
        table.setdefault("out", str(default_out))
    return _absolute(_build(RunConfig, table, ""))


def read_config(run: Path) -> RunConfig:
    """The resolved settings of a run folder. `out` is the folder itself, wherever it has been moved to."""
    table = _read_toml(run / "config.toml")
    table["out"] = str(run)
    return _absolute(_build(RunConfig, table, ""))


def write_config(config: RunConfig, path: Path) -> None:
    path.write_text(to_toml(config), encoding="utf-8")


def to_toml(config: RunConfig) -> str:
    """TOML of every setting; one that is None is left out, which reads back as None."""
    top: list[str] = []
    tables: list[str] = []
    for entry in fields(config):
        value = getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            lines = [_assignment(inner.name, getattr(value, inner.name)) for inner in fields(value)]
            tables.append("".join([f"\n[{entry.name}]\n", *lines]))
        else:
            top.append(_assignment(entry.name, value))
    return "".join(top + tables)


def shard_of(text: str) -> tuple[int, int]:
    """(part, parts) of "2/8", part from 1 on; ConfigError for anything else."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise ConfigError(
            f"shard is {text!r}, which is not a part such as 2/8",
            fix="give K/N with K from 1 to N: the K-th of N parts of the dataset",
        )
    return int(part), int(parts)


def settings(cls: type = RunConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key that exists: "dataset", "generator.steps", ..."""
    hints = get_type_hints(cls)
    for entry in fields(cls):
        if dataclasses.is_dataclass(hints[entry.name]):
            yield from settings(hints[entry.name], f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ConfigError(f"{path} is not a file", fix="give the path of a TOML file with settings") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}", fix="correct the file at the place named") from None


def _build(cls: type, table: Mapping[str, Any], prefix: str) -> Any:
    hints = get_type_hints(cls)
    known = {entry.name for entry in fields(cls)}
    for key in table:
        if key not in known:
            raise ConfigError(
                f"{prefix}{key} is not a setting{nearest(prefix + key, settings())}",
                fix="use one of: " + ", ".join(settings(cls, prefix)),
            )
    values: dict[str, Any] = {}
    for key, value in table.items():
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"{prefix}{key} is {value!r}, not a table", fix=f"write [{key}] above its settings"
                )
            values[key] = _build(hints[key], value, f"{prefix}{key}.")
        else:
            values[key] = _from_toml(value, hints[key])
    required = [e.name for e in fields(cls) if e.default is e.default_factory is dataclasses.MISSING]
    for key in required:
        if key not in values:
            raise ConfigError(
                f"{prefix}{key} is not set", fix=f"give {prefix}{key} on the command line or in TOML"
            )
    return cls(**values)


def _from_toml(value: Any, hint: Any) -> Any:
    """TOML has no paths and no tuples, and writes 5 for 5.0; `_validate` judges the rest."""
    if hint is Path and isinstance(value, str):
        return Path(value)
    if isinstance(value, list) and any(get_origin(choice) is tuple for choice in (hint, *get_args(hint))):
        return tuple(value)
    if float in (hint, *get_args(hint)) and type(value) is int:
        return float(value)
    return value


def _absolute(config: RunConfig) -> RunConfig:
    """Paths that still hold when the run is resumed from another working directory."""

    def folder(name: str, *names: str) -> str:
        return name if name in ("", BUNDLED, *names) else str(Path(name).expanduser().absolute())

    engine, policy = folder(config.denoise.engine, *EXPORT_TARGETS), config.denoise.policy
    policy = policy and folder(policy, *POLICIES)
    return dataclasses.replace(
        config,
        dataset=config.dataset.expanduser().absolute(),
        out=config.out.expanduser().absolute(),
        generator=dataclasses.replace(config.generator, name=folder(config.generator.name)),
        denoise=dataclasses.replace(config.denoise, engine=engine, policy=policy),
        critic=dataclasses.replace(config.critic, name=folder(config.critic.name)),
        selectors=dataclasses.replace(
            config.selectors,
            vjepa=folder(config.selectors.vjepa),
            image_encoder=folder(config.selectors.image_encoder),
        ),
    )


def _validate(section: Any, name: str) -> None:
    hints = get_type_hints(type(section))
    for entry in fields(section):
        key = f"{name}.{entry.name}" if name else entry.name
        value = getattr(section, entry.name)
        if not _has_type(value, hints[entry.name]):
            raise ConfigError(
                f"{key} is {value!r}, which is not {_spell(hints[entry.name])}",
                fix=f"give {key} as {_spell(hints[entry.name])}",
            )
        rule = entry.metadata
        if value is None or not rule:
            continue
        if rule["choices"] and value not in rule["choices"]:
            raise ConfigError(
                f"{key} is {value!r}{nearest(value, rule['choices'])}",
                fix=f"use one of: {', '.join(rule['choices'])}",
            )
        low, high = rule["low"], rule["high"]
        # `not (low <= value)` rather than `value < low`: NaN must be refused too.
        if (low is not None and not low <= value) or (high is not None and not value <= high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            raise ConfigError(f"{key} is {value!r}, out of range", fix=f"give a value {bounds}")


def _has_type(value: Any, hint: Any) -> bool:
    if get_origin(hint) is types.UnionType:
        return any(_has_type(value, choice) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(isinstance(item, get_args(hint)[0]) for item in value)
    if hint in (int, float) and isinstance(value, bool):  # isinstance(True, int) holds
        return False
    return isinstance(value, hint)


def _spell(hint: Any) -> str:
    if get_origin(hint) is types.UnionType:
        return " or ".join(_spell(choice) for choice in get_args(hint) if choice is not type(None))
    if get_origin(hint) is tuple:
        return "a list of names"
    if dataclasses.is_dataclass(hint):
        return "a table"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}[
        hint
    ]


def _assignment(key: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, tuple):
        text = f"[{', '.join(_quoted(item) for item in value)}]"
    elif isinstance(value, (str, Path)):
        text = _quoted(str(value))
    else:
        text = repr(value)
    return f"{key} = {text}\n"


def _quoted(text: str) -> str:
    """A TOML basic string. JSON escapes the same characters, except DEL, which TOML forbids raw."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
