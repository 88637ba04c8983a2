"""FP8 over the prefix, joined by log-sum-exp: numbers where the wheel is; a stand-in and reasons here."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from attention_cases import ADA, HOPPER, TRITON_TARGET, problem, tensors
from fa3_build import NEEDS_FA3, build_flags  # noqa: F401  (a fixture)
from torch import Tensor

from kernels import dispatch, reference
from kernels.attention import _fa3, _prefix_sparse, fa3_fp8_prefix_sparse, fa3_prefix_sparse

pytest.importorskip("triton")

RELATIVE_BOUND = 0.08
"""That of fa3_fp8; the keys behind the prefix add nothing to it."""


def test_supports_needs_a_prefix_and_a_wheel_with_fp8(build_flags: dict[str, bool]) -> None:  # noqa: F811
    assert fa3_fp8_prefix_sparse.supports(problem(prefix=300)) is None
    assert "triton_prefix_sparse" in (fa3_fp8_prefix_sparse.supports(problem()) or "")
    assert "all 1024 keys" in (fa3_fp8_prefix_sparse.supports(problem(prefix=1024)) or "")
    assert "9.x" in (fa3_fp8_prefix_sparse.supports(problem(prefix=300, target=ADA)) or "")
    assert "fp16" in (fa3_fp8_prefix_sparse.supports(problem(prefix=300, dtype="fp16")) or "")
    build_flags["FLASHATTENTION_DISABLE_FP8"] = True
    assert "without fp8" in (fa3_fp8_prefix_sparse.supports(problem(prefix=300)) or "")


def stand_in(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> list[Tensor]:
    """The wheel's operator as its schema describes it: tokens before heads, factors [B, A], bf16 and the
    log-sum-exp of the scores [B, A, N] out."""
    assert {x.dtype for x in (q, k, v)} == {torch.float8_e4m3fn} and options["num_splits"] == 1
    q, k, v = (
        (x.float() * options[f"{name}_descale"][:, None, :, None]).transpose(1, 2)
        for x, name in ((q, "q"), (k, "k"), (v, "v"))
    )
    scores = q @ k.transpose(2, 3) * options["softmax_scale"]
    return [(scores.softmax(3) @ v).transpose(1, 2).bfloat16().contiguous(), scores.logsumexp(3)]


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in, with our kernel in the interpreter; a GPU has the wheel."""
    if torch.cuda.is_available():
        pytest.skip("the wheel is asked itself")
    monkeypatch.setattr(_fa3, "_operator", lambda: stand_in)


@pytest.mark.parametrize("offset", [0.0, 4.0])
@pytest.mark.parametrize("loud", [1.0, 4.0])
def test_prefix_and_the_rest_have_their_weights(offset: float, loud: float, wheel: None) -> None:
    """`offset`: a mean that all keys have, which FP8 is not given and the join must not forget; `loud`: what
    makes the prefix weigh more than the rest."""
    q, k, v = tensors(140, 200, batch=1)
    k, v = k + offset, v + 1.0
    k[:, :, :70] *= loud
    out = fa3_fp8_prefix_sparse.run(q, k, v, scale=0.1, prefix=70)
    expected = _prefix_sparse.expected(q, k, v, scale=0.1, prefix=70)
    assert reference.compare(out, expected).relative < RELATIVE_BOUND
    exact_start = _exact_prefix(q, k, v, scale=0.1, prefix=70)
    assert 1e-3 < reference.compare(out, exact_start.float()).relative < RELATIVE_BOUND


def _exact_prefix(q: Tensor, k: Tensor, v: Tensor, *, scale: float, prefix: int) -> Tensor:
    scores = q.float() @ k[:, :, :prefix].float().transpose(2, 3) * scale
    start = ((scores.softmax(3) @ v[:, :, :prefix].float()).to(q.dtype), scores.logsumexp(3))
    layout = fa3_fp8_prefix_sparse.LAYOUT
    return _prefix_sparse.launch(q, k, v, start, scale=scale, prefix=prefix, layout=layout, tiles=None)


