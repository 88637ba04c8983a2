"""The choice between attention kernels: asked, tested, ordered, cached, and every reason told."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from attention_cases import ADA, CPU, HOPPER, TRITON_TARGET, problem, tensors
from attention_folder import GOOD, Write, write_folder  # noqa: F401  (a fixture)
from torch import Tensor

from kernels import dispatch, reference
from kernels.descriptors import KernelError, Target
from kernels.dispatch import Verdict, candidates, choose, names, pick, self_test, survey

ON_CPU = problem(target=CPU, dtype="bf16")
WRONG = GOOD.replace("return attention(", "return 1.5 * attention(")
NAN = GOOD.replace("return attention(", "return float('nan') * attention(")
RAISES = GOOD.replace(
    "return attention(q, k, v, **options).to(q.dtype)", "raise RuntimeError('no such\\nplan')"
)
REFUSES = GOOD.replace("return None", "return f'head size {problem.head_dim} is odd'")
ROUGH = GOOD.replace('"exact"', '"8bit"')


def test_the_folder_is_the_registry() -> None:
    assert names() == [
        "comfy_int8",
        "comfy_sol",
        "cudnn_fp8",
        "fa3",
        "fa3_fp8",
        "fa3_fp8_prefix_sparse",
        "fa3_prefix_sparse",
        "sdpa_cudnn",
        "sdpa_efficient",
        "sdpa_flash",
        "sdpa_math",
        "triton_dense",
        "triton_int8",
        "triton_prefix_sparse",
        "triton_skip_softmax",
        "xformers_memory_efficient",
    ]


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("target", [CPU, ADA, HOPPER], ids=str)
@pytest.mark.parametrize("mask", ["none", "lengths"])
def test_every_file_is_an_implementation(name: str, target: dispatch.Target, mask: str) -> None:
    implementation = dispatch.load(name)
    assert implementation.ACCURACY in dispatch.ACCURACIES and implementation.ERROR_FACTOR >= 2.0
    assert implementation.ACCURACY == "exact" or implementation.ERROR_FACTOR > 2.0
    for dtype in ("bf16", "fp16", "fp32"):
        for head_dim in (8, 64, 72, 128, 512):
            reason = implementation.supports(
                problem(target=target, mask=mask, dtype=dtype, head_dim=head_dim)
            )
            assert reason is None or (len(reason) > 5 and "\n" not in reason)


def test_candidates_say_yes_or_why_not() -> None:
    found = candidates(ON_CPU)
    assert found["sdpa_flash"] is None and found["fa3"] == "needs a CUDA GPU"
    assert list(found) == names()


@pytest.mark.parametrize("mask", ["none", "lengths"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_the_cpu_takes_torch(mask: str, dtype: str) -> None:
    choice = choose(problem(target=CPU, mask=mask, dtype=dtype))
    assert choice.name == "sdpa_flash" and choice.ms == {} and choice.tiles is None
    assert set(choice.reasons) == set(names()) - {"sdpa_flash"}
    assert choice.reasons["sdpa_math"] == "after sdpa_flash in the order for CPUs"


def test_the_choice_runs() -> None:
    q, k, v = (x.cpu() for x in tensors(33, 70, 64, torch.bfloat16))
    choice = choose(problem(target=CPU, head_dim=64))
    expected = reference.attention(q, k, v, scale=0.125)
    assert reference.compare(choice.run(q, k, v, scale=0.125), expected).relative < 0.01


def test_the_choice_and_the_reasons_are_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="kernels.dispatch"):
        choose(ON_CPU)
    (record,) = caplog.records
    assert record.message.startswith("attention [1, 12, 1024, 128] bf16 cpu -> sdpa_flash (")
    assert "fa3: needs a CUDA GPU" in record.message and "\n" not in record.message


@pytest.mark.parametrize(
    ("source", "text"),
    [(NAN, "largest error nan"), (WRONG, "largest error"), (RAISES, "RuntimeError: no such")],
)
def test_a_kernel_that_fails_is_disabled_with_a_warning_that_names_it(
    source: str,
    text: str,
    write_folder: Write,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    package = write_folder(aaa_bad=source, good=GOOD)
    choice = choose(ON_CPU, package=package)
    assert choice.name == "good" and text in choice.reasons["aaa_bad"]
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "aaa_bad is disabled" in warning.message and text in warning.message
    assert "plan" not in warning.message  # the first line only


def test_a_cosine_bound_is_kept(write_folder: Write) -> None:  # noqa: F811
    noisy = ROUGH.replace("return attention(q, k, v, **options)", "return attention(-q, k, v, **options)")
    package = write_folder(noisy=noisy.replace("2.0", "1e6") + "COSINE_BOUND = 0.99\n")
    test = self_test("noisy", ON_CPU, package)
    assert test.failure is not None and test.failure.startswith("cosine")
    assert self_test("noisy", ON_CPU, write_folder(noisy=noisy.replace("2.0", "1e6"))).failure is None


def test_the_self_test_uses_the_mask_and_the_shape_of_the_problem(write_folder: Write) -> None:  # noqa: F811
    """A kernel that drops its mask passes without one; one for equal lengths fails on cross-attention."""
    drops = GOOD.replace("v, **options).to", "v, scale=options['scale']).to")
    square = GOOD.replace("    return attention(", "    q.reshape(k.shape)\n    return attention(")
    package = write_folder(drops=drops, square=square)
    assert self_test("drops", ON_CPU, package).failure is None
    assert self_test("drops", problem(target=CPU, mask="lengths"), package).failure is not None
    assert self_test("square", ON_CPU, package).failure is None
    assert self_test("square", problem(target=CPU, kv_len=512), package).failure is not None


def test_the_users_list_is_an_order(write_folder: Write) -> None:  # noqa: F811
    package = write_folder(bad=NAN, first=REFUSES, good=ROUGH, other=GOOD)
    choice = choose(ON_CPU, wanted=("first", "bad", "good", "other"), package=package)
    assert choice.name == "good"  # whatever its accuracy
    assert set(choice.reasons) == {"first", "bad"} and choice.reasons["first"] == "head size 128 is odd"


def test_one_name_is_required(write_folder: Write) -> None:  # noqa: F811
    package = write_folder(first=REFUSES, good=GOOD)
    with pytest.raises(KernelError, match="head size 128 is odd"):
        choose(ON_CPU, wanted=("first",), package=package)


def test_a_kernel_that_takes_e4m3_is_timed_without_the_quantization() -> None:
    """The forward makes that on the way; a kernel without `quantize` is timed as it is."""
    calls: list[str] = []

    def tensor(name: str) -> Tensor:
        calls.append(name)
        return torch.zeros(1)

    fused = SimpleNamespace(
        run=lambda *rest, **options: tensor("run"),
        quantize=lambda q, k, v, *, kv_lengths: (tensor("quantize"),),
        run_quantized=lambda made, *, scale: tensor(f"run_quantized {scale}"),
    )
    plain = SimpleNamespace(run=lambda q, k, v, *, scale: tensor(f"run {scale}"))
    q = torch.zeros(1, 1, 1, 16)
    made = [dispatch.timed_call(one, q, q, q, {"scale": 0.25}) for one in (fused, plain)]
    assert calls == ["quantize"]
    for call in made:
        call()
    assert calls == ["quantize", "run_quantized 0.25", "run 0.25"]


def test_an_unknown_name_lists_what_exists(write_folder: Write) -> None:  # noqa: F811
    package = write_folder(good=GOOD, other=GOOD)
    with pytest.raises(KernelError, match="'fa9' is not an attention kernel; there are: good, other"):
        choose(ON_CPU, wanted=("good", "fa9"), package=package)


@pytest.mark.parametrize("wanted", [(), ("bad", "first", "raises")])
def test_the_error_holds_all_reasons(wanted: tuple[str, ...], write_folder: Write) -> None:  # noqa: F811
    package = write_folder(bad=NAN, first=REFUSES, raises=RAISES)
    with pytest.raises(KernelError) as caught:
        choose(ON_CPU, wanted=wanted, package=package)
    for text in (
        str(ON_CPU),
        "bad: largest error nan",
        "first: head size 128 is odd",
        "raises: RuntimeError",
    ):
        assert text in str(caught.value)


def test_accuracy_limits_what_is_chosen(write_folder: Write) -> None:  # noqa: F811
    package = write_folder(rough=ROUGH)
    with pytest.raises(KernelError, match="accuracy 8bit is not asked for"):
        choose(ON_CPU, package=package)
    assert choose(ON_CPU, accuracy=("exact", "8bit"), package=package).name == "rough"
    with pytest.raises(AssertionError, match="4bit"):
        choose(ON_CPU, accuracy=("4bit",), package=package)


def test_a_stored_choice_is_used_until_something_changes(write_folder: Write, tmp_path: Path) -> None:  # noqa: F811
    cache = tmp_path / "cache"
    package = write_folder(good=GOOD)
    first = choose(ON_CPU, cache=cache, package=package)
    counted = GOOD + "\nimport pathlib\n"
    assert len(list(cache.iterdir())) == 1

    def refuse(*arguments: object) -> None:
        raise AssertionError("tested again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "self_test", refuse)
        again = choose(ON_CPU, cache=cache, package=package)
        assert (again.name, again.reasons, again.ms) == (first.name, first.reasons, first.ms)
        for change in ({"heads": 2}, {"mask": "lengths"}):
            with pytest.raises(AssertionError, match="tested again"):
                choose(problem(target=CPU, **change), cache=cache, package=package)
        with pytest.raises(AssertionError, match="tested again"):
            choose(ON_CPU, wanted=("good",), cache=cache, package=package)
        write_folder(good=counted)  # another source
        with pytest.raises(AssertionError, match="tested again"):
            choose(ON_CPU, cache=cache, package=package)


def test_a_failed_choice_is_not_stored(write_folder: Write, tmp_path: Path) -> None:  # noqa: F811
    package = write_folder(bad=NAN)
    with pytest.raises(KernelError):
        choose(ON_CPU, cache=tmp_path / "cache", package=package)
    assert not (tmp_path / "cache").exists()


def test_pick_takes_the_fastest_usable() -> None:
    verdicts = [
        Verdict(name="a", accuracy="exact", reason="broken", ms=None),
        Verdict(name="b", accuracy="exact", reason=None, ms=2.0),
        Verdict(name="c", accuracy="8bit", reason=None, ms=1.0),
        Verdict(name="d", accuracy="exact", reason=None, ms=1.5),
    ]
    assert pick(verdicts) is verdicts[3] and pick(verdicts, ("8bit", "exact")) is verdicts[2]
    assert pick(verdicts[:1]) is None
    untimed = [Verdict(name=name, accuracy="exact", reason=None) for name in ("a", "sdpa_math", "sdpa_flash")]
    assert pick(untimed) is untimed[2]


def test_survey_tests_what_is_supported() -> None:
    verdicts = {verdict.name: verdict for verdict in survey(ON_CPU, timed=True)}
    flash, fa3 = verdicts["sdpa_flash"], verdicts["fa3"]
    assert (
        flash.reason is None and flash.test is not None and flash.test.errors is not None and flash.ms is None
    )
    assert flash.test.errors.largest <= flash.test.allowed
    assert fa3.reason == "needs a CUDA GPU" and fa3.test is None


@pytest.mark.parametrize("name", ["triton_dense", "triton_int8", "triton_skip_softmax"])
@pytest.mark.parametrize("mask", ["none", "lengths"])
def test_our_kernels_pass_their_self_test(name: str, mask: str) -> None:
    pytest.importorskip("triton")
    assert (
        self_test(name, problem(target=TRITON_TARGET, dtype="fp16", head_dim=64, mask=mask)).failure is None
    )


def test_everything_imports_without_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from kernels.dispatch import candidates, choose\n"
        "from kernels.descriptors import AttentionProblem, Target\n"
        "sizes = dict(batch=1, heads=2, q_len=64, kv_len=64, head_dim=64, dtype='bf16', mask='none')\n"
        "hopper = Target(kind='cuda', capability=(9, 0))\n"
        "print(candidates(AttentionProblem(**sizes, target=hopper))['triton_dense'])\n"
        "print(choose(AttentionProblem(**sizes, target=Target.of(torch.device('cpu')))).name)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:2] == ["the package triton is not installed", "sdpa_flash"], done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("mask", ["none", "lengths"])
def test_the_probe_on_a_gpu(mask: str, tmp_path: Path) -> None:
    asked = problem(target=Target.of(torch.device("cuda")), mask=mask)
    choice = choose(asked, cache=tmp_path)
    assert choice.ms[choice.name] == min(choice.ms.values())
    assert set(choice.ms) | set(choice.reasons) == set(names())
    assert choose(asked, cache=tmp_path).ms == choice.ms
    assert choose(asked, wanted=("sdpa_math",)).name == "sdpa_math"


SPARSE = """
from kernels.reference import attention
ACCURACY, ERROR_FACTOR, TAKES_PREFIX = "sparse", 4.0, True
def supports(problem):
    return None if problem.prefix else "there is no prefix"
