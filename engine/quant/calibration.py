"""Offline calibration: the error of 8-bit layers on real inputs, and the policy that follows from it.

Inputs are recorded from real denoise trajectories of the unmodified module. The policy (bf16, 8-bit, 8-bit
with skip; per layer and range of steps) is a file beside the model. Knows no sampler: the caller says which
step it is. M rows · K input features.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import ModelError
from engine.quant.linears import QuantizedLinear
from engine.quant.surgery import linear_of

SCHEMA = 1
FULL = "bf16"
KINDS = ("linear", "attention")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """How far one layer in one format is from itself in full precision, at one step."""

    layer: str
    kind: str  # "linear" or "attention"
    format: str
    step: int  # 0 is the noisiest
    cosine: float
    relative_error: float  # Frobenius norm of the difference over that of the exact output


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a layer may lose to be 8-bit. The defaults admit the rounding of E4M3 itself (0.037 for a linear
    layer, 0.054 for attention of normal inputs) and refuse layers whose outliers make it half as large
    again."""

    linear_relative_error: float = 0.055
    linear_cosine: float = 0.998
    attention_relative_error: float = 0.08
    attention_cosine: float = 0.996

    def admits(self, error: LayerError) -> bool:
        if error.kind == "linear":
            return error.relative_error <= self.linear_relative_error and error.cosine >= self.linear_cosine
        return error.relative_error <= self.attention_relative_error and error.cosine >= self.attention_cosine


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEntry:
    """The format of one layer from `first_step` to `last_step`, both included."""

    layer: str
    kind: str
    format: str
    first_step: int
    last_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a calibration decided. `source` is the digest of the weights it was measured on."""

    source: str
    num_steps: int
    entries: tuple[PolicyEntry, ...]

    def linear_formats(self) -> dict[str, str]:
        """Layer -> format, as `surgery.quantize_linears` takes it."""
        return {entry.layer: entry.format for entry in self.entries if entry.kind == "linear"}

    def attention_format(self, layer: str, step: int, num_steps: int) -> str:
        """The format at a step of a schedule of any length; bf16 for a layer that was not measured."""
        assert 0 <= step < num_steps, f"step {step} of {num_steps}"
        known = step * self.num_steps // num_steps
        for entry in self.entries:
            inside = entry.first_step <= known <= entry.last_step
            if inside and entry.kind == "attention" and entry.layer == layer:
                return entry.format
        return FULL

    def save(self, path: Path) -> None:
        document = {"schema": SCHEMA, **asdict(self)}
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Reads what `save` wrote; raises ModelError for anything else."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["schema"] != SCHEMA:
                raise ValueError(f"schema {document['schema']}, this version reads {SCHEMA}")
            entries = tuple(PolicyEntry(**entry) for entry in document["entries"])
            return cls(source=document["source"], num_steps=document["num_steps"], entries=entries)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"policy {path} is not usable: {error}", fix="delete it and calibrate again"
            ) from error


class InputRecorder:
    """Keeps evenly spaced rows of the inputs of some linear layers; set `step` before each step.

    Records between `with recorder:` and its end, one entry per layer and step: the last call at a step wins.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], *, rows_per_step: int = 512) -> None:
        self.step = 0
        self.inputs: dict[tuple[str, int], Tensor] = {}  # [M, K] on the CPU
        self._rows = rows_per_step
        self._layers = {name: linear_of(module, name) for name in names}
        self._hooks: list[Any] = []

    def __enter__(self) -> InputRecorder:
        for name, layer in self._layers.items():

            def keep(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                rows = args[0].detach().reshape(-1, args[0].shape[-1])
                self.inputs[name, self.step] = rows[:: max(1, len(rows) // self._rows)].cpu()

            self._hooks.append(layer.register_forward_pre_hook(keep))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def compare(actual: Tensor, exact: Tensor) -> tuple[float, float]:
    """(cosine, relative error) of two tensors as vectors; an exact output of zeros must be met exactly."""
    a, b = actual.double().flatten(), exact.double().flatten()
    difference, size = float((a - b).norm()), float(b.norm())
    if size == 0.0:
        return (1.0, 0.0) if difference == 0.0 else (0.0, float("inf"))
    return float(F.cosine_similarity(a, b, dim=0)), difference / size


@torch.no_grad()
def measure_linears(
    module: nn.Module, inputs: Mapping[tuple[str, int], Tensor], formats: Sequence[str]
) -> list[LayerError]:
    """The errors of each recorded layer in each format, against its own weights in fp32."""
    errors = []
    for format in formats:
        for layer, group in itertools.groupby(sorted(inputs), key=lambda key: key[0]):
            linear = linear_of(module, layer)
            quantized = QuantizedLinear.from_linear(linear, format)
            bias = None if linear.bias is None else linear.bias.float()
            for _, step in group:
                x = inputs[layer, step].to(linear.weight.device)
                exact = F.linear(x.float(), linear.weight.float(), bias)
                cosine, relative = compare(quantized(x.to(linear.weight.dtype)), exact)
                errors.append(
                    LayerError(
                        layer=layer,
                        kind="linear",
                        format=format,
                        step=step,
                        cosine=cosine,
                        relative_error=relative,
                    )
                )
    return errors


def choose(
    errors: Iterable[LayerError],
    budget: Budget,
    *,
    fastest_first: Sequence[str],
    source: str,
    num_steps: int,
) -> Policy:
    """Per layer the first format of `fastest_first` that the budget admits, else bf16.

    A linear layer has one format for all steps, as its weights are stored once: its worst step counts.
    Attention is chosen per step, equal neighbours joined. A step that was not measured takes the choice of
    the one before.
    """
    table: dict[tuple[str, str], dict[int, dict[str, LayerError]]] = {}
    for error in errors:
        assert error.kind in KINDS, f"kind {error.kind!r} is not one of {', '.join(KINDS)}"
        table.setdefault((error.kind, error.layer), {}).setdefault(error.step, {})[error.format] = error
    entries: list[PolicyEntry] = []
    for (kind, layer), steps in sorted(table.items()):
        choices = {step: _admitted(found, budget, fastest_first) for step, found in steps.items()}
        if kind == "linear":
            common = [
                name for name in fastest_first if all(name in admitted for admitted in choices.values())
            ]
            runs = [(common[0] if common else FULL, 0, num_steps - 1)]
        else:
            runs = _runs({step: (names or [FULL])[0] for step, names in choices.items()}, num_steps)
        entries += [
            PolicyEntry(layer=layer, kind=kind, format=format, first_step=first, last_step=last)
            for format, first, last in runs
        ]
    return Policy(source=source, num_steps=num_steps, entries=tuple(entries))


def _admitted(found: Mapping[str, LayerError], budget: Budget, order: Sequence[str]) -> list[str]:
    return [name for name in order if name in found and budget.admits(found[name])]


def _runs(choices: Mapping[int, str], num_steps: int) -> list[tuple[str, int, int]]:
    """Step -> format as (format, first step, last step); steps before the first measured one are bf16."""
    filled, last = [], FULL
    for step in range(num_steps):
        last = choices.get(step, last)
        filled.append(last)
    runs = []
    for format, group in itertools.groupby(range(num_steps), key=lambda step: filled[step]):
        steps = list(group)
        runs.append((format, steps[0], steps[-1]))
    return runs
