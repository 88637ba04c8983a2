"""Two kernels joined by log-sum-exp: numbers where the wheel is, reasons everywhere."""

from __future__ import annotations

import pytest
import torch
from attention_cases import ADA, HOPPER, problem, tensors
from fa3_build import NEEDS_FA3, build_flags  # noqa: F401  (a fixture)
from torch import Tensor

from kernels import dispatch, reference
from kernels.attention import _fa3, _prefix_sparse, fa3_prefix_sparse, triton_prefix_sparse

pytest.importorskip("triton")


def test_supports_needs_a_prefix_and_the_wheel(build_flags: dict[str, bool]) -> None:  # noqa: F811
    assert fa3_prefix_sparse.supports(problem(prefix=300)) is None
    assert "triton_prefix_sparse" in (fa3_prefix_sparse.supports(problem()) or "")
    assert "9.x" in (fa3_prefix_sparse.supports(problem(prefix=300, target=ADA)) or "")
    assert "head size" in (fa3_prefix_sparse.supports(problem(prefix=300, head_dim=72)) or "")
    build_flags["FLASHATTENTION_DISABLE_FP16"] = True
    assert "fp16" in (fa3_prefix_sparse.supports(problem(prefix=300, dtype="fp16")) or "")


def test_the_prefix_goes_to_the_wheel_and_its_result_into_our_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the wheel and our kernel in the interpreter (a GPU has its own)."""
    if torch.cuda.is_available():
        pytest.skip("the wheel is asked itself")
    asked: list[tuple[int, ...]] = []

    def stand_in(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
        asked.append(tuple(k.shape))
        scores = q.float() @ k.float().transpose(2, 3) * scale
        return (scores.softmax(3) @ v.float()).to(q.dtype), scores.logsumexp(3)

    monkeypatch.setattr(_fa3, "attend_with_lse", stand_in)
    q, k, v = tensors(140, 200, batch=1)
    out = fa3_prefix_sparse.run(q, k, v, scale=0.2, prefix=70)
    assert asked == [(1, 3, 70, 64)]
    expected = _prefix_sparse.expected(q, k, v, scale=0.2, prefix=70)
    assert reference.compare(out, expected).relative < 2e-3


@pytest.mark.gpu
@NEEDS_FA3
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("tokens", "prefix"), [(1000, 400), (1025, 1), (4097, 1500)])
def test_on_a_gpu(tokens: int, prefix: int, head_dim: int) -> None:
    q, k, v = tensors(tokens, tokens, head_dim, torch.bfloat16)
    options = {"scale": head_dim**-0.5, "prefix": prefix}
    expected = fa3_prefix_sparse.expected(q, k, v, **options)
    joined = reference.compare(fa3_prefix_sparse.run(q, k, v, **options), expected)
    alone = reference.compare(triton_prefix_sparse.run(q, k, v, **options), expected)
    assert joined.relative <= 2 * alone.relative


@pytest.mark.gpu
@NEEDS_FA3
def test_it_passes_the_self_test() -> None:
    asked = problem(prefix=400, target=HOPPER)
    assert dispatch.self_test("fa3_prefix_sparse", asked).failure is None


@pytest.mark.gpu
@NEEDS_FA3
def test_torch_compile_keeps_it_in_one_graph() -> None:
    q, k, v = tensors(1000, 1000, 128, torch.bfloat16)
    ours = torch.compile(
        lambda q: fa3_prefix_sparse.run(q * 1.5, k, v, scale=0.1, prefix=300), fullgraph=True
    )
    eager = fa3_prefix_sparse.run(q * 1.5, k, v, scale=0.1, prefix=300)
    assert reference.compare(ours(q), eager.float()).relative < 0.02
