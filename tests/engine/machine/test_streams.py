"""Fences and the host pool on the CPU; streams and events under the marker gpu."""

from __future__ import annotations

import threading

import pytest
import torch

from engine.machine.streams import EventFence, FutureFence, HostFence, HostPool, LaneStreams, fence

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def test_host_fence_is_done_at_once() -> None:
    on_cpu = fence(torch.device("cpu"))
    assert isinstance(on_cpu, HostFence) and on_cpu.done()
    on_cpu.wait()


def test_host_job_runs_once_on_a_thread_and_never_blocks_launch() -> None:
    gate = threading.Event()

    def work() -> str:
        assert gate.wait(5)
        return threading.current_thread().name

    with HostPool(1) as pool:
        job = pool.job(work)
        assert job.steps_left == 1
        running = job.launch()
        assert isinstance(running, FutureFence) and job.steps_left == 0 and not running.done()
        gate.set()
        running.wait()
        assert running.done() and job.result().startswith("retake-host")
        with pytest.raises(AssertionError, match="once"):
            job.launch()


def test_failure_on_a_thread_is_done_and_raised_by_result() -> None:
    def work() -> None:
        raise OSError("disk full")

    with HostPool(1) as pool:
        job = pool.job(work)
        failing = job.launch()
        failing.wait()
        assert failing.done()
        with pytest.raises(OSError, match="disk full"):
            job.result()


def test_close_finishes_what_began_and_drops_what_did_not() -> None:
    begun, gate = threading.Event(), threading.Event()
    finished: list[int] = []

    def first() -> None:
        begun.set()
        assert gate.wait(5)
        finished.append(1)

    pool = HostPool(1)
    pool.job(first).launch()
    pool.job(lambda: finished.append(2)).launch()
    assert begun.wait(5)
    threading.Timer(0.05, gate.set).start()
    pool.close()
    assert finished == [1]


def test_lanes_on_a_cpu_have_no_stream() -> None:
    lanes = LaneStreams(torch.device("cpu"))
    assert lanes.streams == {}
    with lanes("generate"), lanes("encode"):
        assert torch.ones(2).sum() == 2


@pytest.mark.gpu
@needs_gpu
def test_event_fence_and_lane_streams() -> None:
    device = torch.device("cuda")
    lanes = LaneStreams(device)
    large = torch.randn(8192, 8192, device=device)
    torch.cuda.synchronize()
    with lanes("generate"):
        assert torch.cuda.current_stream() == lanes.streams["generate"]
        for _ in range(20):
            large = large @ large / 8192
        running = fence(device)
    assert isinstance(running, EventFence) and not running.done()
    with lanes("critique"):
        short = fence(device)
    short.wait()
    assert not running.done(), "the lanes do not wait for one another"
    running.wait()
    assert running.done()
    assert lanes.streams["generate"].priority < lanes.streams["critique"].priority, "lower goes first"


@pytest.mark.gpu
@needs_gpu
def test_the_next_run_of_a_process_takes_the_memory_of_the_one_before() -> None:
    device = torch.device("cuda")
    reserved = []
    for _ in range(2):
        with LaneStreams(device)("generate"):
            torch.empty(256 << 20, dtype=torch.uint8, device=device)
        torch.cuda.synchronize()
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[0] == reserved[1]
