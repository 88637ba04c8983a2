#!/usr/bin/env bash
# A CUDA graph of torch that is replayed in a stream of high priority does not have that priority: torch instantiates
# graphs with cudaGraphInstantiateFlagUseNodePriority, so that each kernel keeps the priority of the stream on which it
# was captured. torch.cuda.graph captures on a stream of its own of default priority, so that a decoder replayed "first"
# waits behind whatever fills the GPU, as if no priority had been given. Capturing on a stream of high priority helps,
# and then holds even where the graph is replayed in an ordinary stream.
#
# Needs an NVIDIA GPU. Seen on 2026-11-29, one H200, torch 2.11.0 for CUDA 13.0, 200 small kernels beside a full GPU:
#   captured as usual, replayed in a stream of high priority: 27.2 ms
#   captured with high priority, replayed in an ordinary stream: 1.6 ms
#   captured with high priority, replayed in a stream of high priority: 1.6 ms
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.11.0"

"$work/venv/bin/python" - <<'P'
import statistics
import time

import torch

LOW, HIGH = 0, -1
full = torch.rand(1 << 28, device="cuda")  # an element-wise pass over it has far more blocks than fit at once
small = torch.rand(1 << 10, device="cuda")
busy = torch.cuda.Stream(priority=LOW)


def kernels():
    for _ in range(200):
        small.add_(1)


def graph_captured(priority=None):
    stream = None if priority is None else torch.cuda.Stream(priority=priority)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        kernels()
    return graph


def ms_beside_a_full_gpu(graph, priority):
    stream, times = torch.cuda.Stream(priority=priority), []
    for _ in range(7):
        torch.cuda.synchronize()
        with torch.cuda.stream(busy):
            for _ in range(400):
                full.sin_()
        time.sleep(0.01)
        with torch.cuda.stream(stream):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            end.record()
        end.synchronize()
        assert not busy.query(), "the GPU was not busy throughout"
        times.append(start.elapsed_time(end))
    return statistics.median(times[2:])


kernels()
usual, first = graph_captured(), graph_captured(HIGH)
found = {
    "captured as usual, replayed in a stream of high priority": ms_beside_a_full_gpu(usual, HIGH),
    "captured with high priority, replayed in an ordinary stream": ms_beside_a_full_gpu(first, LOW),
    "captured with high priority, replayed in a stream of high priority": ms_beside_a_full_gpu(first, HIGH),
}
for name, ms in found.items():
    print(f"{name}: {ms:.1f} ms")
slow, other, quick = found.values()
assert slow > 2 * quick and slow > 2 * other, "the priority is that of the stream of the replay now"
P
