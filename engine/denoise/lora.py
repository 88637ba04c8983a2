"""LoRA files merged into weights: W += strength * alpha / rank * B A, and W += strength * diff.

A fast forward has no adapters: weights are merged, then quantized or built into an engine. Knows no model
class; a family says by which other names its modules go (`aliases`). Invariant: every tensor of a file is
used, or nothing is changed; names are not guessed.
R rank . I input features . O output features. LoRA: Hu et al. 2021 (arXiv 2106.09685).
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from engine.denoise.lora_alpha import Alpha, config_beside, read_alpha
from engine.denoise.lora_grid import Grid, read_grid, sidecar_of
from engine.errors import ConfigError, ModelError, nearest
from engine.weights.header import SAFETENSORS, read_header
from engine.words import counted
from kernels.files import file_digest

PREFIXES = ("transformer.", "base_model.model.", "diffusion_model.", "lora_unet_")
"""What trainers put before the names of the module; one of them, or none, for a whole file. The last is
kohya's, whose names have underscores for dots."""

TEXT_ENCODERS = ("lora_te", "text_encoder")
"""How names of a text encoder's part begin."""

BOTH_EXPERTS = "both"
EXPERT_PREFIXES = ("high", "low", BOTH_EXPERTS)
"""What may stand before a file, with an equals sign: the experts of `engine.denoise.experts`, or both."""

_PART = re.compile(
    r"^(?P<target>.+)\.(?P<part>lora_A|lora_B|lora_down|lora_up|alpha|diff_b|diff)(\.default)?(\.weight)?$"
)
_ROLE = {
    "lora_A": "down",
    "lora_down": "down",
    "lora_B": "up",
    "lora_up": "up",
    "alpha": "alpha",
    "diff": "weight",
    "diff_b": "bias",
}
_LOW_RANK = frozenset({"down", "up", "alpha"})

