"""The engine's layer table, read from the verbose log of its builder.

With DETAILED verbosity the builder prints one line for each kernel; an engine inspector would say the same
but needs a GPU that runs the engine. Knows no expectation. Invariant: a log without a table is an error and
never an empty one. Element types carry the names of `export.spec` (fp8, int8, fp16, ...).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from export.spec import ExportError

_DTYPES = {
    "Half": "fp16",
    "FP16": "fp16",
    "BFloat16": "bf16",
    "BF16": "bf16",
    "Float": "fp32",
    "FP32": "fp32",
    "FP8": "fp8",
    "Int8": "int8",
    "INT8": "int8",
    "Int4": "int4",
    "INT4": "int4",
    "FP4": "fp4",
    "FP4E2M1": "fp4",
    "Int32": "int32",
    "Int64": "int64",
    "Bool": "bool",
}
_NOT_KERNELS = ("signal", "wait")
"""Rows that order streams; their number depends on how many streams the builder used."""

_ROW = re.compile(r"(?:^|\] )Name: (?P<name>.*?), LayerType: (?P<type>\w+)(?P<rest>.*)$")
_SECTION = re.compile(r", (Inputs|Constants|Outputs|TacticName|StreamId|Metadata): ")
_TENSOR = re.compile(
    r"Name: (?P<name>.*?), (?:Location: \w+, )?Dimensions: \[(?P<dims>[-\d,]*)\].*?Datatype: (?P<dtype>\w+)"
)
_PROFILE = re.compile(r"\[profile (\d+)\]")
_REGION = re.compile(r"_myl(\d+)_\d+$")
_ACTIVATION = re.compile(r"Total Activation Memory: (\d+) bytes")
_WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableTensor:
    name: str
    dims: tuple[int, ...]
    dtype: str

    @property
    def num_matrix_dims(self) -> int:
        """Dimensions that are not 1: a weight has two, a scale at most one."""
        return sum(dim > 1 for dim in self.dims)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kernel of the engine."""

    name: str
    type: str
    inputs: tuple[TableTensor, ...]
    constants: tuple[TableTensor, ...]
    outputs: tuple[TableTensor, ...]
    tactic: str
    profile: int

    @property
    def is_fused_attention(self) -> bool:
        return re.search(r"(^_gemm_mha|fmha|_mha_v\d)", self.name) is not None

    @property
    def has_weight(self) -> bool:
        return any(tensor.num_matrix_dims >= 2 for tensor in self.constants)

    @property
    def is_gemm(self) -> bool:
        return self.type == "gemm"

    @property
    def multiplies(self) -> bool:
        """A GEMM, also one that the runtime fuses with what follows ("Fc" in the kernel's name)."""
        return self.is_gemm or (self.type == "runtime_fusion" and ("Fc" in self.name or self.has_weight))

    @property
    def is_softmax(self) -> bool:
        return not self.is_fused_attention and all(part in self.name for part in ("Max", "Exp", "Sum"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTable:
    """`activation_bytes` has one entry for each profile; weights are shared by all."""

    rows: tuple[Row, ...]
    activation_bytes: tuple[int, ...]
    weights_bytes: int

    @property
    def num_profiles(self) -> int:
        return len(self.activation_bytes)

    def of_profile(self, index: int) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.profile == index)

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "activation_bytes": list(self.activation_bytes),
            "weights_bytes": self.weights_bytes,
            "summary": [summary(self, index) for index in range(self.num_profiles)],
        }


def summary(table: LayerTable, profile: int) -> dict[str, Any]:
    """Counts of one profile: what a person looks at first, and what the tests state."""
    rows = table.of_profile(profile)
    attention = [row for row in rows if row.is_fused_attention]
    gemms: dict[str, int] = {}
    for row in rows:
        if row.multiplies and not row.is_fused_attention and row.inputs:
            kind = f"{row.type} {row.inputs[0].dtype}"
            gemms[kind] = gemms.get(kind, 0) + 1
    intermediate = [tensor for row in rows for tensor in row.outputs]
    largest = max(intermediate, key=lambda tensor: math.prod(tensor.dims), default=None)
    return {
        "rows": len(rows),
        "fused_attention": len(attention),
        "fused_attention_inputs": sorted({tensor.dtype for row in attention for tensor in row.inputs}),
        "fused_attention_outputs": sorted({tensor.dtype for row in attention for tensor in row.outputs}),
        "matrix_products": dict(sorted(gemms.items())),
        "largest_output": None if largest is None else [list(largest.dims), largest.dtype],
        "activation_bytes": table.activation_bytes[profile],
    }


def parse(lines: Iterable[str]) -> LayerTable:
    """The table in a builder's log. Raises ExportError when the log holds none, or not its memory totals."""
    found: list[tuple[re.Match[str], str]] = []
    activation_bytes: list[int] = []
    weights_bytes: int | None = None
    for line in lines:
        if match := _ACTIVATION.search(line):
            activation_bytes.append(int(match[1]))
        elif match := _WEIGHTS.search(line):
            weights_bytes = int(match[1])
        elif ", LayerType: " in line and (match := _ROW.search(line.rstrip("\n"))):
            found.append((match, line))
    if not found or not activation_bytes or weights_bytes is None:
        problem = (
            f"the build log has {len(found)} layer rows, {len(activation_bytes)} activation totals and "
            f"{'a' if weights_bytes is not None else 'no'} weights total"
        )
        raise ExportError(problem, fix="this library version prints another log: report it with the log")
    profiles = _profile_of_region(found)
    rows = [_row(match, line, profiles) for match, line in found]
    return LayerTable(
        rows=tuple(row for row in rows if row.type not in _NOT_KERNELS),
        activation_bytes=tuple(activation_bytes),
        weights_bytes=weights_bytes,
    )


def _profile_of_region(found: list[tuple[re.Match[str], str]]) -> dict[str, int]:
    """Compiled region -> profile. Only rows with a tensor of the graph name it; a region has one."""
    profiles: dict[str, int] = {}
    for match, line in found:
        region, profile = _REGION.search(match["name"]), _PROFILE.search(line)
        if region and profile:
            profiles[region[1]] = int(profile[1])
    return profiles


def _row(match: re.Match[str], line: str, profiles: dict[str, int]) -> Row:
    parts = _SECTION.split(match["rest"])
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    region, profile = _REGION.search(match["name"]), _PROFILE.search(line)
    named = int(profile[1]) if profile else None
    return Row(
        name=match["name"],
        type=match["type"],
        inputs=_tensors(sections.get("Inputs", "")),
        constants=_tensors(sections.get("Constants", "")),
        outputs=_tensors(sections.get("Outputs", "")),
        tactic=sections.get("TacticName", "").strip(),
        profile=named if named is not None else profiles.get(region[1], 0) if region else 0,
    )


def _tensors(text: str) -> tuple[TableTensor, ...]:
    return tuple(
        TableTensor(
            name=match["name"],
            dims=tuple(int(dim) for dim in match["dims"].split(",") if dim),
            dtype=_DTYPES.get(match["dtype"], match["dtype"].lower()),
        )
        for match in _TENSOR.finditer(text)
    )
