"""What a run would need, before it is started: memory part by part, and time at most."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from engine.build.estimate import TimeEstimate, estimate
from engine.build.prepare import load, prepare, refinement_policy
from engine.machine.memory import MemoryPlan
from engine.settings.config import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a run would need."""

    memory: MemoryPlan
    num_steps: int  # of denoising, in one take
    num_scenarios: int
    num_refused: int
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
            "num_refused": self.num_refused,
            "denoise_steps_of_a_take": self.num_steps,
            "memory": {**asdict(self.memory), "required_bytes": self.memory.required_bytes},
            "time": time,
        }


def plan_run(config: RunConfig, *, timed: bool) -> Needs:
    """Memory before a weight is read; with `timed`, also a time from steps run on the first scenario."""
    prepared = prepare(config)
    time = None
    if timed:
        generator, critic = load(prepared)
        rounds, policy = 1 + config.loop.loops, refinement_policy(config, generator)
        takes = rounds * config.loop.samples
        time = estimate(
            generator,
            critic,
            prepared.usable[0],
            num_scenarios=len(prepared.usable),
            takes_per_scenario=takes,
            critiques_per_scenario=takes if policy.judges_every_take else rounds,
            overlap=config.schedule.overlap and prepared.device == "cuda",
        )
    return Needs(
        memory=prepared.memory,
        num_steps=prepared.num_steps,
        num_scenarios=len(prepared.scenarios),
        num_refused=len(prepared.refused),
        time=time,
    )
