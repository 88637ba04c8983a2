"""The suites of bench/perf: each runs at its tiny size, records rates, and fails on a wrong result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.perf import (
    benchmark_tools,
    test_attention,
    test_decode_step,
    test_denoise_step,
    test_four_bit,
    test_fused,
    test_linear,
    test_overlap,
    test_prefill,
    test_vae_decode,
)
from engine.autoencoder.vae import decode_pixels
from kernels import dispatch
from kernels.fused.formats import FP8, quantize_rows

ROOT = Path(__file__).resolve().parents[3]
TINY = benchmark_tools.TINY


class FakeBenchmark:
    """Calls the target as often as pytest-benchmark would."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}
        self.group: str | None = None
        self.num_calls = 0

    def pedantic(self, target: Callable[[], Any], *, rounds: int, warmup_rounds: int) -> None:
        for _ in range(rounds + warmup_rounds):
            target()
            self.num_calls += 1


def run(function: Callable[..., None], *arguments: Any) -> dict[str, Any]:
    benchmark = FakeBenchmark()
    with torch.inference_mode():
        function(benchmark, *arguments)
    assert benchmark.num_calls >= 3 and benchmark.group
    info = benchmark.extra_info
    assert 0 < info["device_ms"]["p10"] <= info["device_ms"]["median"] <= info["device_ms"]["p90"]
    return info


def supported() -> list[str]:
    found = []
    for name in dispatch.names():
        try:
            test_attention.problem_of(name, TINY)
        except pytest.skip.Exception:
            continue
        found.append(name)
    return found


def test_every_supported_attention_kernel_is_measured() -> None:
    assert {"sdpa_flash", "sdpa_math"} <= set(supported())
    for name in supported():
        info = run(test_attention.test_attention, name, TINY)
        most = 1.0 if hasattr(dispatch.load(name), "expected") else 0.1  # noise is what sparse is worst with
        assert info["tflops"] > 0 and 0 < info["relative_error"] < most


def test_a_wrong_attention_kernel_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = dispatch.load("sdpa_math")
    right = kernel.run

    def wrong(q, k, v, **options):
        out = right(q, k, v, **options)
        return out * (1.5 if q.shape[2] == test_attention.SHAPES[TINY][1] else 1.0)  # the self-test passes

    monkeypatch.setattr(kernel, "run", wrong)
    with pytest.raises(AssertionError, match="largest error"):
        run(test_attention.test_attention, "sdpa_math", TINY)
    monkeypatch.setattr(kernel, "run", lambda q, k, v, **options: torch.zeros_like(q))
    with pytest.raises(AssertionError, match="self-test"):
        run(test_attention.test_attention, "sdpa_math", TINY)


@pytest.mark.parametrize("layer", test_linear.LAYERS)
@pytest.mark.parametrize("name", test_linear.NAMES)
def test_linear_suite(name: str, layer: str) -> None:
    if test_linear.reason_of(name, test_linear.problem_of(layer, TINY)) is not None:
        pytest.skip("not on this device")
    assert run(test_linear.test_linear, name, layer, TINY)["tflops"] > 0


def test_a_wrong_linear_kernel_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgets_the_bias(x8, x_scale, w8, w_scale, bias, *, out_dtype):
        return (x8.float() @ w8.float().t() * x_scale * w_scale).to(out_dtype)

    monkeypatch.setattr(test_linear.int8, "run", forgets_the_bias)
    with pytest.raises(AssertionError, match="relative error"):
        run(test_linear.test_linear, "int8", "up", TINY)


@pytest.mark.parametrize(("name", "fmt"), test_fused.NAMED)
def test_fused_suite(name: str, fmt: str | None) -> None:
    info = run(test_fused.test_fused, name, fmt, TINY)
    assert info["gb_per_s"] > 0


def test_a_wrong_fused_kernel_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        test_fused.row_quant, "run", lambda x, *, quantize, activation: quantize_rows(x, FP8)
    )  # without its GELU
    with pytest.raises(AssertionError, match="relative error"):
        run(test_fused.test_fused, "row_quant", "fp8", TINY)


@pytest.mark.parametrize("name", list(test_denoise_step.VARIANTS)[:3:2])
def test_denoise_step_suite(name: str) -> None:
    info = run(test_denoise_step.test_denoise_step, name, TINY)
    assert info["tflops"] > 0 and info["first_call_s"] > 0


def test_a_wrong_denoiser_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    velocity = test_denoise_step.expected(TINY)
    monkeypatch.setattr(test_denoise_step.variants, "build", lambda *given: (lambda: 1.4 * velocity, {}))
    with pytest.raises(AssertionError, match=r"relative error 0\.4"):
        run(test_denoise_step.test_denoise_step, "ours bf16", TINY)


@pytest.mark.parametrize("way", ["chunks of 4, channels last", "fused decoder, chunks of 1"])
def test_vae_suite(way: str) -> None:
    assert run(test_vae_decode.test_vae_decode, way, TINY)["frames_per_s"] > 0


def test_a_wrong_decode_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        test_vae_decode, "decode_pixels", lambda vae, latents, chunk: 0.9 * decode_pixels(vae, latents, chunk)
    )
    with pytest.raises(AssertionError, match="relative"):
        run(test_vae_decode.test_vae_decode, "chunks of 4", TINY)


