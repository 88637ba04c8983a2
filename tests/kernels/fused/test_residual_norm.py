"""Residual, norm, modulation and quantization in one pass: kernel, plain torch, the library's block."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from eight_bit import (
    DEVICE,
    assert_same_codes,
    assert_within_twice,
    errors,
    needs_triton,
    normal,
    target,
)
from torch import Tensor, nn

from kernels.descriptors import Target
from kernels.fused import gate_residual, qk_norm_rope, residual_norm, row_quant
from kernels.fused.formats import dequantize

EPS = 1e-6


def assert_same(actual, expected, exact, *, differing: float = 0.02) -> None:
    """All three outputs; `exact` is plain torch on fp32 inputs without a format."""
    for a, b in zip(actual[:2], expected[:2], strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and a.is_contiguous()
    assert_within_twice(actual[0], expected[0], exact[0])
    n, n_plain = actual[1], expected[1]
    assert (actual[2] is None) == (expected[2] is None)
    if actual[2] is not None:
        # Where the residual was rounded the other way, which is rare, its norm moves by a step of its dtype:
        # many codes of E4M3 where scale and shift cancel, so codes are counted and values are compared.
        assert (n.float() != n_plain.float()).float().mean().item() <= differing
        torch.testing.assert_close(actual[2], expected[2], rtol=2e-2, atol=0)
        n, n_plain = dequantize(n, actual[2]), dequantize(n_plain, expected[2])
    assert_within_twice(n, n_plain, exact[1])


@needs_triton
@pytest.mark.parametrize(
    ("tokens", "channels", "split"),
    [(1, 96, 0), (1, 96, 1), (17, 96, 5), (17, 64, 17), (17, 1, 0), (6, 127, 4), (5, 1536, 3), (2, 4097, 1)],
)
@pytest.mark.parametrize("quantize", [None, "fp8", "int8"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_modulated(tokens: int, channels: int, split: int, quantize: str | None, dtype: torch.dtype) -> None:
    h, y = (normal(2, tokens, channels, dtype=dtype, seed=seed) for seed in (1, 2))
    mod = normal(2, 2, 6, channels, seed=3)
    tables = {"scale": mod[:, :, 1], "shift": mod[:, :, 0], "split": split, "eps": EPS, "quantize": quantize}
    exact = residual_norm.plain(h.float(), y.float(), mod[:, :, 2], **{**tables, "quantize": None})
    assert_same(
        residual_norm.launch(h, y, mod[:, :, 2], **tables),
        residual_norm.plain(h, y, mod[:, :, 2], **tables),
        exact,
    )


@needs_triton
@pytest.mark.parametrize(
    ("has_y", "has_gate", "affine", "rows"),
    [
        (y, gate, affine, rows)
        for y, gate, affine, rows in itertools.product((0, 1), (0, 1), (0, 1), (1, 2))
        if y >= gate
    ],
)
def test_every_part_alone(has_y: int, has_gate: int, affine: int, rows: int) -> None:
    h = normal(2, 9, 40, dtype=torch.bfloat16, seed=1)
    y = normal(2, 9, 40, dtype=torch.bfloat16, seed=2) if has_y else None
    gate = normal(1, rows, 40, seed=3) if has_gate else None  # one table for both of the batch
    tables = {"split": 4, "eps": EPS}
    if affine:
        tables |= {"weight": normal(40, seed=4), "bias": normal(40, seed=5)}
    actual, expected = residual_norm.launch(h, y, gate, **tables), residual_norm.plain(h, y, gate, **tables)
    exact = residual_norm.plain(h.float(), None if y is None else y.float(), gate, **tables)
    assert_same(actual, expected, exact)
    if y is None:
        assert actual[0] is h and expected[0] is h


@needs_triton
def test_strided_inputs_and_poisoned_neighbours() -> None:
    """h and y are slices of wider rows whose other half is NaN: nothing outside of the slice is used."""
    wide = torch.full((2, 11, 96), float("nan"), dtype=torch.bfloat16, device=DEVICE)
    wide[:, :, :48] = normal(2, 11, 48, dtype=torch.bfloat16)
    h = wide[:, :, :48]
    y = normal(11, 2, 48, dtype=torch.bfloat16, seed=2).transpose(0, 1)
    mod = normal(2, 2, 6, 48, seed=3)
    tables = {"scale": mod[:, :, 4], "shift": mod[:, :, 3], "split": 3, "eps": EPS}
    actual, expected = (
        fn(h, y, mod[:, :, 5], **tables) for fn in (residual_norm.launch, residual_norm.plain)
    )
    assert_same(actual, expected, residual_norm.plain(h.float(), y.float(), mod[:, :, 5], **tables))


@needs_triton
def test_a_row_of_zeros_quantizes_to_zeros() -> None:
    h = torch.zeros(1, 2, 32, device=DEVICE)
    _, n, n_scale = residual_norm.launch(h, eps=EPS, quantize="fp8")
    assert not n.float().any() and n_scale.isfinite().all() and (n_scale > 0).all()


def test_rows_of_modulation_are_chosen_by_split() -> None:
    rows = torch.tensor([[[1.0], [2.0]]])
    assert residual_norm.per_token(rows, 2, 5).flatten().tolist() == [1, 1, 2, 2, 2]
    assert residual_norm.per_token(rows[:, 1:], 2, 5).flatten().tolist() == [2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": normal(1, 1, 8)}, "come together"),
        ({"split": 4}, "split 4 of 3"),
        ({"gate": normal(1, 1, 8)}, "without a residual"),
        ({"scale": normal(1, 3, 8), "shift": normal(1, 1, 8)}, "3 rows"),
        ({"scale": normal(1, 1, 4), "shift": normal(1, 1, 4)}, "modulation"),
        ({"y": normal(1, 2, 8)}, "is not h"),
    ],
)
def test_wrong_calls_are_refused(change: dict, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        residual_norm.run(normal(1, 3, 8), eps=EPS, **change)


def test_supports_says_no() -> None:
    assert "channels" in str(residual_norm.supports(target(), channels=20000))
    assert residual_norm.supports(Target(kind="cpu", capability=None), channels=64) is not None
    assert "8.9" in str(
        residual_norm.supports(Target(kind="cuda", capability=(8, 0)), channels=64, quantize="fp8")
    )


# The library's transformer block, put together from our parts.


def block_and_inputs(dtype: torch.dtype, *, cross_norm: bool, per_token: bool):
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=3, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=20, freq_dim=16, ffn_dim=80, num_layers=1, cross_attn_norm=cross_norm,
    ).to(DEVICE, dtype)  # fmt: skip
    block = model.blocks[0]
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if name.endswith(("norm_q.weight", "norm_k.weight", "norm2.weight")):
                parameter.uniform_(0.5, 1.5)
    latents = normal(2, 4, 3, 4, 4, dtype=dtype)
    split, tokens = 4, 12
    mod = normal(2, 2, 6, 36, seed=2, dtype=dtype)
    temb = mod[:, [0] * split + [1] * (tokens - split)] if per_token else mod[:, 1]
    h, text = normal(2, tokens, 36, seed=3, dtype=dtype), normal(2, 7, 36, seed=4, dtype=dtype)
    rotary = tuple(table.float() for table in model.rope(latents))
    return block, h, text, temb, (mod if per_token else mod[:, 1:]), split if per_token else 0, rotary


def attend(attention: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k, v [B, S, A, D]."""
    out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))
    return attention.to_out[0](out.transpose(1, 2).flatten(2))


