"""A run on several engines, as one on a single engine is built, executed and resumed.

Nothing is refused here that the workers refuse: the driver's machine needs neither models nor a GPU.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from engine.build import exported
from engine.build.run import begin_folder, reopen, require_same
from engine.cluster.driver import Driver
from engine.cluster.pool import Pool, Workers
from engine.cluster.worker import Worker
from engine.protocols import Display
from engine.runs.folder import DATABASE
from engine.runs.live import Live
from engine.runs.log_file import RunLog
from engine.runs.manifest import MANIFEST
from engine.runs.requests import Requests
from engine.runs.store import RunStore
from engine.settings.config import RunConfig
from engine.types import Outcome


class ClusterRun:
    """As `engine.build.run.Run`: a context, with `execute`. Its first worker has loaded its models."""

    def __init__(self, store: RunStore, log: RunLog, driver: Driver | None) -> None:
        """`driver` is None when every scenario has its outcome."""
        self.folder = store.folder
        self.warning = None if driver is None else driver.first.warning
        self.changed = () if driver is None else driver.first.changed
        self.told = () if driver is None else driver.first.told
        self._store, self._log, self._driver = store, log, driver
        known = [scenario.id for scenario in store.scenarios()]
        self._control = Requests(store.folder, store.requests, known)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._driver is not None:
            self._driver.pool.close()
        self._store.close()
        self._log.close()

    @property
    def pool(self) -> Pool | None:
        return None if self._driver is None else self._driver.pool

    @property
    def num_pending(self) -> int:
        return 0 if self._driver is None else len(self._driver.first.scenarios)

    def worked_s(self) -> float:
        """As of a single engine."""
        return self._control.worked_s()

    def execute(self, display: Display) -> dict[str, Outcome]:
        """Outcomes of all scenarios by id. DeviceError when no worker is left, StoreError for a worker that
        has other weights, versions or files than the first."""
        if self._driver is not None:
            with Live(self.folder, display, worked_s=self.worked_s) as live:
                self._driver.run(self._store, live, self._control)
        return self._store.outcomes()


def build_cluster_run(
    config: RunConfig, workers: Workers, *, kind: type[Worker] = Worker, wait_for: int = 1
) -> ClusterRun:
    """A new run in `config.out`, when the first worker is ready, or as many as `wait_for` says.

    Errors as of `Workers.check`, `Pool` and `engine.build.run.build_run`.
    """
    workers.check(config.device)
    if (config.out / DATABASE).exists():
        RunStore.claim(config.out, ())  # refuses, with the way out
    with ExitStack() as refused:
        log = RunLog()
        refused.callback(log.close)
        pool = refused.enter_context(Pool(workers, kind))
        driver = Driver(pool, workers.settings(config), None, wait_for=wait_for)
        store = begin_folder(driver.config, driver.first.scenarios, driver.facts, log)
        refused.pop_all()
    return ClusterRun(store, log, driver)


def resume_cluster_run(
    folder: Path,
    workers: Workers,
    *,
    denoiser: str | None = None,
    accept_changes: bool = False,
    remake_takes: bool = False,
) -> ClusterRun:
    """As `engine.build.run.resume_run`, on several engines; the run may have been started on one."""
    with ExitStack() as refused:
        store, log, config = reopen(folder, refused, denoiser=denoiser, remake_takes=remake_takes)
        workers.check(config.device)
        pending = [scenario.id for scenario in store.pending()]
        driver = None
        if pending:
            pool = refused.enter_context(Pool(workers))
            driver = Driver(pool, config, pending)
            exported.require_same(driver.facts["denoiser"], folder / MANIFEST)
            require_same(store, driver.first.scenarios, driver.facts, accept=accept_changes)
        refused.pop_all()
        return ClusterRun(store, log, driver)
