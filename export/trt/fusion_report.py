"""What an engine's forms give away: for each attention and 8-bit product the kernels it has, and likely why.

Judges nothing: a gate fails a build, this says what to look at. Invariant: every fused attention and every
8-bit product of a profile is in exactly one line; a cause is named only where a kernel or a tensor shows it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engine.words import counted
from export.trt.fusion_costs import (
    ATTENTION,
    BOOL_MASK,
    BY_NAME,
    ESTABLISHED_WITH,
    GROUPED,
    MASK,
    PRODUCT,
    Cost,
)
from export.trt.layer_table import LayerTable, Row

EIGHT_BITS = ("fp8", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """Parts of an engine that are alike. expected: kernels of the plainest form; found: of each of these."""

    part: str
    profile: int
    count: int
    expected: int
    found: int
    causes: tuple[str, ...]
    kernels: tuple[str, ...]
    """Of the first of them."""

    def __str__(self) -> str:
        several = f"{self.count} x {self.part}"
        if self.found <= self.expected:
            return f"{several}: {counted(self.found, 'kernel')}, the least there is"
        why = "; ".join(self.causes) or "copies into other layouts"
        return f"{several}: {counted(self.found, 'kernel')} where {self.expected} would do: {why}"


def report(table: LayerTable) -> tuple[Fusion, ...]:
    """Every attention and 8-bit product of every profile, those alike together."""
    found: list[Fusion] = []
    for profile in range(table.num_profiles):
        rows = table.of_profile(profile)
        graph = _Graph(rows)
        single = [_attention(row, graph, profile) for row in rows if row.is_fused_attention]
        single += [_product(row, graph, profile) for row in rows if _is_eight_bit(row)]
        found += _together(single)
    return tuple(found)


def record(fusions: Iterable[Fusion], version: str) -> dict[str, Any]:
    """As JSON values, with the library versions of the engine and of the numbers it is compared with."""
    return {
        "library": version,
        "established_with": ESTABLISHED_WITH,
        "fusions": [asdict(one) for one in fusions],
        "lines": [str(one) for one in fusions],
    }


class _Graph:
    """Who makes and who reads each tensor."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.makers: Mapping[str, Row] = {tensor.name: row for row in rows for tensor in row.outputs}
        self.readers: dict[str, list[Row]] = {}
        for row in rows:
            for tensor in row.inputs:
                self.readers.setdefault(tensor.name, []).append(row)

    def before(self, row: Row) -> list[Row]:
        """All that leads to the row, back to the nearest products, which are the last of it."""
        found: dict[str, Row] = {}
        pending = [tensor.name for tensor in row.inputs]
        while pending:
            maker = self.makers.get(pending.pop())
            if maker is None or maker.name in found or maker.is_fused_attention:
                continue
            found[maker.name] = maker
            if not maker.multiplies:
                pending += [tensor.name for tensor in maker.inputs]
        return list(found.values())

    def directly_before(self, row: Row) -> list[Row]:
        makers = (self.makers.get(tensor.name) for tensor in row.inputs)
        return [maker for maker in makers if maker is not None and not _is_product(maker)]

    def directly_behind(self, row: Row) -> list[Row]:
        """Readers that are no products, each once."""
        readers = (reader for tensor in row.outputs for reader in self.readers.get(tensor.name, []))
        return list({reader.name: reader for reader in readers if not _is_product(reader)}.values())


def _attention(row: Row, graph: _Graph, profile: int) -> Fusion:
    leading = graph.before(row)
    around = [*leading, row, *graph.directly_behind(row)]
    # the mask of an FP8 attention stays in the model's type
    ((dtype, _),) = Counter(tensor.dtype for tensor in row.inputs).most_common(1)
    return Fusion(
        part=f"attention in {dtype}",
        profile=profile,
        count=1,
        expected=ATTENTION,
        found=len(around),
        causes=tuple(
            f"{cost.form} ({cost.kernels} kernels in 16 bits; {cost.instead})"
            for cost in _causes(row, leading)
        ),
        kernels=tuple(one.name for one in around),
    )


def _causes(attention: Row, leading: Sequence[Row]) -> list[Cost]:
    heads = math.prod(attention.outputs[0].dims[:-2])
    values = [tensor for tensor in attention.inputs if not tensor.dtype.startswith("int")]
    fewer = [tensor for tensor in values if math.prod(tensor.dims[:-2]) < heads]
    seen = [cost for cost in BY_NAME if cost.names and any(cost.names.search(row.name) for row in leading)]
    if len(values) > 3 and BOOL_MASK not in seen:
        seen.append(MASK)
    if len(fewer) > 1:
        seen.append(GROUPED)
    return seen


def _product(row: Row, graph: _Graph, profile: int) -> Fusion:
    around = [*graph.directly_before(row), row, *graph.directly_behind(row)]
    apart = len(around) > PRODUCT
    return Fusion(
        part=f"product in {row.inputs[0].dtype}",
        profile=profile,
        count=1,
        expected=PRODUCT,
        found=len(around),
        causes=("no epilogue in 8 bits: what quantizes, and what adds the bias, is apart",) if apart else (),
        kernels=tuple(one.name for one in around),
    )


def _together(single: Sequence[Fusion]) -> list[Fusion]:
    alike: dict[tuple[Any, ...], list[Fusion]] = {}
    for one in single:
        alike.setdefault((one.part, one.found, one.causes), []).append(one)
    return [
        Fusion(
            part=first.part,
            profile=first.profile,
            count=len(group),
            expected=first.expected,
            found=first.found,
            causes=first.causes,
            kernels=first.kernels,
        )
        for group in alike.values()
        for first in group[:1]
    ]


def _is_eight_bit(row: Row) -> bool:
    return row.is_gemm and bool(row.inputs) and row.inputs[0].dtype in EIGHT_BITS


def _is_product(row: Row) -> bool:
    return row.multiplies or row.is_fused_attention
