"""A worker that has made a take before it is ready, so that no cold start is in what is timed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.perf.end_to_end.engine_run import replies_forgotten
from bench.perf.end_to_end.made import WARM_UP
from bench.perf.end_to_end.measured import WARM_UP_STEPS
from bench.perf.takes_alone import in_so_many_steps
from engine.build.engine import Engine
from engine.build.prepare import prepare
from engine.cluster.worker import Worker
from engine.errors import ConfigError
from engine.protocols import Critic, Generator
from engine.types import Attempt, History, Outcome, PlanReply, Scout


class WarmWorker(Worker):
    """The dataset is the folder of clips that `end_to_end make` fills, with the one to warm up beside it."""

    def loaded(self, generator: Generator, critic: Critic) -> None:
        config = replace(self._config, dataset=self._config.dataset.parent / WARM_UP, limit=None)
        prepared = prepare(config)
        kept = _Kept()
        few = in_so_many_steps(generator, WARM_UP_STEPS)
        with few, tempfile.TemporaryDirectory() as folder:
            engine = Engine(prepared=prepared, generator=generator, critic=critic, folder=Path(folder))
            work = [(scenario, History()) for scenario in prepared.usable]
            engine.run(work, kept, kept, opened=lambda paths: None, keeping=_nothing)
        if kept.failure is not None:
            raise ConfigError(f"the warm-up failed: {kept.failure}", fix="mend that; nothing was measured")

    def _run(self, folder: Path, digest: bool, num_on_node: int) -> None:
        """Here each reply is the same text, so that drafts from the last ones would all hold."""
        with replies_forgotten():
            super()._run(folder, digest, num_on_node)


class _Kept:
    """A sink and a progress, of which one wants to know whether it failed."""

    failure: str | None = None

    def plan(self, scenario_id: str, reply: PlanReply) -> None: ...

    def scout(self, scenario_id: str, scout: Scout) -> None: ...

    def ranked(self, scenario_id: str, scouts: Sequence[Scout]) -> None: ...

    def attempt(self, scenario_id: str, attempt: Attempt) -> None: ...

    def judged(self, scenario_id: str, attempt: Attempt) -> None: ...

    def outcome(self, outcome: Outcome) -> None:
        self.failure = outcome.failure

    def update(self, lane: str, scenario_id: str, done: int, total: int) -> None: ...

    def finished(self, scenario_ids: Iterable[str]) -> None: ...


@contextmanager
def _nothing(recorder: object) -> Iterator[Callable[[], None]]:
    yield lambda: None
