"""FlashAttention-3 in E4M3: numbers where the wheel is, what its operator receives and reasons everywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_cases import ADA, GPU_SIZES, check, fill_padding, lengths, problem, tensors
from fa3_build import NEEDS_FA3, build_flags  # noqa: F401  (a fixture)

from kernels import reference
from kernels.attention import _fa3, fa3_fp8
from kernels.attention._eight_bit import e4m3_heads, smooth_keys
from kernels.fused.formats import hadamard

RELATIVE_BOUND = 0.08


@pytest.mark.gpu
@NEEDS_FA3
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("q_len", "kv_len"), [(1, 40), (33, 33), (33, 70), *GPU_SIZES])
def test_sizes(q_len: int, kv_len: int, head_dim: int) -> None:
    errors = check(fa3_fp8, *tensors(q_len, kv_len, head_dim, torch.bfloat16))
    assert errors.relative < RELATIVE_BOUND


@pytest.mark.gpu
@NEEDS_FA3
def test_lengths_with_nan_in_padding() -> None:
    q, k, v = tensors(33, 200, 128, torch.bfloat16)
    valid = lengths(177, 129)
    check(fa3_fp8, q, fill_padding(k, valid), fill_padding(v, valid), kv_lengths=valid)


@pytest.mark.gpu
@NEEDS_FA3
def test_quantized_inputs_give_the_same() -> None:
    q, k, v = tensors(257, 129, 128, torch.bfloat16)
    parts = [e4m3_heads(hadamard(q)), e4m3_heads(hadamard(smooth_keys(k, None))), e4m3_heads(v)]
    values, scales = zip(*parts, strict=True)
    assert torch.equal(fa3_fp8.run_quantized(*values, *scales, scale=0.1), fa3_fp8.run(q, k, v, scale=0.1))


@pytest.mark.gpu
@NEEDS_FA3
def test_torch_compile_keeps_it_in_the_graph() -> None:
    q, k, v = tensors(257, 129, 128, torch.bfloat16)
    compiled = torch.compile(lambda q, k, v: fa3_fp8.run(q, k, v, scale=0.1), fullgraph=True)
    # Compiled, sums of channels are not rounded to bf16 on the way: some values get the next code of E4M3.
    assert reference.compare(compiled(q, k, v), fa3_fp8.run(q, k, v, scale=0.1)).relative < 0.05


def stand_in(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> list[torch.Tensor]:
    """The wheel's operator as its schema describes it: tokens before heads, factors [B, A], bf16 out."""
    names = ("q_descale", "k_descale", "v_descale")
    assert all(options[name].shape == q.shape[::2] for name in names) and options["num_splits"] == 1
    q, k, v = (
        (x.float() * options[name][:, None, :, None]).transpose(1, 2)
        for x, name in zip((q, k, v), names, strict=True)
    )
    used = options["seqused_k"]
    out = reference.attention(q, k, v, scale=options["softmax_scale"], kv_lengths=used)
    return [out.bfloat16().transpose(1, 2)]


def test_what_the_operator_receives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Per-head scales, smoothed keys and lengths arrive so that the formula comes out."""
    monkeypatch.setattr(_fa3, "_operator", lambda: stand_in)
    q, k, v = tensors(33, 70, 64, torch.bfloat16)
    heads = torch.tensor([1.0, 10.0, 0.1], dtype=q.dtype, device=q.device)[:, None, None]
    errors = check(fa3_fp8, q * heads, k / heads + 4, v * heads)
    assert errors.relative < RELATIVE_BOUND
    valid = lengths(70, 31)
    check(fa3_fp8, q, fill_padding(k, valid), fill_padding(v, valid), kv_lengths=valid)


def test_supports_says_what_is_wrong(build_flags: dict[str, bool]) -> None:  # noqa: F811
    assert fa3_fp8.supports(problem()) is None
    reasons = {
        "8.9 is not 9.x": problem(target=ADA),
        "fp16 is not bf16": problem(dtype="fp16"),
        "head size 72": problem(head_dim=72),
    }
    for text, asked in reasons.items():
        assert text in (fa3_fp8.supports(asked) or ""), asked
    build_flags["FLASHATTENTION_DISABLE_FP8"] = True
    assert fa3_fp8.supports(problem()) == "the installed fa3_fwd is built without fp8"


@pytest.mark.gpu
@NEEDS_FA3
def test_heads_of_queries_may_share_heads_of_keys() -> None:
    """The factor of q is one for each head of keys: that of the group, here of all."""
    q, k, v = tensors(257, 333, 128, torch.bfloat16)
    q8, q_scale = e4m3_heads(torch.cat([q, 0.3 * q, -q], dim=1).flatten(1, 2)[:, None])
    q8, q_scale = q8.unflatten(2, (3 * q.shape[1], -1))[:, 0], q_scale.expand(k.shape[:2]).contiguous()
    (k8, k_scale), (v8, v_scale) = e4m3_heads(k), e4m3_heads(v)
    factors = [x.repeat_interleave(3, dim=1) for x in (q_scale, k_scale, v_scale)]
    wide = [x.view(torch.uint8).repeat_interleave(3, dim=1).view(x.dtype) for x in (k8, v8)]
    grouped = fa3_fp8.run_quantized(q8, k8, v8, q_scale, k_scale, v_scale, scale=0.1)
    single = fa3_fp8.run_quantized(q8, *wide, *factors, scale=0.1)
    assert reference.compare(grouped, single).relative < 0.02  # tiles may be cut differently
