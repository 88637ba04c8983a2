"""The driver of several engines: it hands out the scenarios of a run and alone writes its folder.

Loads no model and opens no clip: the workers do, and send what they make. Invariants: what is stored does not
depend on who worked at what, or in which order; a scenario is with one worker at a time, and goes on from
what is stored of it.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.build.run import refuse
from engine.cluster.desk import Desk
from engine.cluster.handout import MOST_LOSSES, HandOut
from engine.cluster.messages import Assignment, ClipFiles, Ended, Lost, Message, Ready
from engine.cluster.pool import Pool
from engine.errors import DeviceError, StoreError
from engine.loop.scheduler import NothingAsked
from engine.protocols import Control, Display
from engine.runs.changes import changes, listed
from engine.runs.manifest import MANIFEST, read_manifest, write_manifest
from engine.runs.states import states_bytes
from engine.runs.store import RunStore
from engine.runs.trace_file import end_of_trace_s, kept_trace
from engine.settings.config import RunConfig
from engine.types import Asked, Outcome, Scenario

log = logging.getLogger(__name__)

NOTES = ("denoiser", "critic")
"""Of a manifest: which kernels and formats were chosen. Where cards differ, these may."""


class Driver:
    """Made when one worker is ready, the `first`: what it found is what the run rests on."""

    def __init__(
        self, pool: Pool, config: RunConfig, only: Sequence[str] | None, *, wait_for: int = 1
    ) -> None:
        """`only`: the scenarios that are left. `wait_for`: workers that must be ready.

        RetakeError of a worker that cannot load its models, as it raised it; DeviceError: none starts.
        """
        self.pool = pool
        self._began_s = time.monotonic()
        self._nodes = pool.start(config, only)
        self._asleep: dict[str, list[int]] = {}
        """Workers that were not told to load yet, by node. The first there chooses kernels, fills the caches
        and has the weights read from the disk; the others find all that."""
        for worker, node in enumerate(self._nodes):
            self._asleep.setdefault(node, []).append(worker)
        self._known: set[int] = set()
        """Workers that were ready once."""
        self._ready: set[int] = set()
        self._why = "nothing that is known"
        self._workers: list[dict[str, Any]] = []
        """Of the manifest."""
        self._messages = pool.messages()
        self._control: Control = NothingAsked()
        self._asked = Asked()
        for node in self._asleep:
            self._wake(node)
        for worker in itertools.chain.from_iterable(self._asleep.values()):
            pool.import_ahead(worker)
        self.first = self._first_ready()
        while len(self._ready) < wait_for:
            self._meanwhile(*self._next())
        self.config = self.first.config

    @property
    def facts(self) -> dict[str, Any]:
        """The manifest of a run that starts now."""
        return {**self.first.facts, "argv": sys.argv, "workers": list(self._workers)}

    def run(self, store: RunStore, display: Display, control: Control) -> None:
        """Until every scenario has its outcome and the workers have said all. RunLost by the store,
        DeviceError when no worker is left, StoreError for a worker that has other files or versions."""
        desk = Desk(store, display, origin_s=end_of_trace_s(store.folder), num_workers=self.pool.size)
        usable = [one for one in self.first.scenarios if one.id not in self.first.refused]
        refused = refuse(store, usable, self.first.refused, desk.sink, display)
        loop = self.config.loop
        handout = HandOut(
            [one for one in usable if one.id not in refused],
            store.history,
            num_takes=(loop.loops + 1) * loop.takes_a_round,
            most_each=self.config.schedule.ahead,
            num_workers=self.pool.size,
        )
        self._note_workers(store)
        self._control = control
        with kept_trace(store.folder, desk.spans) as note:
            for worker in sorted(self._ready):
                desk.begins(worker)
            self._obeys()
            room = self._ready
            while not handout.over:
                for each in sorted(room & self._ready):
                    self._fill(each, handout, store)
                found = self._heard()
                room = self._ready if self._obeys() else set()
                if found is not None:
                    room = room | self._take(*found, handout, desk, store)
                    if isinstance(found[1], Ended):
                        note()
            self._finish(desk)

    def _take(
        self, worker: int, message: Message | Lost | None, handout: HandOut, desk: Desk, store: RunStore
    ) -> set[int]:
        """The workers that may have room now."""
        if isinstance(message, Ready):
            self._compare(self._nodes[worker], message)
            self._arrived(worker, message)
            self._note_workers(store)
            desk.begins(worker)
            self.pool.give(worker, self._asked)
        elif isinstance(message, Lost):
            self._lost(worker, message)
            for name in handout.lost(worker, for_good=message.for_good):
                desk.outcome(_given_up(name, store, message.why))
            return self._ready
        else:
            desk.take(worker, message)
            if not isinstance(message, Ended):
                return set()
            handout.finished(worker, message.outcome.scenario_id)
        return {worker}

    def _finish(self, desk: Desk) -> None:
        """Hear what the workers have left to say; one that is lost now costs its part of the trace."""
        for worker in self._ready:
            self.pool.give(worker, None)
        while self._ready:
            worker, message = self._next()
            if isinstance(message, Lost):
                where = f"worker {worker} on node {self._nodes[worker]}"
                log.warning(
                    "%s was lost after its last scenario, with the end of its trace: %s", where, message.why
                )
            if message is None or isinstance(message, Lost):
                self._ready.discard(worker)
            elif not isinstance(message, Ready):
                desk.take(worker, message)

    def _first_ready(self) -> Ready:
        while True:
            worker, message = self._next()
            if isinstance(message, Ready):
                self._arrived(worker, message)
                return message
            self._meanwhile(worker, message)

    def _meanwhile(self, worker: int, message: Message | Lost | None) -> None:
        """Before a scenario is handed out."""
        if isinstance(message, Ready):
            self._compare(self._nodes[worker], message)
            self._arrived(worker, message)
        elif isinstance(message, Lost):
            self._lost(worker, message)
        elif isinstance(message, logging.LogRecord):
            logging.getLogger(message.name).handle(message)

    def _obeys(self) -> bool:
        """Whether something else is asked than before; then the workers know it, and hold back themselves."""
        asked = self._control.look()
        if asked is self._asked:
            return False
        self._asked = asked
        for worker in self._ready:
            self.pool.give(worker, asked)
        return True

    def _next(self) -> tuple[int, Message | Lost | None]:
        while (found := self._heard()) is None:
            pass
        return found

    def _heard(self) -> tuple[int, Message | Lost | None] | None:
        """None where nobody said anything for a second."""
        for found in self._messages:
            return found
        raise DeviceError(
            f"no worker is left: each was lost too often to be started again, the last by {self._why}",
            fix="mend that; if there is a run folder, go on with `retake resume RUN`: what is stored stays",
        )

    def _wake(self, node: str) -> None:
        """Have the next worker of this node load its models."""
        if self._asleep[node]:
            self.pool.listen(self._asleep[node].pop(0), digest=True)

    def _arrived(self, worker: int, ready: Ready) -> None:
        node = self._nodes[worker]
        self._ready.add(worker)
        if worker not in self._known:
            self._known.add(worker)
            notes = {key: ready.facts[key] for key in NOTES}
            self._workers.append({"worker": worker, "node": node, "device": ready.device, **notes})
        log.info("worker=%d ready node=%s device=%s", worker, node, ready.device)
        while self._asleep[node]:
            self.pool.listen(self._asleep[node].pop(0), digest=False)

    def _compare(self, node: str, ready: Ready) -> None:
        first = self.first
        found = changes(json.loads(json.dumps(first.facts, default=str)), ready.facts)
        if found:
            raise StoreError(
                f"a worker on node {node} has something else than the first:{listed(found)}",
                fix="install the same Retake on every machine, and put the same models and dataset there",
            )
        if ready.device != first.device or any(first.facts[key] != ready.facts[key] for key in NOTES):
            log.warning(
                "a worker on node %s works on %s, with other kernels than the first, on %s: its takes may"
                " differ in detail; the store has the device of each",
                node, ready.device, first.device,
            )  # fmt: skip

    def _lost(self, worker: int, lost: Lost) -> None:
        """What was never ready may never be: its error is the user's, as of a single run."""
        self._ready.discard(worker)
        self._why = lost.why
        if lost.error is not None and worker not in self._known:
            raise lost.error
        again = "is not started again" if lost.for_good else "is started again"
        log.warning("worker %d on node %s was lost and %s: %s", worker, self._nodes[worker], again, lost.why)
        if lost.for_good and worker not in self._known:
            self._wake(self._nodes[worker])

    def _fill(self, worker: int, handout: HandOut, store: RunStore) -> None:
        while (scenario := handout.next(worker, self._asked.held)) is not None:
            restarts = self.config.loop.finish_restarts > 0
            self.pool.give(worker, _assignment(scenario, store, restarts=restarts))

    def _note_workers(self, store: RunStore) -> None:
        path = store.folder / MANIFEST
        write_manifest(path, {**read_manifest(path), "workers": self._workers})


def _assignment(scenario: Scenario, store: RunStore, *, restarts: bool) -> Assignment:
    """With the stored takes and scouts that are to be looked at: by selectors, and with `restarts` for the
    takes of the last round."""
    past = store.history(scenario.id)

    def files(path: Path) -> ClipFiles:
        return (store.folder / path).read_bytes(), states_bytes(store.folder, path)

    videos = {take.index: files(take.video_path) for take in past.attempts}
    last = max((scout.round for scout in past.scouts), default=0)
    seen = [s for s in past.scouts if s.place is None or (restarts and s.round == last)]
    previews = {scout.number: files(scout.video_path) for scout in seen}
    return Assignment(scenario=scenario, past=past, videos=videos, previews=previews)


def _given_up(scenario_id: str, store: RunStore, why: str) -> Outcome:
    failure = f"{MOST_LOSSES} workers were lost with it in hand, the last by {why}"
    return Outcome(scenario_id=scenario_id, attempts=store.attempts(scenario_id), failure=failure)
