"""Workers as Ray actors: started, given work, listened to, started again when they are lost.

The only module that imports Ray, which is optional. What it adds to Ray: its errors in our words. Actors are
placed, restarted and cleaned up by Ray, which also ends them with the driver.
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Self

from engine.cluster.messages import Assignment, Lost, Message
from engine.cluster.worker import Worker
from engine.errors import ConfigError, DeviceError, RetakeError
from engine.settings.config import RunConfig
from engine.settings.environment import ray_sends_nothing
from engine.types import Asked

LOCAL = "local"
INSTALL = "pip install 'retake-engine[cluster]' (from a clone: pip install '.[cluster]')"
RESTARTS = 3
"""How often Ray starts a worker again that was lost; one whose machine is gone, on another."""
AGAIN_S = 1.0
"""Until a worker that is being started again is asked again."""
MOST_TRIES = 600
"""Of asking it, before it is given up: a cluster may have no other GPU for it."""
OBJECT_STORE_BYTES = 1 << 29
"""Shared memory of a local cluster: messages on their way, of which an mp4 is the largest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How many engines, on what: `gpus` with a GPU each, or `cpus` that share the cores. `address` is that of
    a Ray cluster, None for one of this machine's own that ends with the run."""

    gpus: int | None = None
    cpus: int | None = None
    address: str | None = None

    def check(self, device: str) -> None:
        """ConfigError unless they can be meant for the setting `device`."""
        if self.gpus is not None and self.cpus is not None:
            raise ConfigError("--gpus and --workers are both given", fix="leave one of them out")
        if self.cpus is not None and device != "cpu":
            raise ConfigError(
                f"--workers {self.cpus} share a CPU, but device is {device!r}",
                fix="give --gpus N for N engines with a GPU each, or add --device cpu",
            )
        if self.cpus is None and device == "cpu":
            raise ConfigError(
                "device is 'cpu', and --gpus and --ray give each engine a GPU of its own",
                fix="give --workers N for N engines that share the CPU, or leave --device out",
            )

    def settings(self, config: RunConfig) -> RunConfig:
        """Those of each worker: one that finds no GPU where it should have one does not take the CPU."""
        return config if self.cpus is not None else replace(config, device="cuda")


