"""Fences, one CUDA stream per lane, and the host's thread pool.

Knows no model and no scheduler; imports torch only where a stream or an event is made. Invariant: nothing
here waits for the device except `wait`, and that is called by a consumer.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from engine.protocols import Fence, Job

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

LANE_PRIORITY = {"generate": -1, "critique": 0, "select": 0}
"""Lower is served first. The critic's kernels take what the generator leaves: replies that wait meanwhile are
then written together, several for the price of one."""


class HostFence:
    """Work that was over when `launch` returned, as every step on a CPU is."""

    def done(self) -> bool:
        return True

    def wait(self) -> None:
        return None


class FutureFence:
    """Work on a host thread. A failure counts as done; the job's `result` raises it."""

    def __init__(self, future: concurrent.futures.Future[T]) -> None:
        self._future = future

    def done(self) -> bool:
        return self._future.done()

    def wait(self) -> None:
        concurrent.futures.wait([self._future])


class EventFence:
    """Everything enqueued on a CUDA stream so far. `done` queries, only `wait` blocks."""

    def __init__(self, stream: torch.cuda.Stream | None = None) -> None:
        """Recorded on `stream`, or on the current one."""
        import torch

        self._event = torch.cuda.Event()
        self._event.record(stream)

    def done(self) -> bool:
        return bool(self._event.query())

    def wait(self) -> None:
        self._event.synchronize()


def fence(device: torch.device) -> Fence:
    """The fence of what was just launched on the current stream of `device`."""
    return EventFence() if device.type == "cuda" else HostFence()


@cache
def _lane_stream(index: int, lane: str) -> torch.cuda.Stream:
    """The one of this process for a lane of the GPU with that index."""
    import torch

    return torch.cuda.Stream(index, priority=LANE_PRIORITY[lane])


class LaneStreams:
    """Called with a lane's name: the context in which that lane launches its work, on the caller's thread.

    On a GPU each lane with device work has its own stream; on a CPU, and for the encode lane, the context
    does nothing. All runs of a process have the same streams: the allocator keeps what was freed for the
    stream that it was made on, so that with new ones the next run would take its memory once more.
    Lane streams first wait for the stream that was current at construction, on which models were loaded.
    """

    def __init__(self, device: torch.device) -> None:
        self.streams: dict[str, torch.cuda.Stream] = {}
        if device.type == "cuda":
            import torch

            index = torch.cuda.current_device() if device.index is None else device.index
            for lane in LANE_PRIORITY:
                stream = _lane_stream(index, lane)
                stream.wait_stream(torch.cuda.current_stream(device))
                self.streams[lane] = stream

    def __call__(self, lane: str) -> AbstractContextManager[None]:
        if lane not in self.streams:
            return nullcontext()
        import torch

        return torch.cuda.stream(self.streams[lane])


class HostThread:
    """One thread that calls functions in the order given; `Calls` of the protocols."""

    def __init__(self, name: str) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=f"retake-{name}")

    def __call__(self, function: Callable[[], None]) -> concurrent.futures.Future[None]:
        return self._pool.submit(function)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Drop what has not begun and wait for what has."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class HostPool:
    """Threads for blocking host work (mp4 encoding, selectors), offered as jobs of one step."""

    def __init__(self, num_threads: int) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(num_threads, thread_name_prefix="retake-host")

    def job(self, work: Callable[[], T]) -> Job[T]:
        return _HostJob(self._pool, work)

    def close(self) -> None:
        """Drop what has not begun and wait for what has, so that no video stays half written."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _HostJob(Generic[T]):
    def __init__(self, pool: concurrent.futures.ThreadPoolExecutor, work: Callable[[], T]) -> None:
        self._pool = pool
        self._work = work
        self._future: concurrent.futures.Future[T] | None = None

    @property
    def steps_left(self) -> int:
        return 1 if self._future is None else 0

    @property
    def stage(self) -> str:
        return ""

    def launch(self) -> Fence:
        assert self._future is None, "a host job is launched once"
        self._future = self._pool.submit(self._work)
        return FutureFence(self._future)

    def result(self) -> T:
        assert self._future is not None, "launch comes before result"
        return self._future.result()
