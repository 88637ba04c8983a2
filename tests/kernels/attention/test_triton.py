"""What the Triton files share on the host: reasons, and the errors that a launch may raise."""

from __future__ import annotations

import pytest
from attention_cases import CPU, HAS_GPU, HOPPER, TURING, problem

from kernels.attention import _triton
from kernels.descriptors import Target

INTERPRETED = Target(kind="cpu", capability=None, interpreted=True)


def test_reasons() -> None:
    pytest.importorskip("triton")
    assert _triton.why_not(problem(target=HOPPER), masks=("none",)) is None
    assert _triton.why_not(problem(target=CPU), masks=("none",)) == "needs a CUDA GPU"
    assert "7.5" in (_triton.why_not(problem(target=TURING), masks=("none",)) or "")
    assert "mask" in (_triton.why_not(problem(), masks=("lengths",)) or "")


@pytest.mark.skipif(HAS_GPU, reason="Triton compiles where there is a GPU")
def test_the_interpreter_is_on_in_tests_without_a_gpu() -> None:
    pytest.importorskip("triton")
    assert _triton.interpreting()
    assert _triton.why_not(problem(target=INTERPRETED, dtype="fp16"), masks=("none",)) is None


def test_the_interpreter_must_be_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(_triton, "interpreting", lambda: False)
    reason = _triton.why_not(problem(target=INTERPRETED, dtype="fp16"), masks=("none",))
    assert reason is not None and "TRITON_INTERPRET=1" in reason


def test_launch_errors_are_tritons(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = pytest.importorskip("triton.runtime.errors")
    assert issubclass(errors.OutOfResources, _triton.launch_errors())
    monkeypatch.setattr(_triton, "find_spec", lambda name: None)
    assert _triton.launch_errors() == ()