class Pool:
    """A context: leaving it ends the workers, and a local cluster."""

    def __init__(self, workers: Workers, kind: type[Worker] = Worker) -> None:
        """ConfigError: Ray is not installed, no cluster is at the address, or it has fewer GPUs free."""
        self._kind = kind
        self._unit = "GPU" if workers.cpus is None else "CPU"
        self._ray = _connected(workers)
        self._actors: list[Any] = []
        self._nodes: list[str] = []
        self._streams: dict[Any, int] = {}
        """What each worker sends, by the stream; the one that was heard last is the last."""
        self._again_s: dict[int, float] = {}
        """When a worker that was lost is asked again, on the monotonic clock."""
        self._tries: Counter[int] = Counter()
        """How often a worker was asked since it was heard last."""
        with ExitStack() as refused:
            refused.callback(self.close)
            self.size = self._room(workers)
            refused.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._ray.shutdown()

    def start(self, config: RunConfig, only: Sequence[str] | None) -> list[str]:
        """The node of each worker; they load nothing before `listen`. DeviceError: one does not start."""
        ray = self._ray
        actor = ray.remote(self._kind).options(
            num_cpus=1,
            num_gpus=1 if self._unit == "GPU" else 0,
            max_concurrency=2,  # `work`, and `give` meanwhile
            max_restarts=RESTARTS,
            max_task_retries=0,  # what was sent is stored: the driver knows where to go on, Ray does not
        )
        self._actors = [actor.remote(config, only, str(number)) for number in range(self.size)]
        try:
            self._nodes = ray.get([one.__ray_call__.remote(_node) for one in self._actors])
        except ray.exceptions.RayError as error:
            raise DeviceError(
                f"a worker does not start: {_told(error)}", fix="install the same Retake on every machine"
            ) from error
        return list(self._nodes)

    def listen(self, worker: int, *, digest: bool) -> None:
        """Have it load its models; from now on `messages` has what it sends."""
        on_node = self._nodes.count(self._nodes[worker])
        work = self._actors[worker].work.options(num_returns="streaming")
        self._streams[work.remote(digest=digest, num_on_node=on_node)] = worker
        self._tries[worker] += 1

    def process(self, worker: int) -> int:
        """Its id, on its own machine."""
        # of a lambda the code is sent, with no module that the worker would have to find
        found: int = self._ray.get(self._actors[worker].__ray_call__.remote(lambda _: os.getpid()))
        return found

    def import_ahead(self, worker: int) -> None:
        self._actors[worker].import_ahead.remote()

    def give(self, worker: int, given: Assignment | Asked | None) -> None:
        self._actors[worker].give.remote(given)

    def messages(self) -> Iterator[tuple[int, Message | Lost | None] | None]:
        """As they come, until no worker is left; None is a worker's last, and None in place of a worker says
        that none said anything for a second. One that is lost is started again, and says `Ready` anew."""
        ray = self._ray
        while self._streams or self._again_s:
            self._ask_again()
            if not self._streams:
                time.sleep(AGAIN_S)
                continue
            ready, _ = ray.wait(list(self._streams), num_returns=1, timeout=AGAIN_S)
            if not ready:
                yield None
            for stream in ready:
                worker = self._streams.pop(stream)
                try:
                    message = ray.get(next(stream))
                except StopIteration:  # it was told that there will be nothing more
                    yield worker, None
                    continue
                except ray.exceptions.RayError as error:
                    if (lost := self._lost(worker, error)) is not None:
                        yield worker, lost
                    continue
                self._streams[stream] = worker  # behind the others, so that none waits for long
                self._tries[worker] = 0
                yield worker, message

    def _lost(self, worker: int, error: Exception) -> Lost | None:
        """None where it was lost before and is not there again yet."""
        exceptions = self._ray.exceptions
        if isinstance(error, exceptions.ActorUnavailableError) and 1 < self._tries[worker] < MOST_TRIES:
            self._again_s[worker] = time.monotonic() + AGAIN_S
            return None
        cause = getattr(error, "cause", None)
        for_good = isinstance(error, exceptions.ActorDiedError) or self._tries[worker] >= MOST_TRIES
        if for_good:
            self._ray.kill(self._actors[worker])
        else:
            if not isinstance(error, exceptions.RayActorError):  # its process lives, its engine is over
                self._ray.kill(self._actors[worker], no_restart=False)
            self._again_s[worker] = time.monotonic() + AGAIN_S
            self._tries[worker] = 1
        told = cause if isinstance(cause, RetakeError) else None
        return Lost(why=_told(error), error=told, for_good=for_good)

    def _ask_again(self) -> None:
        now_s = time.monotonic()
        for worker in [worker for worker, at_s in self._again_s.items() if at_s <= now_s]:
            del self._again_s[worker]
            self.listen(worker, digest=True)

    def _room(self, workers: Workers) -> int:
        """How many workers there will be."""
        free = int(self._ray.available_resources().get(self._unit, 0))
        wanted = workers.cpus or workers.gpus or free
        if not 1 <= wanted <= free:
            place = f"the cluster at {workers.address}" if workers.address else "this machine"
            asked = "" if wanted < 1 else f", and {wanted} are asked for"
            fix = (
                f"ask for at most {free}" if free else "see `retake doctor`; or give --device cpu --workers N"
            )
            raise ConfigError(f"{place} has {free} {self._unit}s free{asked}", fix=fix)
        return wanted


def _connected(workers: Workers) -> Any:
    """The module ray, with a cluster."""
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError("several engines need Ray, which is not installed", fix=INSTALL) from error
    quiet = {"log_to_driver": False, "configure_logging": False}
    before = signal.getsignal(signal.SIGTERM)
    ray_sends_nothing()
    try:
        if workers.address is None:
            ray.init(
                "local",
                num_cpus=workers.cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )
        else:
            ray.init(workers.address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {workers.address or LOCAL}: {error}",
            fix="start one with `ray start --head`, and give the address that it prints",
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray's would end the process without a word of how to go on
    return ray


def _node(worker: Worker) -> str:
    """Called in the worker's process."""
    found: str = importlib.import_module("ray").get_runtime_context().get_node_id()
    return found


def _told(error: Exception) -> str:
    """On one line, without Ray's own traceback."""
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0].strip() if lines else ''}"
