"""Settings of the loop: which method, how often, and which take is kept.

Does not know what they do. Invariant: an instance is valid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from engine.errors import ConfigError
from engine.settings.fields import setting, validate
from engine.words import counted

AUTO, CHOOSE, LEAVE = "auto", "choose", "leave"
PAPER, SCOUT = "paper", "scout"
WHOLE, FIRST = "whole", "first"
EVERY_FRAME, STILLS = "frames", "stills"
BRIEF, PLAN = "brief", "plan"
OF_PAPER = ("first_prompt", "samples", "only_incomplete")
OF_SCOUTS = (
    *("scouts", "scout_steps", "scout_halvings", "scout_form", "scout_kept", "scout_decode"),
    *("scout_batch", "scout_shrink", "scout_choosers", "finalists"),
    "restart_share",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """What `loop.policy.RefinementPolicy` and `loop.scout_policy.ScoutPolicy` go by."""

    method: str = setting(
        PAPER,
        choices=(PAPER, SCOUT),
        option="--loop",
        help="paper: plan, take, critique, rewrite, take again; scout: many candidates of few steps from two "
        "prompts, the best of them finished, a critique of that one alone, another round where the gain "
        "model expects more of it.",
    )
    first_prompt: str = setting(
        AUTO,
        choices=(AUTO, BRIEF, PLAN),
        help="What the first takes are told. brief: the dataset's sentence, while the critic still reads the "
        "prefix; plan: the physics-aware prompt, without a take of the sentence alone; auto: plan where the "
        "gain model is sure that it is the better one, else brief.",
    )
    loops: int = setting(4, low=0, high=64, help="Refinement rounds after the first one.")
    samples: int = setting(
        1,
        low=1,
        high=64,
        help="Takes of each round of the paper's loop, each of its own seed; selectors choose the one to "
        "judge.",
    )
    patience: int = setting(2, low=1, high=64, help="Rounds without a better take before the loop ends.")
    # One corrected word ("left" to "right") in a prompt of 80 words is 0.0125 and must count as a change, so
    # the threshold is one word in 200.
    distance_threshold: float = setting(
        0.005, low=0.0, high=1.0, help="Share of changed words below which two prompts count as equal."
    )
    accept_score: float = setting(
        90.0,
        low=0.0,
        high=100.0,
        help="Score of the critic from which an accepted take ends the loop; 0: any accepted take does.",
    )
    only_incomplete: bool = setting(
        False, help="Refine only where the critic says that the prompt lacks physical clues."
    )
    seed: int = setting(0, low=0, high=2**31 - 1, help="Equal seeds give equal takes.")
    selectors: tuple[str, ...] = setting(
        ("critic_score",),
        help="Selectors of the best take, files of engine/selectors; of several, the mean of their ranks.",
    )
    gain: str = setting(
        "",
        unset="gain.json of the critic's folder, where it fits",
        metavar="FILE",
        help="What a take is expected to gain, fitted by bench.quality.fit_gain; none: choose by rules.",
    )

    unreadable: str = setting(
        AUTO,
        choices=(AUTO, CHOOSE, LEAVE),
        help="What becomes of a scenario of which no critique could be read. choose: the last take of a plan "
        "is its clip; leave: it has none until you name one with retake choose; auto: choose for a "
        "benchmark, which wants a clip of each scenario, leave for your own clips.",
    )

    scouts: int = setting(
        8,
        low=3,
        high=256,
        help="Candidates of each round of the scout loop, half of them of each of two prompts.",
    )
    scout_steps: int = setting(
        2, low=1, high=256, help="Denoise steps of a first look at a candidate; a take has all of --steps."
    )
    scout_halvings: int = setting(
        1,
        low=0,
        high=8,
        help="How often the better half of the candidates is looked at again, in twice as many steps.",
    )
    scout_form: str = setting(
        WHOLE,
        choices=(WHOLE, FIRST),
        help="What those steps are. whole: a take in so few steps, and the winner is made in all steps from "
        "the same noise; first: the first steps of the take, and the winner goes on behind them.",
    )
    scout_kept: float = setting(
        0.0,
        low=0.0,
        high=0.9,
        help="Share of a take's steps that its whole scout stands for: the take begins where that ended, as "
        "noisy as it is there, and keeps its motion; 0: from the noise alone.",
    )
    scout_decode: str = setting(
        EVERY_FRAME,
        choices=(EVERY_FRAME, STILLS),
        help="What choosers see of a scout. frames: the video; stills: a picture of each latent frame alone, "
        "which an autoencoder decodes faster.",
    )
    scout_batch: int = setting(
        1,
        low=1,
        high=64,
        help="Scouts of a scenario that share each forward, at most: faster where one leaves the GPU idle; "
        "fewer where memory has no room for so many. A look may differ in its last bits from one made alone, "
        "never with what else is in flight; takes are made alone.",
    )
    scout_shrink: int = setting(
        1,
        low=1,
        high=4,
        help="What the sides of a take are divided by for its whole scouts. Their noise is the take's, "
        "averaged, so that both begin alike in what is coarse; a take is made in full size from its own.",
    )
    scout_choosers: tuple[str, ...] = setting(
        ("consensus",),
        help="Selectors that compare scouts, files of engine/selectors; of several, the mean of their ranks.",
    )
    finalists: int = setting(
        1, low=1, high=64, help="Scouts of each round that become takes; selectors choose the one to judge."
    )

    finish_restarts: int = setting(
        0,
        low=0,
        high=8,
        help="How often a take takes its first steps again: noise is added back, and drawn anew from there; "
        "a finished scout where the last scouts disagree, any other take in all of the picture; 0: never.",
    )
    restart_steps: int = setting(
        4, low=2, high=256, help="Those first steps; a restart goes back behind the first of them."
    )
    restart_share: float = setting(
        0.25,
        low=0.01,
        high=1.0,
        help="Of picture and time, where scouts disagree most: what a restart draws anew; 1: all.",
    )

    def __post_init__(self) -> None:
        validate(self, "loop")
        if not self.selectors:
            raise ConfigError("loop.selectors is empty", fix='name at least one, such as "critic_score"')
        if self.method == SCOUT:
            self._check_scouts()

    def refuse_unused(self) -> None:
        """ConfigError for what is set and is of the other loop."""
        of_other = OF_PAPER if self.method == SCOUT else OF_SCOUTS
        for entry in fields(self):
            if entry.name in of_other and getattr(self, entry.name) != entry.default:
                other = PAPER if self.method == SCOUT else SCOUT
                raise ConfigError(
                    f"loop.{entry.name} is of the {other} loop, and loop.method is {self.method}",
                    fix=f'leave it out, or set loop.method = "{other}" (--loop {other})',
                )

        steps = next(entry for entry in fields(self) if entry.name == "restart_steps")
        if self.method == PAPER and not self.finish_restarts and self.restart_steps != steps.default:
            raise ConfigError(
                f"loop.restart_steps is {self.restart_steps}, and no steps are taken again",
                fix="set loop.finish_restarts too (--finish-restarts N), or leave it out",
            )

    @property
    def takes_a_round(self) -> int:
        return self.finalists if self.method == SCOUT else self.samples

    @property
    def compared_by(self) -> tuple[str, ...]:
        """The selectors of the best of finished takes; of several finalists what chose them counts too."""
        also = self.scout_choosers if self.method == SCOUT and self.finalists > 1 else ()
        return tuple(dict.fromkeys((*self.selectors, *also)))

    @property
    def all_selectors(self) -> tuple[str, ...]:
        """Those that a run asks at all."""
        also = self.scout_choosers if self.method == SCOUT else ()
        return tuple(dict.fromkeys((*self.selectors, *also)))

    def _check_scouts(self) -> None:
        if not self.scout_choosers or "critic_score" in self.scout_choosers:
            raise ConfigError(
                f"loop.scout_choosers is {', '.join(self.scout_choosers) or 'empty'}: scouts are chosen by "
                "looking at them, and the critic judges finished takes alone",
                fix='name selectors such as "consensus"',
            )
        if self.finish_restarts and self.scout_kept:
            raise ConfigError(
                "loop.finish_restarts and loop.scout_kept are both set: a take that begins where its scout "
                "ended has no first steps to take again",
                fix="set one of them to 0",
            )
        left = math.ceil(self.scouts / 2**self.scout_halvings)
        if left <= self.finalists:
            raise ConfigError(
                f"of {counted(self.scouts, 'scout')} halved {self.scout_halvings} times {left} are left, "
                f"which is no choice of {self.finalists}",
                fix="raise loop.scouts, or lower loop.scout_halvings or loop.finalists",
            )