AnyModule = TypeVar("AnyModule", bound=nn.Module)
Place = tuple[str, str]
"""A name in the file, and "weight" or "bias"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """The change of one linear: down [R, I], up [O, R]."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def factor(self) -> float:
        return self.alpha / self.down.shape[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """One file. `updates` by the name of the linear, `deltas` by that of a module or parameter: what is added
    to its "weight" or "bias". Names are the file's, without its prefix."""

    name: str
    digest: str
    strength: float
    updates: Mapping[str, Update]
    deltas: Mapping[Place, Tensor] = field(default_factory=dict)
    expert: str = ""
    """Of EXPERT_PREFIXES, for which of two transformers it is meant; "": it does not say."""
    grid: Grid | None = None
    """What stands beside the file of the steps that it was distilled for."""


def read_loras(entries: Sequence[str]) -> tuple[Lora, ...]:
    """From FILE or FILE:STRENGTH each, after "high=", "low=" or "both=" where there are two transformers.
    Raises ModelError as `read_lora`."""
    return tuple(
        dataclasses.replace(read_lora(path, strength), expert=expert)
        for expert, path, strength in map(_entry, entries)
    )


def for_expert(loras: Sequence[Lora], expert: str, experts: Sequence[str]) -> tuple[Lora, ...]:
    """Those of one of the transformers. ConfigError for one that does not say which, or that says so of a
    model with one alone (`experts` is then one empty name)."""
    for lora in loras:
        if len(experts) == 1 and lora.expert:
            raise ConfigError(
                f"{lora.name} is given for the expert {lora.expert!r}, and this model has one transformer",
                fix=f"give it without {lora.expert}=",
            )
        if len(experts) > 1 and not lora.expert:
            raise ConfigError(
                f"{lora.name} does not say for which of two transformers it is",
                fix=f"give {'=FILE or '.join((*experts, BOTH_EXPERTS))}=FILE",
            )
    chosen = [lora for lora in loras if lora.expert in (expert, BOTH_EXPERTS)]
    return tuple(dataclasses.replace(lora, expert="") for lora in chosen)


def lora_files(entries: Sequence[str]) -> tuple[Path, ...]:
    """The files alone."""
    return tuple(path for _, path, _ in map(_entry, entries))


def lora_marks(entries: Sequence[str], digests: Sequence[str]) -> tuple[str, ...]:
    """What each does to weights, in a line: for which expert, the sha256 of its file, and its strength."""
    return tuple(
        f"{expert or 'all'} {digest} {strength:g}"
        for (expert, _, strength), digest in zip(map(_entry, entries), digests, strict=True)
    )


def aliases_of(names: Iterable[str], other: Callable[[str], str] = str) -> dict[str, str]:
    """Other spellings -> name: what `other` makes of it, and both with underscores for dots, as kohya writes.

    A spelling that two names share is left out.
    """
    spelled: dict[str, set[str]] = {}
    for name in names:
        for spelling in {other(name), other(name).replace(".", "_"), name.replace(".", "_")}:
            spelled.setdefault(spelling, set()).add(name)
    return {spelling: found.pop() for spelling, found in spelled.items() if len(found) == 1}


def lora_digest(path: Path, digest: Callable[[Path], str]) -> str:
    """Of a file and of what stands beside it and says how it is used."""
    beside = [one for one in (config_beside(path), sidecar_of(path)) if one is not None and one.is_file()]
    return "+".join(digest(one) for one in (path, *beside))


def read_lora(path: Path, strength: float = 1.0) -> Lora:
    """The updates in a safetensors file; ModelError when it is unreadable, incomplete or no plain LoRA, or as
    `read_grid` and `read_alpha`."""
    grid = read_grid(path)
    try:
        if (header := read_header(path)).format != SAFETENSORS:
            raise ModelError(f"{path} is {header.format}, no LoRA file", fix="give a safetensors file")
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is not a LoRA file: {error}", fix="give a safetensors file") from error
    found = lora_of(
        tensors,
        path.name,
        digest=f"sha256:{lora_digest(path, file_digest)}",
        strength=strength,
        default_alpha=read_alpha(path, metadata),
    )
    return dataclasses.replace(found, grid=grid)


def lora_of(
    tensors: Mapping[str, Tensor],
    name: str,
    *,
    digest: str = "",
    strength: float = 1.0,
    default_alpha: Alpha | None = None,
) -> Lora:
    """Of the tensors of a file. Alpha is the file's for a linear, else `default_alpha`, else the rank."""
    default_alpha = default_alpha or Alpha()
    parts: dict[str, dict[str, Tensor]] = {}
    strange = []
    for key, tensor in tensors.items():
        match = _PART.match(key)
        if match is None:
            strange.append(key)
            continue
        found, role = parts.setdefault(match["target"], {}), _ROLE[match["part"]]
        if role in found:
            raise ModelError(
                f"{name} has two tensors {role} for {match['target']}, one is {key}",
                fix="give a file with one adapter",
            )
        if tensor.is_complex() or not (tensor.is_floating_point() or role == "alpha"):
            raise ModelError(f"{name}: {key} is {tensor.dtype}", fix="give a LoRA in 16 or 32 bits")
        if not torch.isfinite(tensor.float()).all():
            raise ModelError(f"{name}: {key} is not finite", fix="give a LoRA whose training ended well")
        found[role] = tensor
    if strange or not parts:
        raise ModelError(
            f"{name} is no plain LoRA: {', '.join(strange[:3]) or 'it is empty'}"
            f"{f' and {len(strange) - 3} more' if len(strange) > 3 else ''}",
            fix="give a file of lora_A and lora_B (or lora_down and lora_up) pairs, and of changes of weights"
            " and biases (.diff, .diff_b); LoHa and DoRA are not merged",
        )
    if texts := [target for target in parts if target.startswith(TEXT_ENCODERS)]:
        raise ModelError(
            f"{name} also changes {counted(len(texts), 'part')} of a text encoder, among them {texts[0]}",
            fix="give a file with the transformer's part alone: what is trained beside it is not merged",
        )
    prefix = next((p for p in PREFIXES if all(target.startswith(p) for target in parts)), "")
    return Lora(
        name=name,
        digest=digest,
        strength=strength,
        updates={
            target.removeprefix(prefix): _update(found, target, name, default_alpha)
            for target, found in parts.items()
            if not _LOW_RANK.isdisjoint(found)
        },
        deltas={
            (target.removeprefix(prefix), role): tensor
            for target, found in parts.items()
            for role, tensor in found.items()
            if role not in _LOW_RANK
        },
    )


def merged(module: AnyModule, loras: Sequence[Lora], aliases: Mapping[str, str] | None = None) -> AnyModule:
    """A copy of `module` with every update added, in the order given. `module` itself is not changed."""
    return merge_into(copy.deepcopy(module), loras, aliases)


def merge_into(
    module: AnyModule, loras: Sequence[Lora], aliases: Mapping[str, str] | None = None
) -> AnyModule:
    """As `merged`, in place, for where memory holds no two copies. Names are checked before any change.

    aliases: other tools' names -> those of the module or parameter here.
    """
    loras = for_expert(loras, "", ("",))
    checked = [_placed(lora, module, aliases or {}) for lora in loras]
    for lora, places in zip(loras, checked, strict=True):
        with torch.no_grad():
            for name, update in lora.updates.items():
                # in fp32: the product of two bf16 matrices has more digits than the sum would keep
                change = update.up.float() @ update.down.float() * (lora.strength * update.factor)
                _add(places[name, "weight"], change)
            for place, delta in lora.deltas.items():
                _add(places[place], delta.float() * lora.strength)
    return module


def check_names(module: nn.Module, loras: Sequence[Lora], aliases: Mapping[str, str] | None = None) -> None:
    """ModelError where `merge_into` would raise one; the module may have shapes only."""
    for lora in for_expert(loras, "", ("",)):
        _placed(lora, module, aliases or {})


def lora_key(loras: Sequence[Lora]) -> tuple[tuple[str, float], ...]:
    """What of them belongs into the key of an artifact."""
    return tuple((lora.digest, lora.strength) for lora in loras)


def _add(parameter: nn.Parameter, change: Tensor) -> None:
    parameter.copy_((parameter.float() + change.to(parameter.device)).to(parameter.dtype))


def _placed(lora: Lora, module: nn.Module, aliases: Mapping[str, str]) -> dict[Place, nn.Parameter]:
    """The parameter that each change of the file is added to, by its names there."""
    linears = {name for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    parameters = dict(module.named_parameters())

    def named(name: str, role: str) -> str | None:
        """Of the parameter; a table that is no module's weight goes by its own name."""
        for own in (name, aliases.get(name, name)):
            if f"{own}.{role}" in parameters:
                return f"{own}.{role}"
            if role == "weight" and own in parameters:
                return own
        return None

    changes: list[tuple[str, str, tuple[int, ...]]] = [
        (name, "weight", (update.up.shape[0], update.down.shape[1])) for name, update in lora.updates.items()
    ]
    changes += [(name, role, tuple(delta.shape)) for (name, role), delta in lora.deltas.items()]
    found: dict[Place, nn.Parameter] = {}
    unknown, taken = [], set()
    for place, (name, role, shape) in enumerate(changes):
        own, is_low_rank = named(name, role), place < len(lora.updates)
        if own is None or (is_low_rank and own.removesuffix(".weight") not in linears):
            unknown.append(name)
            continue
        if (own, is_low_rank) in taken:
            raise ModelError(
                f"{lora.name} changes {own} twice, once as {name}", fix="give a file with one adapter"
            )
        taken.add((own, is_low_rank))
        wanted = tuple(parameters[own].shape)
        if shape != wanted:
            raise ModelError(
                f"{lora.name}: the update of {name} is {list(shape)}, its {role} {list(wanted)}",
                fix="give a LoRA that was trained for a model of this size",
            )
        found[name, role] = parameters[own]
    if unknown:
        known = [*(part for part, _ in module.named_modules()), *aliases]
        raise ModelError(
            f"{lora.name} changes {counted(len(unknown), 'part')} that {type(module).__name__} does not "
            f"have, among them {unknown[0]}{nearest(unknown[0], known)}",
            fix="give a LoRA of this model, in the names of diffusers, its publisher or kohya",
        )
    return found


def _update(found: Mapping[str, Tensor], target: str, name: str, default_alpha: Alpha) -> Update:
    down, up = found.get("down"), found.get("up")
    if down is None or up is None:
        missing = "lora_A" if down is None else "lora_B"
        raise ModelError(f"{name} has no {missing} for {target}", fix="copy or download the file again")
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1] or not down.shape[0]:
        raise ModelError(
            f"{name}: lora_A {list(down.shape)} and lora_B {list(up.shape)} of {target} do not pair",
            fix="give a LoRA of linear layers alone",
        )
    if "alpha" not in found:
        return Update(down=down, up=up, alpha=default_alpha.of_rank(down.shape[0]))
    if (alpha := found["alpha"]).numel() != 1:
        raise ModelError(
            f"{name}: the alpha of {target} is {list(alpha.shape)}, not one number",
            fix="copy or download the file again",
        )
    return Update(down=down, up=up, alpha=float(alpha))


def _entry(entry: str) -> tuple[str, Path, float]:
    """(expert, file, strength)"""
    head, equals, rest = entry.partition("=")
    expert, given = (head, rest) if equals and head in EXPERT_PREFIXES else ("", entry)
    name, colon, text = given.rpartition(":")
    try:
        strength = float(text) if colon else 1.0
    except ValueError:  # the colon is one of the name
        return expert, Path(given), 1.0
    if not math.isfinite(strength):
        raise ConfigError(f"{entry} has the strength {strength}", fix="give a finite number, such as 0.8")
    return expert, Path(name if colon else given), strength