def ours(block: nn.Module, h: Tensor, text: Tensor, mod: Tensor, split: int, rotary) -> Tensor:
    """WanTransformerBlock.forward by the parts under test."""
    table = (block.scale_shift_table[None] + mod.float()).float()
    shift, scale, gate, c_shift, c_scale, c_gate = (table[:, :, i] for i in range(6))
    one, two, heads = block.attn1, block.attn2, block.attn1.heads
    eps = block.norm1.eps
    _, n, _ = residual_norm.run(h, scale=scale, shift=shift, split=split, eps=eps)
    q, k = (
        qk_norm_rope.run(x, norm.weight, *rotary, heads=heads, eps=one.norm_q.eps)
        for x, norm in ((one.to_q(n), one.norm_q), (one.to_k(n), one.norm_k))
    )
    y = attend(one, q, k, one.to_v(n).unflatten(2, (heads, -1)))
    if isinstance(block.norm2, nn.Identity):
        h = gate_residual.run(h, y, gate, split=split)
        n = h
    else:
        affine = {"weight": block.norm2.weight, "bias": block.norm2.bias}
        h, n, _ = residual_norm.run(h, y, gate, **affine, split=split, eps=eps)
    q, k = (
        qk_norm_rope.run(x, norm.weight, heads=heads, eps=norm.eps)
        for x, norm in ((two.to_q(n), two.norm_q), (two.to_k(text), two.norm_k))
    )
    y = attend(two, q, k, two.to_v(text).unflatten(2, (heads, -1)))
    h, n, _ = residual_norm.run(h, y, scale=c_scale, shift=c_shift, split=split, eps=eps)
    y = block.ffn.net[2](F.gelu(block.ffn.net[0].proj(n), approximate="tanh"))
    return gate_residual.run(h, y, c_gate, split=split)


