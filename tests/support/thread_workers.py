"""Workers on threads of this process in place of Ray actors: the driver's tests need no Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from engine.cluster.messages import Assignment, Ended, Lost, Message, Ready
from engine.cluster.worker import Worker
from engine.errors import RetakeError
from engine.settings.config import RunConfig
from engine.types import Asked

Heard = tuple[int, int, Message | Exception | None]
"""Worker, its life, and what it sends; None is its last."""


@dataclass
class ThreadWorkers:
    """As `engine.cluster.pool.Pool`. `loses` is asked of each message whether its worker is lost before it
    says that; `restarts`: how often each is started again."""

    nodes: Sequence[str]
    loses: Callable[[int, Message], bool] = lambda worker, message: False
    restarts: int = 3
    together: bool = False
    """What a worker says from its first finished scenario on is heard once all are ready: none then finds
    nothing left to do."""
    listened: list[tuple[int, bool]] = field(default_factory=list)
    config: Mapping[int, RunConfig] = field(default_factory=dict)
    """Of workers whose settings are not those of all."""

    def __post_init__(self) -> None:
        self.size = len(self.nodes)
        self._heard: SimpleQueue[Heard] = SimpleQueue()
        self._workers: list[Worker] = []
        self._lives = [0] * self.size
        self._open: set[int] = set()
        self._ready: set[int] = set()
        self._held: dict[int, list[Heard]] = {}
        self._threads = ThreadPoolExecutor(16)

    def start(self, config: RunConfig, only: Sequence[str] | None) -> list[str]:
        self._make = lambda k: Worker(self.config.get(k, config), only, str(k))
        self._workers = [self._make(number) for number in range(self.size)]
        return list(self.nodes)

    def listen(self, worker: int, *, digest: bool) -> None:
        self.listened.append((worker, digest))
        self._open.add(worker)
        self._threads.submit(self._listen, worker, self._lives[worker], self._workers[worker], digest)

    def _listen(self, number: int, life: int, worker: Worker, digest: bool) -> None:
        try:
            for message in worker.work(digest=digest, num_on_node=1, sends_log=False):
                self._heard.put((number, life, message))
            self._heard.put((number, life, None))
        except Exception as error:  # noqa: BLE001
            self._heard.put((number, life, error))

    def import_ahead(self, worker: int) -> None:
        pass

    def give(self, worker: int, given: Assignment | Asked | None) -> None:
        self._workers[worker].give(given)

    def messages(self) -> Iterator[tuple[int, Any] | None]:
        while self._open:
            try:
                worker, life, message = self._next()
            except Empty:
                yield None
                continue
            if life != self._lives[worker]:
                continue  # of one that was lost
            if isinstance(message, Exception):
                yield worker, self._lose(worker, message)
            elif message is None:
                self._open.discard(worker)
                yield worker, None
            elif self.loses(worker, message):
                yield worker, self._lose(worker, None)
            else:
                yield worker, message

    def _next(self) -> Heard:
        """Raises Empty now and then."""
        if len(self._ready) == self.size and self._held:
            worker, held = next(iter(self._held.items()))
            if len(held) == 1:
                del self._held[worker]
            return held.pop(0)
        heard = self._heard.get(timeout=0.1)
        worker, _, message = heard
        if isinstance(message, Ready):
            self._ready.add(worker)
        waits = self.together and len(self._ready) < self.size
        if worker in self._held or (waits and isinstance(message, Ended)):
            self._held.setdefault(worker, []).append(heard)
            raise Empty
        return heard

    def _lose(self, worker: int, error: Exception | None) -> Lost:
        self._workers[worker].give(None)  # its thread ends, and nobody hears it
        self._lives[worker] += 1
        for_good = self._lives[worker] > self.restarts
        self._open.discard(worker)
        if not for_good:
            self._workers[worker] = self._make(worker)
            self.listen(worker, digest=True)
        told = error if isinstance(error, RetakeError) else None
        return Lost(why=repr(error), error=told, for_good=for_good)

    def close(self) -> None:
        for worker in self._workers:
            worker.give(None)
        self._threads.shutdown(wait=True)
