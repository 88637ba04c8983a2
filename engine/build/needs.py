"""What a run would need, before it is started: memory part by part, and time at most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from engine.build.estimate import TimeEstimate, estimate
from engine.build.prepare import load, prepare, refinement_policy
from engine.denoise.restarts import BACK_TO
from engine.errors import ConfigError
from engine.loop.scout_policy import ScoutPolicy
from engine.machine.cards import Card
from engine.machine.memory import MemoryPlan
from engine.settings.config import NO_DATASET, DenoiseConfig, RunConfig
from engine.settings.loop import SCOUT


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a run would need."""

    memory: MemoryPlan
    denoise: DenoiseConfig
    """As the run would have it: a preset is named."""
    changed: tuple[str, ...]
    """Settings that were changed so that it fits, each with what it saves and costs."""
    told: tuple[str, ...]
    """What is decided for a user who names nothing."""
    num_steps: int  # of denoising, in one take
    num_again: int  # of these, taken again
    num_scenarios: int | None  # None: of no dataset
    refused: Mapping[str, str]  # why, by id, of each unusable scenario
    time: TimeEstimate | None

    def document(self) -> dict[str, Any]:
        """As JSON values: bytes and seconds."""
        time = None
        if self.time is not None:
            time = {
                **asdict(self.time),
                "shortest_s": self.time.shortest_s,
                "longest_s": self.time.longest_s,
            }
        return {
            "num_scenarios": self.num_scenarios,
            "num_refused": None if self.num_scenarios is None else len(self.refused),
            "refused": dict(self.refused),
            "denoise_steps_of_a_take": self.num_steps + self.num_again,
            "memory": {**self.memory.document(), "changed": list(self.changed)},
            "time": time,
        }


def plan_run(config: RunConfig, *, timed: bool, card: Card | None = None) -> Needs:
    """Memory before a weight is read; with `timed`, also a time from steps run on the first scenario.

    `card`: a GPU to plan for that need not be here; nothing is timed then. Memory depends on no clip: with
    NO_DATASET it is all that is told, and ConfigError is raised where a time is asked for.
    """
    there = config.dataset != NO_DATASET
    if timed and card is None and not there:
        raise ConfigError(
            "dataset is not set, and the time is taken on a clip of it",
            fix="give a dataset; or --no-time or --gpu NAME, which plan memory and need none",
        )
    prepared = prepare(config, card=card)
    config = prepared.config
    time = None
    if timed and card is None:
        generator, critic = load(prepared)
        rounds, policy = 1 + config.loop.loops, refinement_policy(config, generator)
        takes = rounds * config.loop.takes_a_round
        stages = ScoutPolicy(refinement=policy)
        scouts = [(form, rounds * stages.num_in(stage)) for stage, form in enumerate(stages.forms)]
        time = estimate(
            generator,
            critic,
            prepared.usable[0],
            num_scenarios=len(prepared.usable),
            takes_per_scenario=takes,
            critiques_per_scenario=takes if policy.judges_every_take else rounds,
            scouts=scouts if config.loop.method == SCOUT else (),
            restarts=policy.restarts,
            overlap=config.schedule.overlap and prepared.device == "cuda",
        )
    return Needs(
        memory=prepared.memory,
        denoise=config.denoise,
        changed=prepared.changed,
        told=prepared.told,
        num_steps=prepared.num_steps,
        num_again=config.loop.finish_restarts * (config.loop.restart_steps - BACK_TO),
        num_scenarios=len(prepared.scenarios) if there else None,
        refused=prepared.refused,
        time=time,
    )
