"""Problems are valid, hashable values that say in words what they are."""

from __future__ import annotations

import pytest
import torch
from attention_cases import ADA, CPU, problem

from kernels.descriptors import LinearProblem, Target, dtype_name, torch_dtype


def test_target_of_the_cpu_is_never_interpreted_by_itself() -> None:
    assert Target.of(torch.device("cpu")) == CPU and not CPU.interpreted


def test_other_devices_are_refused() -> None:
    with pytest.raises(AssertionError, match="meta"):
        Target.of(torch.device("meta"))


@pytest.mark.gpu
def test_target_of_a_gpu_has_its_capability() -> None:
    target = Target.of(torch.device("cuda"))
    assert target.kind == "cuda" and target.capability == torch.cuda.get_device_capability()


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "cuda", "capability": None},
        {"kind": "cpu", "capability": (9, 0)},
        {"kind": "tpu", "capability": None},
        {"kind": "cuda", "capability": (9, 0), "interpreted": True},
    ],
)
def test_impossible_targets_are_refused(fields: dict) -> None:
    with pytest.raises(AssertionError):
        Target(**fields)


@pytest.mark.parametrize(
    "change", [{"batch": 0}, {"head_dim": -1}, {"dtype": "fp8"}, {"mask": "causal"}, {"kv_len": 0}]
)
def test_impossible_problems_are_refused(change: dict) -> None:
    with pytest.raises(AssertionError):
        problem(**change)


def test_problems_are_values() -> None:
    assert problem() == problem() and hash(problem()) == hash(problem())
    assert problem() != problem(mask="lengths")


def test_text_names_every_part() -> None:
    assert str(problem()) == "[1, 12, 1024, 128] bf16 cc9.0"
    assert (
        str(problem(kv_len=512, mask="lengths", target=ADA))
        == "[1, 12, 1024x512, 128] bf16 mask lengths cc8.9"
    )
    assert "Triton interpreted" in str(Target(kind="cpu", capability=None, interpreted=True))


def test_flops_count_both_products() -> None:
    assert problem(q_len=32760, kv_len=32760).flops == 4 * 12 * 32760**2 * 128
    linear = LinearProblem(rows=3, in_features=5, out_features=7, dtype="bf16", target=CPU)
    assert linear.flops == 210 and str(linear) == "[3, 5] x [7] bf16 cpu"


def test_dtype_names_go_both_ways() -> None:
    assert [dtype_name(torch_dtype(name)) for name in ("bf16", "fp16", "fp32")] == ["bf16", "fp16", "fp32"]
    assert dtype_name(torch.int8) is None
