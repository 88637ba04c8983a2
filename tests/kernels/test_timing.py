"""Lists of times: how many, of what, in which order; and what a stored time depends on."""

from __future__ import annotations

import time

import pytest
import torch

from kernels import timing


def sleep(ms: float) -> None:
    time.sleep(ms / 1e3)


def test_summary_is_of_the_list() -> None:
    result = timing.summary([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (result.median, result.n) == (3.0, 5)
    assert (result.p10, result.p90) == (pytest.approx(1.4), pytest.approx(4.6))
    assert timing.summary([7.0]) == timing.Summary(median=7.0, p10=7.0, p90=7.0, n=1)
    with pytest.raises(AssertionError):
        timing.summary([])


def test_time_counts_repeats_and_not_the_warmup() -> None:
    calls: list[int] = []

    def slow_at_first() -> None:
        calls.append(1)
        sleep(30 if len(calls) <= 2 else 2)

    times_ms = timing.time_gpu(slow_at_first, repeats=4, warmup=2, device="cpu")
    assert len(calls) == 6 and len(times_ms) == 4
    assert 1.5 < timing.summary(times_ms).median < 25


def test_alternate_takes_turns_and_reverses_every_second_round() -> None:
    calls: list[str] = []
    times_ms = timing.alternate(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, warmup=1, device="cpu"
    )
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(times) for name, times in times_ms.items()} == {"a": 3, "b": 3}


def test_alternate_gives_each_its_own_times() -> None:
    times_ms = timing.alternate({"slow": lambda: sleep(8), "quick": lambda: sleep(0.5)}, 3, device="cpu")
    assert timing.summary(times_ms["slow"]).median > 3 * timing.summary(times_ms["quick"]).median


def test_nothing_to_time_is_an_error() -> None:
    with pytest.raises(AssertionError):
        timing.alternate({}, 3)
    with pytest.raises(AssertionError):
        timing.time_gpu(lambda: None, repeats=0, warmup=0)


def test_machine_names_the_versions() -> None:
    known = timing.machine()
    assert known["torch"] == torch.__version__
    assert torch.cuda.is_available() == ("driver" in known)


@pytest.mark.gpu
def test_events_time_the_device() -> None:
    a = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    times_ms = timing.time_gpu(lambda: a @ a, repeats=5, warmup=2)
    # 137 GFLOP: between the roof of any GPU and a tenth of a millisecond's launch noise.
    assert all(0.02 < ms < 1000 for ms in times_ms)
    assert timing.driver_version() != "unknown"
