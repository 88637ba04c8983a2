"""Several plans of one prefix, of which the one is taken that agrees best with the others.

A critic that is unsure of an event writes it one way or another, and what it reads well it writes every time:
so the plan nearest to all is right more often than the likeliest single one. Minimum Bayes-risk decoding
(Kumar and Byrne, HLT-NAACL 2004), by self-consistency of samples (Wang et al., arXiv:2203.11171).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.critics.qwen_vl.plan_match import agreement
from engine.critics.qwen_vl.reply_job import Answer, ReplyJob
from engine.machine.streams import HostFence
from engine.protocols import Fence
from engine.types import PhysicsPlan, PlanReply


class PlanSamplesJob:
    """The jobs of a plan one after the other, as one job; its result is one of theirs.

    `num_tokens` and `seconds` of the result are those of all.
    """

    def __init__(self, jobs: Sequence[ReplyJob[PlanReply]]) -> None:
        assert jobs, "there is a plan to write"
        self._jobs = jobs
        self._taken: int | None = None

    @property
    def steps_left(self) -> int:
        return sum(job.steps_left for job in self._jobs)

    @property
    def stage(self) -> str:
        place = self._place()
        return (
            "reply" if place is None else f"plan {place + 1} of {len(self._jobs)}: {self._jobs[place].stage}"
        )

    def launch(self) -> Fence:
        place = self._place()
        return HostFence() if place is None else self._jobs[place].launch()

    def result(self) -> PlanReply:
        replies = [job.result() for job in self._jobs]
        self._taken = most_agreed([reply.plan for reply in replies])
        return replace(
            replies[self._taken],
            num_tokens=sum(reply.num_tokens for reply in replies),
            seconds=sum(reply.seconds for reply in replies),
        )

    @property
    def answer(self) -> Answer | None:
        """What the result was read of."""
        return None if self._taken is None else self._jobs[self._taken].answer

    def _place(self) -> int | None:
        """Of the job whose turn it is."""
        return next((place for place, job in enumerate(self._jobs) if job.steps_left), None)


def most_agreed(plans: Sequence[PhysicsPlan | None]) -> int:
    """Position of the plan of largest mean agreement with the other readable ones, of equals the first.

    Position 0 where none is readable.
    """
    readable = {place: plan for place, plan in enumerate(plans) if plan is not None}
    if not readable:
        return 0

    def mean_agreement(place: int) -> float:
        others = [plan for other, plan in readable.items() if other != place]
        return sum(agreement(readable[place], other) for other in others) / max(len(others), 1)

    return max(readable, key=lambda place: (mean_agreement(place), -place))
