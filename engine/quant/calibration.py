"""Offline calibration: the error of 8-bit layers on real inputs, and the policy that follows from it.

The unmodified module runs real denoise trajectories; beside each layer its 8-bit twin gets the same input,
so that a bad layer shows where it is. Knows no sampler: the caller says which timestep it is.
M rows . K input features . [B, A, N, D] of attention
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.quant import accumulation
from engine.quant.attention_error import LAYOUTS, Projected, outputs, reason_against
from engine.quant.linears import FP8_FULL_ACCUM, KERNELS, QuantizedLinear
from engine.quant.precision_policy import ATTENTION, KINDS, LINEAR, Policy, PolicyEntry
from engine.quant.surgery import linear_of
from kernels.fused import row_quant
from kernels.fused.formats import FP8

FORMATS = tuple(KERNELS)
NUM_COLUMNS = 64
"""Output features of an FP8 layer, evenly spaced, whose sums are modelled product by product."""
NUM_TRAIN_TIMESTEPS = 1000.0

Read = Callable[[Any, tuple[Any, ...], dict[str, Any]], Projected]
"""(self-attention, its arguments, keyword arguments) -> q, k, v; each family has its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """How far one layer in one format is from itself in full precision, at one timestep."""

    layer: str
    kind: str  # "linear" or "attention"
    format: str
    timestep: float
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
    fast_accumulation: float = 1.1
    """How many times as large fast accumulation may make the error of an FP8 layer. The error as a whole does
    not show it where an outlier makes most of the output: what is lost is all the rest."""

    def admits(self, error: LayerError) -> bool:
        if error.kind == LINEAR:
            return error.relative_error <= self.linear_relative_error and error.cosine >= self.linear_cosine
        return error.relative_error <= self.attention_relative_error and error.cosine >= self.attention_cosine

    def admits_fast(self, error: LayerError, full: float | None) -> bool:
        """`full`: the relative error of the same layer with full accumulation; None where it has no other."""
        return full is None or error.relative_error <= self.fast_accumulation * full


class _Sums:
    """Squares and dot products of all pairs so far: the error over every scene, not the mean of errors."""

    def __init__(self) -> None:
        self.difference = self.actual = self.exact = self.product = 0.0

    def add(self, actual: Tensor, exact: Tensor) -> None:
        a, b = actual.double().flatten(), exact.double().flatten()
        self.difference += float((a - b).square().sum())
        self.actual += float(a.square().sum())
        self.exact += float(b.square().sum())
        self.product += float(a @ b)

    def found(self) -> tuple[float, float]:
        """(cosine, relative error); an exact output of zeros must be met exactly."""
        if self.exact == 0.0:
            return (1.0, 0.0) if self.difference == 0.0 else (0.0, float("inf"))
        size = (self.actual * self.exact) ** 0.5
        return (self.product / size if size else 0.0), (self.difference / self.exact) ** 0.5


def compare(actual: Tensor, exact: Tensor) -> tuple[float, float]:
    """(cosine, relative error) of two tensors as vectors."""
    sums = _Sums()
    sums.add(actual, exact)
    return sums.found()


