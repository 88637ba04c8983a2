"""The loop over a generator and a critic that are objects: bundled, loaded from folders, or the user's own.

Makes a run folder that is read, reported, scored and selected from like any other. It is not resumed: what
made it is an object of this process. `engine.api.runs.run` is for whole datasets with settings, memory plan,
overlap and resumption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.api.takes import StrPath
from engine.errors import ConfigError
from engine.protocols import Critic, Generator, Selector
from engine.settings.config import LoopConfig
from engine.types import Attempt, Outcome, PlanReply, Scenario, Scout

OnTake = Callable[[str, Attempt], None]
"""Called with the id of its scenario once a take is stored, and again once it is judged if that is later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet:
    """A display that shows nothing, and tells whoever asked of each take."""

    on_take: OnTake | None = None

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def update(self, lane: str, scenario_id: str, done: int, total: int) -> None: ...

    def finished(self, scenario_ids: Iterable[str]) -> None: ...

    def plan(self, scenario_id: str, reply: PlanReply) -> None: ...

    def scout(self, scenario_id: str, scout: Scout) -> None: ...

    def ranked(self, scenario_id: str, scouts: Sequence[Scout]) -> None: ...

    def attempt(self, scenario_id: str, attempt: Attempt) -> None:
        if self.on_take is not None:
            self.on_take(scenario_id, attempt)

    def judged(self, scenario_id: str, attempt: Attempt) -> None:
        self.attempt(scenario_id, attempt)

    def outcome(self, outcome: Outcome) -> None: ...


def refine(
    scenarios: Sequence[Scenario],
    generator: Generator,
    critic: Critic,
    out: StrPath,
    *,
    loop: LoopConfig | None = None,
    selectors: Mapping[str, Selector] | None = None,
    on_take: OnTake | None = None,
) -> dict[str, Outcome]:
    """Plan, take, critique, rewrite and take again until the policy stops: an outcome for each scenario id.

    out: the run folder to make; videos are in `out/videos`, the best take of each scenario in `out/chosen`.
    loop: how often and which take is kept; default: as `retake run` does.
    selectors: objects for names in `loop.selectors`; names that are not here are files of engine/selectors.

    One scenario after the other, one piece of work at a time. An error costs its scenario, whose outcome then
    has `failure`. Raises StoreError when `out` holds a run, ConfigError for a selector that is not known,
    DeviceError when the GPU is lost and RunLost when the disk takes no more.
    """
    from engine.build.engine import comparers, encoder
    from engine.build.scouts import check_scouts
    from engine.loop.lanes import HOST_THREADS, make_lanes
    from engine.loop.policy import CRITIC_SCORE, RefinementPolicy
    from engine.loop.scenario import Components, ScenarioLoop
    from engine.loop.scheduler import Scheduler
    from engine.machine.streams import HostPool
    from engine.runs.store import RunStore
    from engine.runs.trace import HostRecorder
    from engine.runs.trace_file import kept_trace
    from engine.runs.watched import Watched

    folder, display = Path(out), Quiet(on_take=on_take)
    settings = loop or LoopConfig()
    check_scouts(settings, generator)
    policy = RefinementPolicy(settings=settings, negative=generator.negative_prompt)
    looks = [name for name in settings.all_selectors if name != CRITIC_SCORE]
    scorer, scouts = comparers(policy, generator, folder, _selectors(looks, selectors or {}))
    recorder = HostRecorder()
    with RunStore.create(folder, scenarios) as store:
        components = Components(
            generator=generator,
            critic=critic,
            policy=policy,
            sink=Watched(store, display),
            encode=encoder(folder),
            select=scorer.scores if scorer else None,
            read=scorer.read if scorer else None,
            scouts=scouts,
        )
        with HostPool(HOST_THREADS) as host, kept_trace(folder, recorder):
            lanes = make_lanes(host=host, recorder=recorder, progress=display)
            loops = [ScenarioLoop(scenario=one, by=components) for one in scenarios]
            for _ in Scheduler(loops, lanes, progress=display, overlap=False, ahead=1).run():
                pass  # stored by the sink
        return store.outcomes()


def _selectors(names: Sequence[str], given: Mapping[str, Selector]) -> dict[str, Selector]:
    """By name, in that order; ConfigError for one that would never be asked or is not known."""
    from engine.loop.selection import load_selectors

    if unused := sorted(set(given) - set(names)):
        raise ConfigError(
            f"the selectors {', '.join(unused)} would never be asked",
            fix="name them: loop=LoopConfig(samples=2, selectors=(NAME,))",
        )
    return {name: given[name] if name in given else load_selectors([name])[name] for name in names}
