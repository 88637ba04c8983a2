"""CUDA graphs of a function of tensors: captured at the first call, replayed afterwards on fixed buffers.

Knows no model. A graph reads its own copies of the inputs, so that callers may pass any tensors of the same
shapes; the trailing ones that hardly change are copied only when another tensor is given.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

WARM_UP_CALLS = 2
"""Before a capture: compilation, autotuning and workspaces must be over, since none may happen inside."""


class DeviceCalls:
    """Calls that threads make at the same time, and captures of graphs, each of which is alone.

    Whoever waits for the whole device while any stream is captured gets an error, on whatever thread, and
    loses the capture (CUDA Runtime API, "Stream Management", cudaStreamBeginCapture); compilation, autotuning
    and full caches do so without being asked. A thread that captures inside a call of its own gives that call
    up meanwhile, so that two may wish to capture at once.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_calls = 0
        self._num_waiting = 0
        self._is_alone = False
        self._own = threading.local()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Beside other calls, and after those who wait to be alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone and not self._num_waiting)
            self._num_calls += 1
        self._own.calls = self._calls_of_this_thread() + 1
        try:
            yield
        finally:
            self._own.calls -= 1
            with self._changed:
                self._num_calls -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Beside no call of another thread."""
        own = self._calls_of_this_thread()
        with self._changed:
            self._num_calls -= own
            self._num_waiting += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_alone and not self._num_calls)
            self._num_waiting -= 1
            self._is_alone = True
        try:
            yield
        finally:
            with self._changed:
                self._num_calls += own
                self._is_alone = False
                self._changed.notify_all()

    def _calls_of_this_thread(self) -> int:
        return int(getattr(self._own, "calls", 0))


DEVICE_CALLS = DeviceCalls()
"""Of this process: lanes that have threads call into their jobs through it."""


_SIDES = threading.local()
"""Of each thread, the streams on which it captures. The allocator keeps what is freed for the stream that it
was made on: with a new stream for every graph, what the warm-up took would stay with each of them."""


def _side_stream() -> torch.cuda.Stream:
    """This thread's own, of the priority of its current stream and on the same device."""
    current = torch.cuda.current_stream()
    streams: dict[tuple[torch.device, int], torch.cuda.Stream] = _SIDES.__dict__.setdefault("streams", {})
    key = (current.device, current.priority)
    if key not in streams:
        streams[key] = torch.cuda.Stream(current.device, priority=current.priority)
    return streams[key]


class GraphPool:
    """Memory that graphs share which replay one after the other and leave nothing there that is read once
    another one has been replayed. None of it is taken before the first capture."""

    def __init__(self) -> None:
        self._handle: Any = None

    @property
    def handle(self) -> Any:
        if self._handle is None:
            self._handle = torch.cuda.graph_pool_handle()
        return self._handle


def captured(
    function: Callable[[], Result], pool: GraphPool | None = None
) -> tuple[torch.cuda.CUDAGraph, Result]:
    """A graph of `function` on the current device, and its result, which every replay writes again.

    `function` is called WARM_UP_CALLS times before the capture, on a stream of its own of the same priority:
    torch instantiates graphs so that each kernel keeps the priority of the stream it was captured on.
    `pool`: None is one of its own.
    """
    side = _side_stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_CALLS):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # its own stream, since that of torch.cuda.graph is one for all threads
    with (
        DEVICE_CALLS.alone(),
        torch.cuda.graph(
            graph, pool=None if pool is None else pool.handle, stream=side, capture_error_mode="thread_local"
        ),
    ):
        result = function()
    return graph, result


class GraphedForward:
    """Replays `function`; every call must have the shapes and dtypes of the first one.

    Its results leave the graph's memory at once, so that several on one stream may have one `pool`.
    The first `num_changing` inputs are copied at every call. The others are taken to be the same values for
    as long as they are the same tensor: nobody may write into them.
    """

    def __init__(
        self, function: Callable[..., tuple[Tensor, ...]], *, num_changing: int, pool: GraphPool | None = None
    ) -> None:
        self._function = function
        self._pool = pool
        self._num_changing = num_changing
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._seen: list[Tensor | None] = []
        self._outputs: tuple[Tensor, ...] = ()

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The results in new tensors, enqueued on the current stream."""
        if self._graph is None:
            self._capture(tensors)
        assert self._graph is not None
        for position, (mine, given) in enumerate(zip(self._inputs, tensors, strict=True)):
            if position < self._num_changing or self._seen[position] is not given:
                assert mine.shape == given.shape and mine.dtype == given.dtype, (
                    f"input {position} is {tuple(given.shape)} {given.dtype}, captured {tuple(mine.shape)}"
                )
                mine.copy_(given)
                self._seen[position] = given  # kept alive, so that `is` cannot mistake a reused address
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)

    def _capture(self, tensors: tuple[Tensor, ...]) -> None:
        self._inputs = tuple(tensor.clone() for tensor in tensors)
        self._seen = [None] * len(tensors)
        self._graph, self._outputs = captured(lambda: self._function(*self._inputs), self._pool)
