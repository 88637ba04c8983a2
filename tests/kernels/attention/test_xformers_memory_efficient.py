"""xformers: its compiled part is asked before it is trusted."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator

import pytest
import torch
from attention_cases import CPU, GPU_SIZES, check, lengths, problem, tensors

from kernels.attention import xformers_memory_efficient
from kernels.attention.xformers_memory_efficient import not_loaded
from kernels.descriptors import KernelError


class Operator:
    """Of xformers: a class that knows whether it is there."""

    def __init__(self, available: bool) -> None:
        self.FwOp = self
        self.available = available

    def is_available(self) -> bool:
        return self.available


@pytest.fixture
def xformers(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, types.ModuleType]]:
    """The package looks installed; a test says how well."""
    modules = {name: types.ModuleType(name) for name in ("xformers", "xformers._cpp_lib", "xformers.ops")}
    fmha = types.ModuleType("xformers.ops.fmha")
    modules["xformers.ops.fmha"] = fmha
    modules["xformers._cpp_lib"]._cpp_library_load_exception = None  # type: ignore[attr-defined]
    for name in ("flash3", "flash", "cutlass"):
        setattr(fmha, name, Operator(name == "cutlass"))
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("kernels.attention._checks.find_spec", lambda name: object())
    not_loaded.cache_clear()
    yield modules
    not_loaded.cache_clear()


def test_a_good_installation_is_supported(xformers: dict[str, types.ModuleType]) -> None:
    assert xformers_memory_efficient.supports(problem()) is None


def test_a_library_that_does_not_load_is_the_reason(xformers: dict[str, types.ModuleType]) -> None:
    """Its own error says that it does not load, the cause of that says why."""
    failure = RuntimeError("xFormers can't load C++/CUDA extensions")
    for cause, told in (
        (None, "xFormers can't load C++/CUDA extensions"),
        (OSError("undefined\n  symbol: x"), "undefined symbol: x"),
        (
            OSError("libcudart.so.12: cannot open shared object file"),
            "libcudart.so.12: cannot open shared object file; install nvidia-cuda-runtime-cu12 and put the "
            "folder of its libcudart.so.12 in LD_LIBRARY_PATH",
        ),
    ):
        failure.__cause__ = cause
        xformers["xformers._cpp_lib"]._cpp_library_load_exception = failure  # type: ignore[attr-defined]
        not_loaded.cache_clear()
        reason = xformers_memory_efficient.supports(problem())
        assert reason == f"the compiled part of xformers does not load: {told}"


def test_no_operator_is_the_reason(xformers: dict[str, types.ModuleType]) -> None:
    xformers["xformers.ops.fmha"].cutlass = Operator(False)  # type: ignore[attr-defined]
    assert "no forward operator" in (xformers_memory_efficient.supports(problem()) or "")


def test_a_failing_import_is_the_reason(
    xformers: dict[str, types.ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xformers._cpp_lib", None)
    assert "does not import: ModuleNotFoundError" in (xformers_memory_efficient.supports(problem()) or "")


def test_other_reasons(xformers: dict[str, types.ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    for text, asked in {
        "needs a CUDA GPU": problem(target=CPU),
        "mask 'lengths'": problem(mask="lengths"),
        "head size 20": problem(head_dim=20),
    }.items():
        assert text in (xformers_memory_efficient.supports(asked) or ""), asked
    monkeypatch.setattr("kernels.attention._checks.find_spec", lambda name: None)
    assert xformers_memory_efficient.supports(problem()) == "the package xformers is not installed"


def test_tokens_go_before_heads(xformers: dict[str, types.ModuleType]) -> None:
    def stand_in(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)
        return out.transpose(1, 2)

    xformers["xformers.ops"].memory_efficient_attention_forward = stand_in  # type: ignore[attr-defined]
    check(xformers_memory_efficient, *tensors(33, 70))


def test_masks_are_refused() -> None:
    q, k, v = tensors(16, 16)
    with pytest.raises(KernelError, match="kv_lengths"):
        xformers_memory_efficient.run(q, k, v, scale=0.1, kv_lengths=lengths(3, 4))


@pytest.mark.gpu
@pytest.mark.parametrize(("q_len", "kv_len"), GPU_SIZES)
def test_sizes(q_len: int, kv_len: int) -> None:
    reason = xformers_memory_efficient.supports(problem())
    if reason is not None:
        pytest.skip(reason)
    check(xformers_memory_efficient, *tensors(q_len, kv_len, 128, torch.bfloat16))
