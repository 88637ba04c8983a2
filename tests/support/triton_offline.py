"""Compiles every Triton kernel of `kernels/` for GPUs that are not here, down to machine code, as a script.

`python triton_offline.py few|all CAPABILITY...` prints one JSON line per kernel: registers, stack, shared
memory, or the error. It calls the operators with tensors without memory (device meta), so that each kernel
gets the arguments of a real call; the driver answers with the capability that is asked for, and a launch only
compiles. Needs the ptxas of Triton's wheel and no GPU.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from convolution_cases import convolution_cases
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton_case import BF16, FP8, FP16, FP32, SHARED_BYTES, Case, empty

from kernels.attention import (
    _prefix_sparse,
    _triton_forward,
    _triton_prefix_sparse,
    _triton_quantize,
    triton_dense,
    triton_int8,
    triton_skip_softmax,
)
from kernels.autotune import Tiles, candidates
from kernels.conv import fp8 as fp8_conv
from kernels.decode import attention as decode_attention
from kernels.decode import gated_delta, rope_cache
from kernels.descriptors import Target
from kernels.fused import (
    channel_norm,
    gate_residual,
    head_norm_rope,
    head_quant,
    qk_norm_rope,
    residual_norm,
    rms_norm,
    row_quant,
    swiglu,
)
from kernels.linear import int8


class Recorder:
    """Stands in for `wrap`: a launch compiles, keeps the result and starts nothing."""

    def __init__(self) -> None:
        self.compiled: list[Any] = []

    def __call__(self, kernel: Any) -> Any:
        return _Launch(kernel, self.compiled)


class _Launch:
    def __init__(self, kernel: Any, compiled: list[Any]) -> None:
        self.kernel, self.compiled = kernel, compiled

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: Any, **options: Any) -> None:
            assert all(isinstance(size, int) and size > 0 for size in grid), grid
            assert grid[0] < 2**31 and max((1, *grid[1:])) < 2**16, f"grid {grid} is too large"
            for parameter, value in zip(self.kernel.params, args, strict=False):
                # Inductor types such a float as fp64, which then spreads over the kernel.
                assert parameter.is_constexpr or not isinstance(value, float), f"{parameter.name} is a float"
            self.compiled.append(self.kernel.warmup(*args, grid=grid, **options))

        return launch


def pretend(capability: tuple[int, int]) -> None:
    """Makes Triton compile for `capability`; each has a device number, for the caches of the kernels."""
    number = capability[0] * 10 + capability[1]
    answers = {
        "get_current_device": lambda: number,
        "get_current_stream": lambda device: 0,
        "get_current_target": lambda: GPUTarget("cuda", number, 32),
    }
    driver.set_active(SimpleNamespace(**answers))


def fused_cases() -> Iterator[Case]:
    """Channels of Wan 1.3B, 5B and 14B, and of the layers after GELU."""
    tokens = 4096
    for channels, quantize, has_y, modulated in itertools.product(
        (1536, 3072, 5120), (None, "fp8", "int8"), (True, False), (True, False)
    ):
        h, mod = empty(1, tokens, channels), empty(1, 2, 6, channels, dtype=FP32)
        y, gate = (h, mod[:, :, 2]) if has_y else (None, None)
        scale, shift = (mod[:, :, 1], mod[:, :, 0]) if modulated else (None, None)
        affine = None if modulated else empty(channels)
        yield Case(
            name=f"residual_norm {channels} {quantize} y={has_y} modulated={modulated}",
            call=partial(
                residual_norm._residual_norm,
                residual_norm.Arguments(
                    h,
                    y,
                    gate,
                    scale=scale,
                    shift=shift,
                    weight=affine,
                    bias=affine,
                    split=77,
                    eps=1e-6,
                    quantize=quantize,
                ),
            ),
            lowest=(8, 9) if quantize == "fp8" else (8, 0),
            few=has_y and (modulated or quantize is None) and channels != 3072,
        )
    h, gate = empty(2, tokens, 1536), empty(1, 1, 1536, dtype=FP32)
    yield Case(
        name="gate_residual", call=partial(gate_residual._gate_residual, gate_residual.Arguments(h, h, gate))
    )
    for features, quantize, activation in itertools.product(
        (1536, 5120, 8960, 13824), ("fp8", "int8"), (None, "gelu_tanh")
    ):
        yield Case(
            name=f"row_quant {features} {quantize} {activation}",
            call=partial(
                row_quant._row_quant,
                row_quant.Arguments(empty(tokens, features), quantize=quantize, activation=activation),
            ),
            lowest=(8, 9) if quantize == "fp8" else (8, 0),
            few=features == (1536 if activation is None else 8960),
        )
    for (heads, dim), rotated, quantized in itertools.product(
        ((12, 128), (24, 128), (40, 128)), (True, False), (True, False)
    ):
        x = empty(1, tokens, 3 * heads * dim)[:, :, : heads * dim]  # q of a merged GEMM
        angles = empty(1, tokens, 1, dim, dtype=FP32) if rotated else None
        scale = empty(heads, dtype=FP32) if quantized else None
        yield Case(
            name=f"qk_norm_rope {heads}x{dim} rotated={rotated} quantized={quantized}",
            call=partial(
                qk_norm_rope._qk_norm_rope,
                qk_norm_rope.Arguments(
                    x, empty(heads * dim), angles, angles, heads=heads, eps=1e-6, scale=scale
                ),
            ),
            lowest=(8, 9) if quantized else (8, 0),
            few=rotated and heads != 24,
        )
    for channels, dims, kind in itertools.product(
        (96, 384), (4, 5), ("norm", "sum", "both", "norm of sum", "fp8")
    ):
        layout = torch.channels_last if dims == 4 else torch.channels_last_3d
        image = empty(1, channels, *(4, 60, 104)[5 - dims :]).to(memory_format=layout)
        table = empty(channels)
        rounded = torch.empty_like(image, dtype=FP8)
        call = {
            "norm": partial(channel_norm._norm, image, table, None, None, image, True),
            "sum": partial(channel_norm._add, channel_norm.Sum(image, table, image)),
            "both": partial(
                channel_norm._both,
                channel_norm.SumAndNorm(image, table, image, table, silu=True, out=image),
            ),
            "norm of sum": partial(channel_norm._norm, image, table, table, image, image, True),
            "fp8": partial(channel_norm._norm, image, table, None, None, rounded, True, empty(1, dtype=FP32)),
        }[kind]
        lowest = (8, 9) if kind == "fp8" else (8, 0)
        yield Case(
            name=f"channel_norm {channels} {dims}d {kind}",
            call=call,
            lowest=lowest,
            few=dims == 5 and (kind != "fp8" or channels == 96),
        )
    for dim in (64, 128):
        v = empty(1, tokens, 3 * 12 * dim)[:, :, : 12 * dim].unflatten(2, (12, dim))
        yield Case(
            name=f"head_quant {dim}",
            call=partial(head_quant._head_quant, head_quant.Arguments(v)),
            lowest=(8, 9),
        )


def cosmos_cases() -> Iterator[Case]:
    """Widths, heads and feed-forward layers of Cosmos3 Nano, and those of others of its family."""
    tokens = 4096
    for channels, quantize, has_y in itertools.product((4096, 5120), (None, "fp8", "int8"), (True, False)):
        h = empty(1, tokens, channels)
        yield Case(
            name=f"rms_norm {channels} {quantize} y={has_y}",
            call=partial(
                rms_norm._rms_norm,
                rms_norm.Arguments(h, h if has_y else None, empty(channels), eps=1e-6, quantize=quantize),
            ),
            lowest=(8, 9) if quantize == "fp8" else (8, 0),
            few=has_y and channels == 4096,
        )
    angles, weight = empty(tokens, 128, dtype=FP32), empty(128)
    for (heads, num_before), quantized in itertools.product(((32, 0), (64, 0), (8, 300)), (True, False)):
        x = empty(1, tokens, 80 * 128)[:, :, : heads * 128]
        before = empty(1, num_before, heads, 128, dtype=FP8 if quantized else BF16) if num_before else None
        scale = empty(dtype=FP32) if quantized else None
        yield Case(
            name=f"head_norm_rope {heads} before={num_before} quantized={quantized}",
            call=partial(
                head_norm_rope._head_norm_rope,
                head_norm_rope.Arguments(
                    x, weight, angles, angles, heads=heads, eps=1e-6, scale=scale, before=before
                ),
            ),
            lowest=(8, 9) if quantized else (8, 0),
            few=heads != 64,
        )
    for features, quantize in itertools.product((12288, 25600), (None, "fp8", "int8")):
        yield Case(
            name=f"swiglu {features} {quantize}",
            call=partial(swiglu._swiglu, swiglu.Arguments(empty(tokens, 2 * features), quantize=quantize)),
            lowest=(8, 9) if quantize == "fp8" else (8, 0),
            few=features == 12288,
        )


def linear_cases(capability: tuple[int, int]) -> Iterator[Case]:
    """The tiles that are used for the capability."""
    for tile in sorted({int8.tile_of(capability, rows) for rows in (1, 64, 4096)}, key=str):
        assert _shared_of_gemm(tile) <= SHARED_BYTES[capability] * 1024, f"{tile} does not fit"
        for size_k, has_bias in ((1536, True), (1552, False)):
            x8, w8 = (empty(rows, size_k, dtype=torch.int8) for rows in (4096, 4608))
            bias = empty(4608) if has_bias else None
            scales = empty(4096, dtype=FP32), empty(4608, dtype=FP32)
            yield Case(
                name=f"int8 GEMM {tile} K={size_k}",
                call=partial(
                    int8.start, int8.Operands(x8, scales[0], w8, scales[1], bias, out_dtype=BF16), tile
                ),
                few=has_bias,
            )
    product = empty(4096, 4608, dtype=torch.int32)
    yield Case(
        name="int8 epilogue", call=partial(int8._epilogue, product, *scales, empty(4608), BF16), few=False
    )


def _shared_of_gemm(tile: int8.Tile) -> int:
    return tile.num_stages * tile.k * (tile.m + tile.n)


def attention_cases(capability: tuple[int, int]) -> Iterator[Case]:
    """Every row of the table of tiles for the capability: what a tuning run compares must start too."""
    target = Target(kind="cuda", capability=capability)
    for dim, dtype in itertools.product((64, 128), (BF16, FP16)):
        q = empty(1, 4096, 12, dim, dtype=dtype).transpose(1, 2)
        for rank, tiles in enumerate(candidates(triton_dense.TABLE, target, dim)):
            first = rank == 0 and dtype == BF16
            for kind in ("none", "lengths", "skip"):
                yield Case(
                    name=f"attention {kind} {dim} {dtype} {tiles}",
                    call=partial(_exact, kind, q, tiles),
                    few=first and (dim == 128 or kind == "none"),
                )
        for rank, tiles in enumerate(candidates(_prefix_sparse.TABLE, target, dim)):
            for started in (False, True):
                yield Case(
                    name=f"attention sparse started={started} {dim} {dtype} {tiles}",
                    call=partial(_sparse, started, q, tiles),
                    few=rank == 0 and dtype == BF16 and dim == 128,
                )
        for rank, tiles in enumerate(candidates(triton_int8.TABLE, target, dim)):
            for values in ("wide", "short", "fp8"):
                yield Case(
                    name=f"attention int8 {values} {dim} {dtype} {tiles}",
                    call=partial(_eight_bit, values, q, tiles),
                    lowest=(8, 9) if values == "fp8" else (8, 0),
                    few=rank == 0 and dtype == BF16 and dim == 128,
                )


def decode_cases() -> Iterator[Case]:
    """A step of eight rows of one reply: heads of Qwen3-VL (128) and of Qwen3.5 (256, and its states)."""
    rows, slots = 8, torch.empty(8, dtype=torch.int64, device="meta")
    for dim, heads, key_heads in ((128, 32, 8), (256, 16, 4)):
        keys = empty(1, key_heads, 4096, dim)
        yield Case(
            name=f"decode attention {dim}",
            call=partial(decode_attention.launch, empty(rows, heads, dim), keys, keys, slots, slots),
            few=False,
        )
    keys, norm = empty(1, 8, 4096, 128), empty(128)
    turn = (empty(rows, 128),) * 2
    qkv = empty(rows, 48 * 128)
    yield Case(
        name="rope_cache",
        call=partial(rope_cache.launch, qkv, *turn, keys, keys, slots, slots, q_norm=norm, k_norm=norm),
        few=False,
    )
    of_rows = (empty(rows, 32, dtype=FP32),) * 2
    last = (empty(1, 8, 8192), empty(1, 8, 32, dtype=FP32), empty(1, 8, 32, dtype=FP32))
    state = empty(1, 32, 128, 128, dtype=FP32)
    yield Case(
        name="gated_delta",
        call=partial(gated_delta.launch, empty(rows, 8192), *of_rows, state, *last, slots[:1], slots[:1]),
        few=False,
    )


def _exact(kind: str, q: Tensor, tiles: Tiles) -> None:
    if kind == "skip":
        triton_skip_softmax.run(q, q, q, scale=0.1, tiles=tiles)
    else:
        lengths = empty(1, dtype=torch.int32) if kind == "lengths" else None
        triton_dense.run(q, q, q, scale=0.1, kv_lengths=lengths, tiles=tiles)


def _sparse(started: bool, q: Tensor, tiles: Tiles) -> None:
    start = (q, empty(1, 12, 4096, dtype=FP32)) if started else None
    layout = _prefix_sparse.LAYOUT
    assert (tiles.block_m, tiles.block_n) == (layout.query_block, layout.key_block)
    _prefix_sparse.launch(q, q, q, start, scale=0.1, prefix=1500, layout=layout, tiles=tiles)


def _eight_bit(values: triton_int8.Values, q: Tensor, tiles: Tiles) -> None:
    triton_int8.run(q, q, q, scale=0.1, tiles=tiles, values=values)


def usage(compiled: Any) -> dict[str, int]:
    """What ptxas assigned: registers and bytes of stack per thread (spills live there), shared bytes."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        text = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = {name: int(re.search(rf"{name}:(\d+)", text)[1]) for name in ("REG", "STACK")}
    return {"registers": found["REG"], "stack": found["STACK"], "shared": compiled.metadata.shared}


