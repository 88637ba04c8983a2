"""What must be true of a built engine, checked on its layer table: a fusion that is lost fails the build.

Knows neither library nor subject. Invariant: every gate that is asked for is checked for every profile, and a
failed one names what was expected and what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.words import counted
from export.spec import ExportError, Gate
from export.trt.fusion_report import report
from export.trt.layer_table import LayerTable, Row, summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One gate on one profile; profile None stands for the whole engine."""

    name: str
    profile: int | None
    expected: str
    found: str
    passed: bool


def check(table: LayerTable, gate: Gate, *, max_weights_bytes: int) -> tuple[Check, ...]:
    """Every gate's result, passed or not."""
    checks = [
        _check(
            "weight memory",
            None,
            f"at most {max_weights_bytes} bytes",
            f"{table.weights_bytes} bytes",
            table.weights_bytes <= max_weights_bytes,
        )
    ]
    for profile in range(table.num_profiles):
        checks += _check_profile(table, gate, profile)
    return tuple(checks)


def require(checks: Sequence[Check], table: LayerTable) -> None:
    """ExportError that lists the gates that failed, and what the engine looks like."""
    failed = [one for one in checks if not one.passed]
    if failed:
        listed = "\n".join(
            f"  {one.name}{'' if one.profile is None else f' (profile {one.profile})'}: "
            f"expected {one.expected}, found {one.found}"
            for one in failed
        )
        shown = "\n".join(
            f"  profile {index}: {summary(table, index)}" for index in range(table.num_profiles)
        )
        fused = "\n".join(dict.fromkeys(f"  {one}" for one in report(table)))
        raise ExportError(
            f"the engine was built, but {len(failed)} of {counted(len(checks), 'gate')} failed, so it was "
            "not kept:\n"
            f"{listed}\nlayer table:\n{shown}\nwhat was fused:\n{fused or '  neither attention nor 8 bits'}",
            fix="the graph or the library version fuses other kernels than were established: build with the "
            "library version that the project tests, or export another recipe",
        )


def _check_profile(table: LayerTable, gate: Gate, profile: int) -> list[Check]:
    rows = table.of_profile(profile)
    checks = _check_attention(rows, gate, profile)
    for name, number, dtype in (
        ("FP8 matrix products", gate.num_fp8_gemm, "fp8"),
        ("INT8 matrix products", gate.num_int8_gemm, "int8"),
    ):
        if number is not None:
            checks.append(_equal(name, profile, number, len(_gemms(rows, dtype))))
    if gate.merged_qkv:
        apart = unmerged(rows)
        checks.append(_check("merged QKV", profile, "all", f"apart: {', '.join(apart) or 'none'}", not apart))
    if gate.max_activation_bytes is not None:
        used = table.activation_bytes[profile]
        limit = gate.max_activation_bytes
        checks.append(
            _check("activation memory", profile, f"at most {limit} bytes", f"{used} bytes", used <= limit)
        )
    return checks


def _check_attention(rows: Sequence[Row], gate: Gate, profile: int) -> list[Check]:
    """A subject without attention that can be fused (num_fused_attention 0) may hold scores in memory."""
    attention = [row for row in rows if row.is_fused_attention]
    count = _equal("fused attention kernels", profile, gate.num_fused_attention, len(attention))
    if not gate.num_fused_attention:
        return [count]
    wanted = gate.fused_attention_dtype
    # Three inputs, not all: the mask of an FP8 attention stays in the model's type.
    others = [row.name for row in attention if sum(t.dtype == wanted for t in row.inputs) < 3]
    buffers = score_buffers(rows)
    found = f"otherwise: {', '.join(others) or 'none'}"
    return [
        count,
        _check("fused attention inputs", profile, f"q, k and v in {wanted}", found, not others),
        _check("no S x S buffer", profile, "none", ", ".join(buffers) or "none", not buffers),
    ]


def score_buffers(rows: Sequence[Row]) -> list[str]:
    """Names of rows that hold attention scores in memory, of whatever size.

    Either a softmax of its own, or a GEMM of two activations: only attention multiplies those, and when it
    is fused its kernel does so inside.
    """
    return [
        row.name
        for row in rows
        if not row.is_fused_attention
        and (row.is_softmax or (row.multiplies and not row.has_weight and len(row.inputs) >= 2))
    ]


def unmerged(rows: Sequence[Row]) -> list[str]:
    """GEMMs that feed the same attention and read the same tensor, but were not made one."""
    producers = {tensor.name: row for row in rows for tensor in row.outputs}
    apart: dict[str, None] = {}
    for attention in (row for row in rows if row.is_fused_attention):
        gemms = _nearest_gemms(attention, producers)
        readers: dict[str, list[str]] = {}
        for row in gemms:
            readers.setdefault(row.inputs[0].name, []).append(row.name)
        for names in readers.values():
            apart.update(dict.fromkeys(names if len(names) > 1 else []))
    return list(apart)


def _nearest_gemms(row: Row, producers: dict[str, Row]) -> list[Row]:
    """The GEMMs on each path back from `row`, the first one of every path."""
    found: dict[int, Row] = {}
    seen: set[int] = set()
    pending = [tensor.name for tensor in row.inputs]
    while pending:
        source = producers.get(pending.pop())
        if source is None or id(source) in seen:
            continue
        seen.add(id(source))
        if source.multiplies and not source.is_fused_attention:
            found[id(source)] = source
        elif not source.is_fused_attention:
            pending += [tensor.name for tensor in source.inputs]
    return list(found.values())


def _gemms(rows: Sequence[Row], dtype: str) -> list[Row]:
    return [row for row in rows if row.is_gemm and row.inputs and row.inputs[0].dtype == dtype]


def _equal(name: str, profile: int, expected: int, found: int) -> Check:
    return _check(name, profile, str(expected), str(found), expected == found)


def _check(name: str, profile: int | None, expected: str, found: str, passed: bool) -> Check:
    return Check(name=name, profile=profile, expected=expected, found=found, passed=passed)