@pytest.mark.parametrize("cross_norm", [True, False])
@pytest.mark.parametrize("per_token", [True, False])
@torch.no_grad()
def test_equal_to_the_block_of_the_library(cross_norm: bool, per_token: bool) -> None:
    block, h, text, temb, mod, split, rotary = block_and_inputs(
        torch.float32, cross_norm=cross_norm, per_token=per_token
    )
    expected = block(h, text, temb, rotary)
    torch.testing.assert_close(ours(block, h, text, mod, split, rotary), expected, rtol=1e-4, atol=1e-4)
    half = block.to(torch.bfloat16)
    h, text, temb, mod = (x.bfloat16() for x in (h, text, temb, mod))
    exact = block_in_fp32(half, h, text, temb, rotary)
    library = half(h, text, temb, rotary)
    # Many roundings add up, so the largest error is luck: the mean square is compared, and closer.
    assert errors(ours(half, h, text, mod, split, rotary), exact)[0] <= 1.2 * errors(library, exact)[0]


def block_in_fp32(block: nn.Module, h: Tensor, text: Tensor, temb: Tensor, rotary) -> Tensor:
    """What the block would return with its rounded weights and inputs but no further rounding."""
    wide = block.float()
    out = wide(h.float(), text.float(), temb.float(), rotary)
    block.to(torch.bfloat16)
    return out


@torch.no_grad()
def test_torch_compile_traces_run_without_a_break() -> None:
    block, h, text, _, mod, split, rotary = block_and_inputs(torch.float32, cross_norm=True, per_token=True)

    def forward(h: Tensor) -> tuple[Tensor, Tensor]:
        out = ours(block, h, text, mod, split, rotary)
        return row_quant.run(out, quantize="int8", activation="gelu_tanh")

    actual, expected = torch.compile(forward, fullgraph=True, backend="aot_eager")(h), forward(h)
    assert_same_codes(actual[0], expected[0])


@pytest.mark.gpu
@pytest.mark.parametrize("quantize", [None, "fp8", "int8"])
@pytest.mark.parametrize("channels", [1536, 3072, 5120])
def test_wan_shape(quantize: str | None, channels: int) -> None:
    h, y = (normal(1, 32760, channels, dtype=torch.bfloat16, seed=seed) for seed in (1, 2))
    mod = normal(1, 2, 6, channels, seed=3)
    tables = {"scale": mod[:, :, 1], "shift": mod[:, :, 0], "split": 7801, "eps": EPS, "quantize": quantize}
    actual = residual_norm.run(h, y, mod[:, :, 2], **tables)
    exact = residual_norm.plain(h.float(), y.float(), mod[:, :, 2], **{**tables, "quantize": None})
    plain = residual_norm.plain(h, y, mod[:, :, 2], **tables)
    # One value in 2**16 is rounded the other way; in a row whose largest value is one of them all codes move.
    assert_same(actual, plain, exact, differing=0.001)


@pytest.mark.gpu
def test_compiled_and_captured() -> None:
    h, y = (normal(1, 300, 1536, dtype=torch.bfloat16, seed=seed) for seed in (1, 2))
    mod = normal(1, 2, 6, 1536, seed=3)

    def forward(h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h, n, n_scale = residual_norm.run(
            h * 2, y, mod[:, :, 2], scale=mod[:, :, 1], shift=mod[:, :, 0], split=77, eps=EPS, quantize="fp8"
        )
        return h, n.float() * n_scale

    expected = forward(h, y)
    compiled = torch.compile(forward, fullgraph=True)
    for actual in (compiled(h, y), captured(compiled, h, y)):
        torch.testing.assert_close(actual[0], expected[0])
        torch.testing.assert_close(actual[1], expected[1], rtol=0.13, atol=0.02)


def captured(forward, *inputs: Tensor):
    """The outputs of a replayed CUDA graph; warm before."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = forward(*inputs)
    graph.replay()
    torch.cuda.synchronize()
    return outputs