def compile_case(case: Case, capability: tuple[int, int], recorder: Recorder) -> Iterator[dict[str, Any]]:
    """One row per kernel of the case."""
    recorder.compiled.clear()
    head = {"case": case.name, "capability": list(capability)}
    try:
        case.call()
    except Exception as error:  # noqa: BLE001, whatever the compiler raises is the result
        yield {**head, "error": f"{type(error).__name__}: {error}"[-1500:]}
        return
    for compiled in recorder.compiled:
        row = {**head, "kernel": compiled.metadata.name, **usage(compiled)}
        limit = SHARED_BYTES[capability] * 1024
        if row["shared"] > limit:
            row["error"] = f"{row['shared']} bytes of shared memory, {limit} are there"
        yield row


def main(which: str, *capabilities: str) -> None:
    recorder = Recorder()
    attention = (_triton_forward, _triton_quantize, _triton_prefix_sparse)
    fused = (residual_norm, row_quant, qk_norm_rope, head_quant, channel_norm, rms_norm, head_norm_rope)
    for module in (*fused, swiglu, int8, fp8_conv, *attention):
        module.wrap = recorder
    decode_attention._chunk_kernel = recorder(decode_attention._chunk_kernel)
    decode_attention._join_kernel = recorder(decode_attention._join_kernel)
    rope_cache._kernel, gated_delta._kernel = recorder(rope_cache._kernel), recorder(gated_delta._kernel)
    # Below the operators, which would only compute shapes for tensors without memory.
    _triton_forward.forward, _triton_quantize.int8_rows = _triton_forward._attend, _triton_quantize._quantize
    _triton_prefix_sparse.forward = _triton_prefix_sparse._attend
    for text in capabilities:
        major, minor = (int(part) for part in text.split("."))
        target = Target(kind="cuda", capability=(major, minor))
        pretend((major, minor))
        triton_int8.Target = SimpleNamespace(of=lambda device, target=target: target)
        cases = (*fused_cases(), *cosmos_cases(), *linear_cases((major, minor)), *decode_cases())
        cases += tuple(convolution_cases((major, minor)))
        for case in (*cases, *attention_cases((major, minor))):
            if case.lowest <= (major, minor) and (case.few or which == "all"):
                for row in compile_case(case, (major, minor), recorder):
                    sys.stdout.write(json.dumps(row) + "\n")
                    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