def expected(q, k, v, *, scale, prefix):
    return attention(q, k[:, :, :prefix], v[:, :, :prefix], scale=scale)
def run(q, k, v, *, scale, prefix):
    return expected(q, k, v, scale=scale, prefix=prefix).to(q.dtype)
"""


def test_a_kernel_that_leaves_keys_out_is_compared_with_its_own_formula(write_folder: Write) -> None:  # noqa: F811
    """And is told the prefix, in the self-test as large a share as in the problem."""
    package = write_folder(sparse=SPARSE)
    asked = problem(target=CPU, prefix=512)
    assert self_test("sparse", asked, package).failure is None
    choice = choose(asked, wanted=("sparse",), package=package)
    q, k, v = (x.cpu() for x in tensors(40, 40, 64, torch.bfloat16))
    near = reference.attention(q, k[:, :, :9], v[:, :, :9], scale=0.1)
    assert reference.compare(choice.run(q, k, v, scale=0.1, prefix=9), near).relative < 0.01
    assert candidates(problem(target=CPU), package) == {"sparse": "there is no prefix"}
    wrong = SPARSE.replace("prefix=prefix).to", "prefix=prefix - 1).to")
    assert "largest error" in (self_test("sparse", asked, write_folder(sparse=wrong)).failure or "")