@pytest.mark.parametrize("weights", test_decode_step.WEIGHTS)
def test_decode_and_prefill_suites(weights: str) -> None:
    pytest.importorskip("bitsandbytes")
    for replies in test_decode_step.REPLIES:
        info = run(test_decode_step.test_decode_step, weights, replies, TINY)
        assert info["gb_per_s"] > 0 and info["tokens_per_s"] == pytest.approx(
            1e3 * replies / info["device_ms"]["median"]
        )
    assert run(test_prefill.test_prefill, weights, TINY)["tflops"] > 0


def test_a_wrong_step_or_prefill_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = torch.linspace(-1, 1, test_decode_step.critic("bf16", TINY).step.vocab_size)
    for module in (test_decode_step, test_prefill):
        monkeypatch.setattr(module, "expected_logits", lambda of: wrong)
    with pytest.raises(AssertionError, match="relative error"):
        run(test_decode_step.test_decode_step, "bf16", 1, TINY)
    with pytest.raises(AssertionError, match="not the library's token"):
        run(test_prefill.test_prefill, "bf16", TINY)


@pytest.mark.parametrize("name", test_four_bit.NAMES)
def test_four_bit_suite(name: str) -> None:
    pytest.importorskip("bitsandbytes")
    info = run(test_four_bit.test_four_bit, name, "down", 8, TINY)
    assert info["tflops"] > 0 and info["gb_per_s"] > 0


def test_a_wrong_four_bit_gemm_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    right = test_four_bit.four_bit.run
    monkeypatch.setattr(test_four_bit.four_bit, "run", lambda x, weight: 1.1 * right(x, weight))
    with pytest.raises(AssertionError, match="relative error"):
        run(test_four_bit.test_four_bit, "ours", "down", 1, TINY)


@pytest.mark.parametrize("way", [*test_overlap.ALONE, *list(test_overlap.WAYS)[:2]])
def test_overlap_suite(way: str) -> None:
    info = run(test_overlap.test_overlap, way, TINY)
    assert info["tokens"] == (0 if way == "generator alone" else test_overlap.TOKENS)


def test_a_way_that_spoils_a_lane_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, velocity = test_overlap.denoiser(TINY)
    monkeypatch.setattr(test_overlap, "denoiser", lambda size: (lambda: 1.1 * forward(), velocity))
    with pytest.raises(AssertionError, match="relative error"):
        run(test_overlap.test_overlap, test_overlap.STREAMS.name, TINY)


def test_rates_are_work_by_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_tools.timing, "time_gpu", lambda *given, **options: [1.0, 2.0, 4.0])
    benchmark = FakeBenchmark()
    benchmark_tools.measure(benchmark, lambda: None, group="g", flops=4e9, num_bytes=6_000_000)
    assert benchmark.extra_info["tflops"] == pytest.approx(2.0)
    assert benchmark.extra_info["gb_per_s"] == pytest.approx(3.0)
    assert "2.000 ms [1.200 to 3.600] n=3" in benchmark_tools.line_of(benchmark.extra_info)


def test_close_refuses_nan_and_both_bounds() -> None:
    x = torch.ones(8)
    benchmark_tools.assert_close(x, x, relative=0.0, cosine=1.0 - 1e-12)
    for wrong in (x * 1.1, x * float("nan"), -x):
        with pytest.raises(AssertionError):
            benchmark_tools.assert_close(wrong, x, relative=0.05, cosine=0.9)


def test_bytes_count_what_is_there() -> None:
    assert benchmark_tools.size_bytes(torch.zeros(3), None, torch.zeros(2, dtype=torch.int8)) == 14


def test_need_names_what_is_skipped() -> None:
    benchmark_tools.need("a kernel", None)
    with pytest.raises(pytest.skip.Exception, match="a kernel: too old"):
        benchmark_tools.need("a kernel", "too old")


def test_full_sizes_are_skipped_without_a_gpu_and_tiny_with_one() -> None:
    for has_gpu in (False, True):
        marks = {param.values[0]: param.marks[0] for param in _sizes(has_gpu)}
        assert {name: mark.args[0] for name, mark in marks.items()} == {
            "480p": not has_gpu, "draft": not has_gpu, TINY: has_gpu,
        }  # fmt: skip
        assert all(mark.kwargs["reason"] for mark in marks.values())


def _sizes(has_gpu: bool) -> list[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark_tools, "HAS_GPU", has_gpu)
        return list(benchmark_tools.sizes("480p", "draft").mark.args[1])


@pytest.mark.slow
def test_one_command_runs_all_suites(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    command = [sys.executable, "-m", "pytest", "bench/perf", "-rs", "-k", "tiny or draft", "--timeout=1800"]
    # a worker of pytest-xdist would pass on that it is one, and nothing is timed there
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, f"--benchmark-json={out}"], cwd=ROOT, capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stdout[-3000:]
    document = json.loads(out.read_text(encoding="utf-8"))
    suites = {entry["fullname"].partition("::")[0] for entry in document["benchmarks"]}
    assert suites == {
        f"bench/perf/test_{name}.py"
        for name in (
            "attention",
            "decode_step",
            "denoise_step",
            "four_bit",
            "fused",
            "linear",
            "overlap",
            "prefill",
            "vae_decode",
        )
    }
    assert all("device_ms" in entry["extra_info"] for entry in document["benchmarks"])
    assert document["machine_info"]["retake"]["torch"] == torch.__version__
    assert "node" not in document["machine_info"]
    if not benchmark_tools.HAS_GPU:
        assert "needs an NVIDIA GPU; torch sees none" in done.stdout
    assert "device times on" in done.stdout