def test_rounded_before_it_is_the_same(wheel: None) -> None:
    q, k, v = tensors(33, 200, batch=1)
    options: dict[str, Any] = {"scale": 0.1, "prefix": 70}
    rounded = fa3_fp8_prefix_sparse.round_prefix(q, k, v, **options)
    assert rounded.q.shape == q.shape and rounded.k.shape == rounded.v.shape == (1, 3, 70, 64)
    assert torch.equal(
        fa3_fp8_prefix_sparse.run_rounded(q, k, v, rounded, **options),
        fa3_fp8_prefix_sparse.run(q, k, v, **options),
    )


def test_torch_traces_it_in_one_graph(wheel: None) -> None:
    q, k, v = tensors(33, 200, batch=1)
    options: dict[str, Any] = {"scale": 0.1, "prefix": 70}
    traced = torch.compile(fa3_fp8_prefix_sparse.run, fullgraph=True, backend="aot_eager")
    eager = fa3_fp8_prefix_sparse.run(q, k, v, **options)
    assert reference.compare(traced(q, k, v, **options), eager.float()).relative < 0.01


@pytest.mark.parametrize("more", [0.0, math.log(256.0)])
def test_the_self_test_allows_e4m3_and_no_wrong_weight(
    more: float, wheel: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`more`: a log-sum-exp that still had the offset of the weights in E4M3, which the wheel takes out."""

    def other_weight(*inputs: Tensor, **options: Any) -> list[Tensor]:
        out, lse = stand_in(*inputs, **options)
        return [out, lse + more]

    monkeypatch.setattr(_fa3, "_operator", lambda: other_weight)
    asked = problem(head_dim=64, dtype="fp16", target=TRITON_TARGET, prefix=400)
    failure = dispatch.self_test("fa3_fp8_prefix_sparse", asked).failure
    assert failure is None if more == 0 else "largest error" in (failure or "")


@pytest.mark.gpu
@NEEDS_FA3
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("tokens", "prefix"), [(1000, 400), (1025, 1), (4097, 1500)])
def test_on_a_gpu(tokens: int, prefix: int, head_dim: int) -> None:
    q, k, v = tensors(tokens, tokens, head_dim, torch.bfloat16)
    options: dict[str, Any] = {"scale": head_dim**-0.5, "prefix": prefix}
    expected = fa3_fp8_prefix_sparse.expected(q, k + 2, v, **options)
    found = fa3_fp8_prefix_sparse.run(q, k + 2, v, **options)
    assert reference.compare(found, expected).relative < RELATIVE_BOUND


@pytest.mark.gpu
@NEEDS_FA3
@pytest.mark.parametrize("prefix", [400, 1000])
def test_the_log_sum_exp_of_fp8_is_that_of_the_scores(prefix: int) -> None:
    q, k, v = tensors(1000, 1024, 128, torch.bfloat16)
    rounded = fa3_fp8_prefix_sparse.round_prefix(q, k, v, scale=0.1, prefix=prefix)
    _, lse = _fa3.attend_with_lse(rounded.q, rounded.k, rounded.v, rounded.scales, scale=0.1)
    scores = q.float() @ k[:, :, :prefix].float().transpose(2, 3) * 0.1
    assert (lse + rounded.shift - scores.logsumexp(3)).abs().max() < 0.1


@pytest.mark.gpu
@NEEDS_FA3
def test_it_passes_the_self_test() -> None:
    asked = problem(prefix=400, target=HOPPER)
    assert dispatch.self_test("fa3_fp8_prefix_sparse", asked).failure is None


@pytest.mark.gpu
@NEEDS_FA3
def test_torch_compile_keeps_it_in_one_graph() -> None:
    q, k, v = tensors(1000, 1000, 128, torch.bfloat16)
    ours = torch.compile(
        lambda q: fa3_fp8_prefix_sparse.run(q * 1.5, k, v, scale=0.1, prefix=300), fullgraph=True
    )
    exact = fa3_prefix_sparse.run(q * 1.5, k, v, scale=0.1, prefix=300)
    assert reference.compare(ours(q), exact.float()).relative < RELATIVE_BOUND
