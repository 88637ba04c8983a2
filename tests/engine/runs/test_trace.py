"""Spans: recorded on the host and on a device."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest

from engine.runs.trace import CudaRecorder, HostRecorder


def test_host_recorder_times_the_body_from_several_threads() -> None:
    recorder = HostRecorder(origin_s=10.0)

    def work() -> None:
        with recorder.span("encode", "0001_left", 2, "encode"):
            time.sleep(0.02)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(ValueError), recorder.span("generate", "0002_left", 0, "generate"):
        raise ValueError
    spans = recorder.spans()
    assert [s.lane for s in spans] == ["encode"] * 4 + ["generate"]
    assert all(0.015 < s.end_s - s.start_s < 1.0 and s.attempt == 2 for s in spans[:4])
    assert 10.0 <= spans[0].start_s < 11.0


def test_what_settled_hands_over_leaves_memory() -> None:
    recorder = HostRecorder()
    for index in range(3):
        with recorder.span("encode", "0001_left", index, "encode"):
            pass
        if index == 1:
            assert [span.attempt for span in recorder.settled()] == [0, 1]
    assert [span.attempt for span in recorder.spans()] == [2]
    assert [span.attempt for span in recorder.settled()] == [2]
    assert recorder.spans() == ()


@pytest.mark.gpu
def test_cuda_recorder_places_device_work_on_the_host_clock() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    recorder = CudaRecorder()
    size = torch.randn(4096, 4096, device="cuda")
    began_s = time.perf_counter()
    for step in range(1200):
        with recorder.span("generate", "0001_left", step, "generate"):
            size @ size
    with recorder.span("encode", "0001_left", 0, "encode"):
        time.sleep(0.01)
    spans = recorder.spans()
    seconds = time.perf_counter() - began_s
    device = [s for s in spans if s.lane == "generate"]
    assert len(device) == 1200 and all(s.end_s > s.start_s >= 0 for s in device)
    assert all(before.end_s <= after.start_s + 1e-5 for before, after in pairwise(device))
    assert device[-1].end_s <= seconds + 0.5
    assert all(0 <= s.launch_s <= s.launched_s and s.launch_s <= s.start_s + 1e-3 for s in device)