class Meter:
    """Measures between `with meter:` and its end; set `timestep` and `prefix_tokens` before each forward.

    Takes about `num_rows` evenly spaced rows (or queries) of each call, adds up the calls at one timestep,
    and holds the 8-bit twins of the linear layers and no activation.
    """

    def __init__(
        self,
        module: nn.Module,
        linears: Sequence[str],
        attentions: Sequence[str] = (),
        *,
        read: Read | None = None,
        formats: Sequence[str] = FORMATS,
        num_rows: int = 128,
    ) -> None:
        assert read is not None or not attentions, "attentions are measured, but not how to read them"
        self.timestep = NUM_TRAIN_TIMESTEPS
        self.prefix_tokens = 0
        self._linears = {name: linear_of(module, name) for name in linears}
        self._attentions = {name: module.get_submodule(name) for name in attentions}
        self._twins = {
            (name, rounding): QuantizedLinear.from_linear(layer, rounding)
            for name, layer in self._linears.items()
            for rounding in dict.fromkeys(KERNELS[format].FORMAT for format in formats)
        }
        self._read, self._formats, self._num_rows = read, tuple(formats), num_rows
        self._sums: dict[tuple[str, str, str, float], _Sums] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Meter:
        for name, layer in self._linears.items():
            self._hooks.append(layer.register_forward_pre_hook(self._linear_hook(name)))
        for name, attention in self._attentions.items():
            hook = self._attention_hook(name)
            self._hooks.append(attention.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def errors(self) -> list[LayerError]:
        """By kind, layer and format, the noisiest timestep first."""
        found = []
        for (kind, layer, format, timestep), sums in self._sums.items():
            cosine, relative = sums.found()
            found.append(
                LayerError(
                    layer=layer,
                    kind=kind,
                    format=format,
                    timestep=timestep,
                    cosine=cosine,
                    relative_error=relative,
                )
            )
        return sorted(found, key=_place)

    def _linear_hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        layer = self._linears[name]

        @torch.no_grad()
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            rows = args[0].detach().flatten(0, -2)
            rows = rows[:: max(1, len(rows) // self._num_rows)]  # [M, K]
            bias = None if layer.bias is None else layer.bias.float()
            exact = F.linear(rows.float(), layer.weight.float(), bias)
            columns = torch.arange(
                0, exact.shape[1], max(1, exact.shape[1] // NUM_COLUMNS), device=rows.device
            )
            for format in self._formats:
                twin = self._twins[name, KERNELS[format].FORMAT]
                if twin.input_format == FP8.name:
                    actual = _fp8_columns(twin, rows, columns, fast=format != FP8_FULL_ACCUM)
                    self._add(LINEAR, name, format, actual, exact[:, columns])
                else:
                    self._add(LINEAR, name, format, twin(rows), exact)

        return hook

    def _attention_hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        @torch.no_grad()
        def hook(attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            assert self._read is not None
            given = replace(self._read(attention, args, kwargs), prefix=self.prefix_tokens)
            exact = outputs(given, None, self._num_rows)
            eight_bit = dict.fromkeys(KERNELS[format].FORMAT for format in self._formats)
            for format in (*eight_bit, *LAYOUTS):
                if reason_against(exact.shape[-1], format) is None:
                    self._add(ATTENTION, name, format, outputs(given, format, self._num_rows), exact)

        return hook

    def _add(self, kind: str, name: str, format: str, actual: Tensor, exact: Tensor) -> None:
        key = (kind, name, format, self.timestep)
        self._sums.setdefault(key, _Sums()).add(actual, exact)


def _fp8_columns(layer: QuantizedLinear, rows: Tensor, columns: Tensor, *, fast: bool) -> Tensor:
    """fp32 [M, n]: some outputs of an FP8 layer for rows [M, K], summed as its GEMM sums on every GPU."""
    x8, x_scale = row_quant.run(rows, quantize=layer.input_format)
    found = accumulation.sums(x8.float(), layer.weight.float()[columns], fast=fast)
    found *= x_scale * layer.scale[columns]
    return found if layer.bias is None else found + layer.bias[columns].float()


def choose(errors: Iterable[LayerError], budget: Budget, *, source: str, producer: str) -> Policy:
    """Every format that the budget admits, per layer.

    A linear layer has one format for all timesteps, as its weights are stored once: its worst one counts.
    "fp8" is with fast accumulation, which must cost little beside "fp8_full_accum". Attention is admitted by
    ranges of timesteps: between two measured ones the nearer decides.
    """
    table: dict[tuple[str, str, str], dict[float, bool]] = {}
    errors = list(errors)
    full = {(e.layer, e.timestep): e.relative_error for e in errors if e.format == FP8_FULL_ACCUM}
    for error in errors:
        assert error.kind in KINDS, f"kind {error.kind!r} is not one of {', '.join(KINDS)}"
        steps = table.setdefault((error.kind, error.layer, error.format), {})
        fast = error.kind == LINEAR and error.format == FP8.name
        steps[error.timestep] = budget.admits(error) and (
            not fast or budget.admits_fast(error, full.get((error.layer, error.timestep)))
        )
    entries = []
    for (kind, layer, format), steps in table.items():
        if kind == LINEAR:
            ranges = [(0.0, NUM_TRAIN_TIMESTEPS)] if all(steps.values()) else []
        else:
            ranges = _ranges(steps)
        entries += [
            PolicyEntry(layer=layer, kind=kind, format=format, low=low, high=high) for low, high in ranges
        ]
    return Policy(source=source, producer=producer, entries=tuple(entries))


def _ranges(admitted: dict[float, bool]) -> list[tuple[float, float]]:
    """Timestep -> admitted or not, as ranges of admitted ones, the noisiest first; to both ends of time."""
    times = sorted(admitted, reverse=True)
    edges = [NUM_TRAIN_TIMESTEPS, *((a + b) / 2 for a, b in itertools.pairwise(times)), 0.0]
    ranges = []
    for good, group in itertools.groupby(range(len(times)), key=lambda index: admitted[times[index]]):
        run = list(group)
        if good:
            ranges.append((edges[run[-1] + 1], edges[run[0]]))
    return ranges


def _place(error: LayerError) -> tuple[Any, ...]:
    """By kind, layer (block 10 after block 9), format and timestep."""
    parts = [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in error.layer.split(".")]
    return error.kind, parts, error.format, -error.timestep
