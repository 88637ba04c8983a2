"""Attention alone: what is dense, what is sparse behind a prefix, and the parts of the latter."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.perf.past_dense.case import Case, Check, against
from kernels import dispatch, reference
from kernels.attention import (
    _comfy,
    _fa3,
    _prefix_sparse,
    comfy_sol,
    fa3,
    fa3_fp8,
    fa3_fp8_prefix_sparse,
    triton_prefix_sparse,
)
from kernels.attention._prefix_sparse import Layout
from kernels.descriptors import AttentionProblem, KernelError, Target

CHECKED_QUERIES = 128
DENSE = ("sdpa_cudnn", "fa3", "fa3_fp8", "triton_dense", "triton_int8", "comfy_int8")
ALLOWED = {"exact": 0.01, "8bit": 0.1, "sparse": 0.02}
"""Relative error to the formula of each: rounding to 16 bits, to E4M3, and to 16 bits again."""
EXACT_PREFIX = ("triton_prefix_sparse", "fa3_prefix_sparse")
FP8_PREFIX = "fa3_fp8_prefix_sparse"
ROUNDED = ", prefix in E4M3"
"""Rounded before it, as the inputs of the dense FP8 kernels that it is compared with."""
LAYOUTS = (
    triton_prefix_sparse.LAYOUT,
    Layout(query_block=128, key_block=128, ratio=0.25),
    Layout(query_block=128, key_block=64, ratio=0.125),
    Layout(query_block=128, key_block=128, ratio=0.125),
)


def problems(*, small: bool) -> list[AttentionProblem]:
    """Of Wan 1.3B at 480p, of its draft with two rows of guidance, and of Wan 14B, 8 of 21 frames prefix."""
    target = Target.of(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    sizes = [(1, 2, 700, 64, 300)] if small else [
        (1, 12, 32760, 128, 12480),
        (2, 12, 8190, 128, 3120),
        (1, 40, 32760, 128, 12480),
    ]  # fmt: skip
    return [
        AttentionProblem(
            batch=batch, heads=heads, q_len=tokens, kv_len=tokens, head_dim=size,
            dtype="fp32" if target.kind == "cpu" else "bf16", mask="none", target=target, prefix=prefix,
        )
        for batch, heads, tokens, size, prefix in sizes
    ]  # fmt: skip


def cases(problem: AttentionProblem, cache: Path) -> Iterator[Case]:
    q, k, v, options = dispatch.example(problem, seed=1)
    scale = options["scale"]
    rows = slice(None, None, max(1, problem.q_len // CHECKED_QUERIES))
    exact = functools.cache(lambda: reference.attention(q[:, :, rows], k, v, scale=scale))

    def picked(out: Tensor) -> Tensor:
        return out[:, :, rows]

    for name in DENSE:
        kernel = dispatch.load(name)
        yield Case(
            name=name,
            of=f"dense, {kernel.ACCURACY}" + (", inputs in E4M3" if hasattr(kernel, "quantize") else ""),
            make=functools.partial(_registered, name, problem, (q, k, v), options, cache),
            check=against(exact, picked),
            allowed=ALLOWED[kernel.ACCURACY],
        )
    for layout in LAYOUTS:
        formula = functools.partial(
            triton_prefix_sparse.plain, q, k, v, scale=scale, prefix=problem.prefix, rows=rows, layout=layout
        )
        check = _all(against(formula, picked), _named("error_to_exact", against(exact, picked)))
        for name in EXACT_PREFIX:
            yield Case(
                name=f"{name} {_told(layout)}",
                of="sparse, prefix exact",
                make=functools.partial(_sparse, name, problem, (q, k, v), scale, layout, cache),
                check=check,
                allowed=ALLOWED["sparse"],
            )
        for rounded in (True, False) if layout == LAYOUTS[0] else (True,):
            yield Case(
                name=f"{FP8_PREFIX} {_told(layout)}" + (ROUNDED if rounded else ""),
                of="sparse, prefix in FP8" + ("" if rounded else ", compiled with its rounding"),
                make=functools.partial(_fp8_prefix, problem, (q, k, v), scale, layout, cache, rounded),
                check=check,
                allowed=ALLOWED["8bit"],
            )
    yield from _sol(problem, (q, k, v), scale, picked, exact)
    yield from _parts(problem, (q, k, v), scale, rows)


def summary(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """How many times faster than FA3 in FP8, of the first problem and with the blocks that a run has: the
    fastest kernel with an exact prefix, and that with a prefix in FP8, rounded before it as for FA3."""
    name = f"attention {problems(small=False)[0]}"
    medians = {
        row["name"]: row["summary"]["median"]
        for row in groups.get(name, {"rows": ()})["rows"]
        if "summary" in row
    }
    told = _told(triton_prefix_sparse.LAYOUT)
    ours = {
        "attention_prefix_over_fa3_fp8": [f"{kernel} {told}" for kernel in EXACT_PREFIX],
        "attention_fp8_prefix_over_fa3_fp8": [f"{FP8_PREFIX} {told}{ROUNDED}"],
    }
    found = {key: [medians[row] for row in rows if row in medians] for key, rows in ours.items()}
    return {key: medians["fa3_fp8"] / min(ms) for key, ms in found.items() if ms and "fa3_fp8" in medians}


def _sol(
    problem: AttentionProblem,
    inputs: tuple[Tensor, Tensor, Tensor],
    scale: float,
    picked: Callable[[Tensor], Tensor],
    exact: Callable[[], Tensor],
) -> Iterator[Case]:
    """Right by the self-test alone: its choice of blocks is made in 8 bits, and not told."""
    blocks = -(-problem.prefix // comfy_sol.LAYOUT.key_block)
    for ratio, sink in ((0.25, 0), (0.125, 0), (0.25, blocks)):

        def make(ratio: float = ratio, sink: int = sink) -> Callable[[], Tensor]:
            _require(comfy_sol.supports(problem) or dispatch.self_test("comfy_sol", problem).failure)
            tokens_first = [x.transpose(1, 2) for x in inputs]
            return lambda: _comfy.sol_attention(*tokens_first, scale, ratio, sink).transpose(1, 2)

        yield Case(
            name=f"comfy_sol {ratio:g}" + (", prefix exact" if sink else ""),
            of="sparse in 8 bits",
            make=make,
            check=_named("error_to_exact", against(exact, picked)),
            allowed=0.0,
        )


def _parts(
    problem: AttentionProblem, inputs: tuple[Tensor, Tensor, Tensor], scale: float, rows: slice
) -> Iterator[Case]:
    """What fa3_prefix_sparse consists of."""
    q, k, v = inputs
    prefix, layout = problem.prefix, triton_prefix_sparse.LAYOUT

    def dense() -> Callable[[], Any]:
        _require(fa3.supports(problem))
        return lambda: _fa3.attend_with_lse(q, k[:, :, :prefix], v[:, :, :prefix], scale=scale)

    def expected() -> Tensor:
        return reference.attention(q[:, :, rows], k[:, :, :prefix], v[:, :, :prefix], scale=scale)

    def of_scores() -> Tensor:
        scores = q[:, :, rows].double() @ k[:, :, :prefix].double().transpose(2, 3) * scale
        return scores.logsumexp(3).float()

    def dense_fp8() -> Callable[[], Any]:
        _require(fa3_fp8.supports(problem))
        made = fa3_fp8_prefix_sparse.round_prefix(q, k, v, scale=scale, prefix=prefix)
        shift = made.shift

        def attend() -> tuple[Tensor, Tensor]:
            out, lse = _fa3.attend_with_lse(made.q, made.k, made.v, made.scales, scale=scale)
            return out, lse + shift

        return attend

    for name, make, accuracy in (
        ("fa3 over the prefix, with log-sum-exp", dense, "exact"),
        ("fa3_fp8 over the prefix, with log-sum-exp, inputs in E4M3", dense_fp8, "8bit"),
    ):
        yield Case(
            name=name,
            of=f"part of {FP8_PREFIX if accuracy == '8bit' else 'fa3_prefix_sparse'}",
            make=make,
            check=_all(
                against(expected, lambda found: found[0][:, :, rows]),
                _named("lse_error", against(of_scores, lambda found: found[1][:, :, rows])),
            ),
            allowed=ALLOWED[accuracy],
        )
    yield Case(
        name="choice of blocks, and means",
        of="part of both",
        make=lambda: lambda: _prefix_sparse.choose(q, k, v, prefix, layout),
        check=lambda found: {"chosen": float(found.chosen.float().mean())},
        allowed=0.0,
    )


def _registered(
    name: str,
    problem: AttentionProblem,
    inputs: tuple[Tensor, Tensor, Tensor],
    options: dict[str, Any],
    cache: Path,
) -> Callable[[], Any]:
    kernel = dispatch.load(name)
    _require(kernel.supports(problem) or dispatch.self_test(name, problem).failure)
    tiles = dispatch.tuned_tiles(name, problem, cache)
    more = options | dispatch.prefix_of(kernel, problem) | ({} if tiles is None else {"tiles": tiles})
    return dispatch.timed_call(kernel, *inputs, more)


def _sparse(
    name: str,
    problem: AttentionProblem,
    inputs: tuple[Tensor, Tensor, Tensor],
    scale: float,
    layout: Layout,
    cache: Path,
) -> Callable[[], Any]:
    kernel = dispatch.load(name)
    _require(kernel.supports(problem) or dispatch.self_test(name, problem).failure)
    tiles = dispatch.tuned_tiles(name, problem, cache)  # warps and stages; blocks are the layout's
    return functools.partial(
        kernel.run, *inputs, scale=scale, prefix=problem.prefix, layout=layout, tiles=tiles
    )


def _fp8_prefix(
    problem: AttentionProblem,
    inputs: tuple[Tensor, Tensor, Tensor],
    scale: float,
    layout: Layout,
    cache: Path,
    rounded: bool,
) -> Callable[[], Any]:
    """`rounded`: what FP8 reads is made before; else it is made in each call, as in a compiled forward."""
    whole: Any = _sparse(FP8_PREFIX, problem, inputs, scale, layout, cache)
    if not rounded:
        compiled = torch.compile(whole.func, fullgraph=True, dynamic=False)
        return functools.partial(compiled, *whole.args, **whole.keywords)
    made = fa3_fp8_prefix_sparse.round_prefix(*inputs, scale=scale, prefix=problem.prefix)
    return functools.partial(fa3_fp8_prefix_sparse.run_rounded, *inputs, made, **whole.keywords)


def _named(name: str, check: Check) -> Check:
    return lambda found: {name: check(found)["relative_error"]}


def _all(*checks: Check) -> Check:
    return lambda found: {name: value for check in checks for name, value in check(found).items()}


def _told(layout: Layout) -> str:
    return f"{layout.query_block}x{layout.key_block}, {layout.ratio:g} of the blocks"


def _require(reason: str | None) -> None:
    if reason is not None:
        raise KernelError(reason)
