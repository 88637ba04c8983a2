"""Ways for the lanes to share one GPU's multiprocessors, as data; each opens as the streams of the lanes.

A denoise step is kernels of milliseconds that fill the card, a critic's step a graph of a hundred short ones
that wait for a place between them. Stream priority decides who gets the next free multiprocessor and frees
none; what leaves some free is a margin of the persistent kernels (FlashAttention-3, GEMMs), or a green
context for the generator alone: the critic's graphs then run anywhere. Which is best is measured, not known
(bench/perf/overlap). Knows no model and no scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from bench.perf.overlap import green_context
from engine.machine.streams import LANE_PRIORITY, LaneStreams
from kernels import sm_margin

if TYPE_CHECKING:
    import torch

OnLane = Callable[[str], AbstractContextManager[None]]
GENERATE, CRITIQUE = "generate", "critique"

TESTED_GEMMS = ((256, 512, 512), (4096, 1024, 3072), (1021, 3072, 1024))
"""M, K, N."""
MAX_RELATIVE_ERROR = 0.01
"""Of a bf16 GEMM against the same one outside; another order of sums brings 0.003."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """`one_stream`: the lanes take turns, a step of each. Numbers are of multiprocessors.

    A margin or a green context may change which GEMM a library picks and with it the last bits of a take, so
    that a run keeps to one sharing.
    """

    name: str
    one_stream: bool = False
    critic_priority: int = LANE_PRIORITY[CRITIQUE]
    """Of its stream; lower goes first. What is captured into a graph keeps that of its capture."""
    sm_margin: int = 0
    """That FlashAttention-3 leaves free."""
    sm_carveout: int = 0
    """That GEMMs of cuBLASLt and CUTLASS leave free; those of other libraries do not know of it."""
    green_sms: int = 0
    """That the generator's green context leaves out, at least."""


STREAMS = Sharing(name="streams, generator first")
ONE_STREAM = Sharing(name="one stream, steps in turn", one_stream=True)
SHARINGS = (
    STREAMS,
    ONE_STREAM,
    Sharing(name="streams, equal", critic_priority=LANE_PRIORITY[GENERATE]),
    *(
        Sharing(name=f"streams, critic first{told}", critic_priority=LANE_PRIORITY[GENERATE] - 1, sm_margin=n)
        for n, told in ((0, ""), (16, ", attention margin 16"))
    ),
    *(Sharing(name=f"attention margin {n}", sm_margin=n) for n in (16, 32)),
    *(Sharing(name=f"attention and GEMM margin {n}", sm_margin=n, sm_carveout=n) for n in (16, 32)),
    *(Sharing(name=f"green context without {n}", green_sms=n, sm_margin=n, sm_carveout=n) for n in (16, 32)),
)
"""What is tried, the product's own first."""


def missing(sharing: Sharing, device: torch.device) -> str | None:
    """Why `sharing` cannot be had on this machine; None: it can be tried."""
    if sharing in (STREAMS, ONE_STREAM):
        return None  # on a CPU both are the caller's thread
    if device.type != "cuda":
        return "needs an NVIDIA GPU"
    if sharing.sm_margin and find_spec("fa3_fwd_interface") is None:
        return "the package fa3_fwd is not installed"
    if sharing.sm_carveout and (reason := sm_margin.gemms_missing()):
        return reason
    return green_context.missing() if sharing.green_sms else None


@contextmanager
def shared(sharing: Sharing, lanes: LaneStreams) -> Iterator[OnLane]:
    """The contexts in which lanes launch, from those of `lanes`; margins hold for the process meanwhile.

    Raises ConfigError where the driver refuses a green context.
    """
    streams = dict(lanes.streams)
    if streams:
        device = streams[GENERATE].device
        if sharing.green_sms:
            priority = streams[GENERATE].priority
            streams[GENERATE], _ = green_context.stream_without(device, sharing.green_sms, priority)
        if sharing.one_stream:
            streams[CRITIQUE] = streams[GENERATE]
        elif sharing.critic_priority != STREAMS.critic_priority:
            streams[CRITIQUE] = _stream(device, sharing.critic_priority)
    with sm_margin.leaving_free(attention=sharing.sm_margin, gemms=sharing.sm_carveout):
        yield lambda lane: _on(streams.get(lane))


def self_test(on_lane: OnLane, device: torch.device) -> str | None:
    """Why numbers of a lane cannot be trusted; None: GEMMs in both are those of the current stream.

    Partitions are said to give wrong products without an error: those of MPS, with cuBLAS on Hopper
    (docs/MPS-CUBLAS-CORRUPTION.md of TimelyLLM). Waits for the device: once, before a run.
    """
    import torch

    for rows, k, n in TESTED_GEMMS:
        x, w = (torch.randn(shape, device=device, dtype=torch.bfloat16) for shape in ((rows, k), (k, n)))
        expected = (x @ w).float()
        for lane in (GENERATE, CRITIQUE):
            _settle(device)
            with on_lane(lane):
                found = (x @ w).float()
            _settle(device)
            error = float((found - expected).norm() / expected.norm())
            if not error <= MAX_RELATIVE_ERROR:
                return f"a GEMM {rows} x {k} x {n} in lane {lane} has a relative error of {error:.3g}"
    return None


@cache
def _stream(device: torch.device, priority: int) -> torch.cuda.Stream:
    """Kept, since the allocator's blocks belong to their stream."""
    import torch

    stream = torch.cuda.Stream(device, priority=priority)
    stream.wait_stream(torch.cuda.current_stream(device))
    return stream


def _on(stream: torch.cuda.Stream | None) -> AbstractContextManager[None]:
    if stream is None:
        return nullcontext()
    import torch

    return torch.cuda.stream(stream)


def _settle(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
