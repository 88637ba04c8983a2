"""FlashAttention-3 in bf16: numbers where the wheel is, reasons everywhere."""

from __future__ import annotations

import pytest
import torch
from attention_cases import ADA, CPU, GPU_SIZES, SIZES, check, fill_padding, lengths, problem, tensors
from fa3_build import NEEDS_FA3, build_flags  # noqa: F401  (a fixture)

from kernels.attention import _fa3, fa3
from kernels.attention._checks import check as common_check
from kernels.descriptors import Target
from kernels.sm_margin import leaving_free


@pytest.mark.gpu
@NEEDS_FA3
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("q_len", "kv_len"), SIZES + GPU_SIZES)
def test_sizes(q_len: int, kv_len: int, head_dim: int) -> None:
    check(fa3, *tensors(q_len, kv_len, head_dim, torch.bfloat16))


@pytest.mark.gpu
@NEEDS_FA3
@pytest.mark.parametrize("short", [129, 1, 0])
def test_lengths_with_nan_in_padding(short: int) -> None:
    q, k, v = tensors(33, 200, 128, torch.bfloat16)
    valid = lengths(177, short)
    check(fa3, q, fill_padding(k, valid), fill_padding(v, valid), kv_lengths=valid)


@pytest.mark.gpu
@NEEDS_FA3
def test_multiprocessors_left_free_change_nothing() -> None:
    q, k, v = tensors(1000, 1000, 128, torch.bfloat16)
    assert torch.equal(fa3.run(q, k, v, scale=0.1), fa3.run(q, k, v, scale=0.1, sm_margin=16))


@pytest.mark.gpu
@NEEDS_FA3
def test_torch_compile_keeps_it_in_the_graph() -> None:
    q, k, v = tensors(257, 129, 128, torch.bfloat16)
    compiled = torch.compile(lambda q, k, v: fa3.run(q * 1.5, k, v, scale=0.1) + 1, fullgraph=True)
    assert (compiled(q, k, v) - fa3.run(q * 1.5, k, v, scale=0.1) - 1).abs().max() < 0.05


@pytest.mark.gpu
@NEEDS_FA3
def test_it_can_be_captured_in_a_graph() -> None:
    q, k, v = tensors(257, 129, 128, torch.bfloat16)
    expected = fa3.run(q, k, v, scale=0.1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = fa3.run(q, k, v, scale=0.1)
    graph.replay()
    assert torch.equal(out, expected)


def test_supports_reads_the_build_flags(build_flags: dict[str, bool]) -> None:  # noqa: F811
    assert fa3.supports(problem()) is None and fa3.supports(problem(mask="lengths")) is None
    build_flags["FLASHATTENTION_DISABLE_FP16"] = True
    assert fa3.supports(problem()) is None
    assert fa3.supports(problem(dtype="fp16")) == "the installed fa3_fwd is built without fp16"
    build_flags["FLASHATTENTION_DISABLE_FP16"] = False
    assert fa3.supports(problem(dtype="fp16")) is None


def test_supports_says_what_is_wrong(build_flags: dict[str, bool]) -> None:  # noqa: F811
    blackwell = Target(kind="cuda", capability=(10, 0))
    reasons = {
        "8.9 is not 9.x": problem(target=ADA),
        "10.0 is not 9.x": problem(target=blackwell),
        "needs a CUDA GPU": problem(target=CPU),
        "fp32": problem(dtype="fp32"),
        "head size 320": problem(head_dim=320),
        "head size 60": problem(head_dim=60),
    }
    for text, asked in reasons.items():
        assert text in (fa3.supports(asked) or ""), asked


def test_without_the_wheel_the_reason_is_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.attention._checks.find_spec", lambda name: None)
    assert fa3.supports(problem()) == "the package fa3_fwd is not installed"


@pytest.mark.gpu
@NEEDS_FA3
def test_heads_of_queries_may_share_heads_of_keys() -> None:
    q, k, v = tensors(257, 333, 128, torch.bfloat16)
    q = torch.cat([q, -q, 0.5 * q], dim=1)  # three heads for each head of keys, by the order of GQA
    wide = [x.repeat_interleave(3, dim=1) for x in (k, v)]
    difference = fa3.run(q, k, v, scale=0.1) - fa3.run(q, *wide, scale=0.1)
    assert difference.abs().max() < 0.02  # tiles may be cut differently


def test_shared_heads_are_checked() -> None:
    q, k = torch.zeros(1, 6, 4, 8), torch.zeros(1, 2, 4, 8)
    common_check(q, k, k, 0.1, None, grouped=True)
    with pytest.raises(AssertionError):
        common_check(q, k, k, 0.1, None)
    with pytest.raises(AssertionError):
        common_check(q[:, :5], k, k, 0.1, None, grouped=True)


def test_a_margin_of_the_process_reaches_calls_that_ask_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def forward(q: torch.Tensor, *_: object, sm_margin: int, **__: object) -> tuple[torch.Tensor]:
        asked.append(sm_margin)
        return (q.clone(),)

    monkeypatch.setattr(_fa3, "_operator", lambda: forward)
    q = torch.zeros(1, 2, 3, 8)
    for margin in (0, 16):
        with leaving_free(attention=margin, gemms=0):
            for own in (0, 32):
                _fa3.attend(q, q, q, None, scale=1.0, kv_lengths=None, sm_margin=own)
    assert asked == [0, 32, 16, 32]
