"""Sparse attention behind a prefix: exact where everything is chosen, the kernel equals its formula, the join
by log-sum-exp changes nothing, and no more is chosen for one input than for another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attention_cases import CPU, DEVICE, TRITON_DTYPES, lengths, problem, tensors
from torch import Tensor

pytest.importorskip("triton")

from kernels import dispatch, reference
from kernels.attention import _prefix_sparse, triton_prefix_sparse
from kernels.attention._prefix_sparse import LAYOUT, Layout, choose, means
from kernels.descriptors import KernelError

SMALL = Layout(query_block=32, key_block=32, ratio=0.3) if DEVICE.type == "cpu" else LAYOUT
DTYPE = TRITON_DTYPES[0]


def launched(q: Tensor, k: Tensor, v: Tensor, prefix: int, *, start: bool = False) -> Tensor:
    """By the kernel, here in the interpreter; `start`: from an attention over the prefix."""
    before = with_lse(q, k[:, :, :prefix], v[:, :, :prefix]) if start else None
    return _prefix_sparse.launch(q, k, v, before, scale=0.3, prefix=prefix, layout=SMALL, tiles=None)


def with_lse(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    scores = q.float() @ k.float().transpose(2, 3) * 0.3
    return (scores.softmax(3) @ v.float()).to(q.dtype), scores.logsumexp(3)


@pytest.mark.parametrize(
    ("q_len", "kv_len", "prefix", "start"),
    [(97, 97, 33, False), (97, 97, 33, True), (33, 133, 5, False), (1, 90, 64, True)],
)
def test_the_kernel_equals_its_formula(q_len: int, kv_len: int, prefix: int, start: bool) -> None:
    q, k, v = tensors(q_len, kv_len, dtype=DTYPE, batch=1)
    expected = _prefix_sparse.attention(
        q, k, v, scale=0.3, prefix=prefix, layout=SMALL, wide=torch.float64
    ).float()
    near = _prefix_sparse.attention(q, k, v, scale=0.3, prefix=prefix, layout=SMALL, wide=DTYPE)
    actual = launched(q, k, v, prefix, start=start)
    allowed = reference.allowed_error(
        reference.compare(near, expected).largest, expected, DTYPE, triton_prefix_sparse.ERROR_FACTOR
    )
    assert reference.compare(actual, expected).largest <= allowed
    dense = reference.attention(q, k, v, scale=0.3)
    behind = kv_len - prefix
    all_chosen = SMALL.num_chosen(behind) == SMALL.num_blocks(behind)
    assert (reference.compare(actual, dense).largest > allowed) is not all_chosen


def test_without_a_prefix_it_is_the_same_kernel() -> None:
    q, k, v = tensors(65, 65, dtype=DTYPE, batch=1)
    expected = _prefix_sparse.attention(q, k, v, scale=0.3, prefix=0, layout=SMALL)
    assert reference.compare(launched(q, k, v, 0), expected).relative < 0.01


def test_all_chosen_is_exact() -> None:
    q, k, v = tensors(70, 90, dtype=torch.float32)
    every = replace(SMALL, ratio=1.0)
    out = _prefix_sparse.attention(q, k, v, scale=0.3, prefix=20, layout=every)
    assert torch.allclose(out, reference.attention(q, k, v, scale=0.3), atol=1e-5)


def test_what_counts_as_a_mean_is_right_where_keys_of_a_block_are_equal() -> None:
    """Then leaving keys out loses nothing, the cut last block included, whatever is chosen."""
    q, k, v = tensors(48, 5 + 3 * 16 + 7, dtype=torch.float32)
    k, v = k.contiguous(), v.contiguous()
    for x in (k, v):
        for begin in range(5, x.shape[2], 16):
            x[:, :, begin : begin + 16] = x[:, :, begin : begin + 1].clone()
    layout = Layout(query_block=16, key_block=16, ratio=0.25)
    out = _prefix_sparse.attention(q, k, v, scale=0.3, prefix=5, layout=layout)
    assert torch.allclose(out, reference.attention(q, k, v, scale=0.3), atol=1e-5)


def test_every_key_of_the_prefix_is_exact() -> None:
    """One loud key that no mean of its block would show, at each place of the prefix."""
    q, k, v = (x.contiguous() for x in tensors(16, 96, dtype=torch.float32))
    q[:] = 0.0
    q[..., 0] = 1.0
    layout = Layout(query_block=16, key_block=32, ratio=0.1)
    for place in (0, 17, 39):
        loud, sign = k * 0.01, torch.ones_like(v)
        loud[:, :, place, 0] = 40.0
        sign[:, :, place] = -1.0
        out = _prefix_sparse.attention(q, loud, sign, scale=1.0, prefix=40, layout=layout)
        assert (out < -0.99).all(), place


def test_the_blocks_of_the_highest_means_are_chosen_ascending_and_always_as_many() -> None:
    q, k, v = tensors(64, 16 + 10 * 16, dtype=torch.float32)
    layout = Layout(query_block=16, key_block=16, ratio=0.3)
    for scale in (0.0, 1.0, 100.0):
        found = choose(q * scale, k, v, 16, layout)
        assert found.blocks.shape == (2, 3, 4, 3) and found.blocks.dtype == torch.int32
        assert (found.chosen.sum(3) == 3).all()
        assert (found.blocks.diff(dim=3) > 0).all()
    scores = means(q, 16) @ means(k[:, :, 16:], 16).transpose(2, 3)
    kept = scores.masked_fill(~found.chosen, float("inf")).amin(3)
    left = scores.masked_fill(found.chosen, float("-inf")).amax(3)
    assert (kept > left).all()
    assert (layout.num_chosen(1), layout.num_chosen(160), layout.num_chosen(161)) == (1, 3, 4)


def test_means_of_a_cut_block_are_of_what_it_has() -> None:
    x = tensors(21, 21, dtype=torch.float32)[0]
    found = means(x, 16)
    assert torch.allclose(found[:, :, 0], x[:, :, :16].mean(2), atol=1e-6)
    assert torch.allclose(found[:, :, 1], x[:, :, 16:].mean(2), atol=1e-6)


def test_some_queries_alone_are_those_of_all() -> None:
    q, k, v = tensors(50, 80, dtype=torch.float32)
    whole = _prefix_sparse.attention(q, k, v, scale=0.3, prefix=8, layout=SMALL)
    some = _prefix_sparse.attention(q, k, v, scale=0.3, prefix=8, layout=SMALL, rows=slice(3, None, 7))
    assert torch.allclose(some, whole[:, :, 3::7], atol=1e-6)


def test_on_a_cpu_it_runs_its_formula_and_passes_the_self_test() -> None:
    q, k, v = (x.cpu() for x in tensors(300, 300, dtype=torch.float32))
    out = triton_prefix_sparse.run(q, k, v, scale=0.3, prefix=44)
    assert torch.equal(out, _prefix_sparse.attention(q, k, v, scale=0.3, prefix=44, layout=LAYOUT))
    here = problem(target=CPU, dtype="fp32", prefix=300)
    assert dispatch.self_test("triton_prefix_sparse", here).failure is None
    choice = dispatch.choose(here, wanted=("triton_prefix_sparse",))
    assert choice.name == "triton_prefix_sparse"
    assert dispatch.choose(here).name == "sdpa_flash", "never without being asked for"


def test_supports_says_what_is_wrong() -> None:
    assert triton_prefix_sparse.supports(problem()) is None
    assert "all 1024 keys" in (triton_prefix_sparse.supports(problem(prefix=1024)) or "")
    assert "head size" in (triton_prefix_sparse.supports(problem(head_dim=256)) or "")
    assert "scores" in (triton_prefix_sparse.supports(problem(target=CPU, q_len=2**20)) or "")
    assert "mask" in (triton_prefix_sparse.supports(problem(target=CPU, mask="lengths")) or "")
    with pytest.raises(KernelError, match="lengths"):
        triton_prefix_sparse.run(*tensors(16, 16), scale=0.1, kv_lengths=lengths(3, 3))


def test_it_is_traced_in_one_piece() -> None:
    q, k, v = tensors(40, 70, dtype=DTYPE, batch=1)
    traced = torch.compile(launched, fullgraph=True, backend="eager")
    assert torch.equal(traced(q, k, v, 6), launched(q, k, v, 6))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TRITON_DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("tokens", "prefix"), [(1000, 400), (1025, 1), (4097, 1500), (129, 128)])
def test_on_a_gpu(tokens: int, prefix: int, head_dim: int, dtype: torch.dtype) -> None:
    q, k, v = tensors(tokens, tokens, head_dim, dtype)
    expected = triton_prefix_sparse.expected(q, k, v, scale=head_dim**-0.5, prefix=prefix)
    plain = reference.compare(
        reference.plain(q, k, v, scale=head_dim**-0.5), reference.attention(q, k, v, scale=head_dim**-0.5)
    )
    actual = triton_prefix_sparse.run(q, k, v, scale=head_dim**-0.5, prefix=prefix)
    allowed = reference.allowed_error(plain.largest, expected, dtype, triton_prefix_sparse.ERROR_FACTOR)
    assert reference.compare(actual, expected).largest <= allowed


@pytest.mark.gpu
def test_torch_compile_keeps_it_in_one_graph() -> None:
    q, k, v = tensors(1000, 1000, 128, torch.bfloat16)
    ours = torch.compile(
        lambda q: triton_prefix_sparse.run(q * 1.5, k, v, scale=0.1, prefix=300), fullgraph=True
    )
    eager = triton_prefix_sparse.run(q * 1.5, k, v, scale=0.1, prefix=300)
    assert reference.compare(ours(q), eager.float()).relative < 0.02


@pytest.mark.gpu
def test_it_can_be_captured_in_a_graph() -> None:
    q, k, v = tensors(1000, 1000, 128, torch.bfloat16)
    expected = triton_prefix_sparse.run(q, k, v, scale=0.1, prefix=300)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = triton_prefix_sparse.run(q, k, v, scale=0.1, prefix=300)
    graph.replay()
    assert torch.equal(out, expected)
