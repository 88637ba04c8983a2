"""The critic "qwen_vl": plans and critiques by a Qwen3-VL, Qwen3.5 or Qwen2.5-VL model from a local folder.

Knows transformers, not the scheduler and not the generator. One host thread may use a critic at a time; its
jobs may be interleaved step by step, their state is their own. Invariant: every job ends in a reply, readable
or marked unreadable; only a prefix that cannot be read raises (VideoError).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from engine.critics.qwen_vl.confidence import facts_of, without_unsure
from engine.critics.qwen_vl.folder import CriticParts, read_folder
from engine.critics.qwen_vl.footprint import footprint, planned_length
from engine.critics.qwen_vl.grammar import Grammars, build_grammars
from engine.critics.qwen_vl.instructions import critique_segments, plan_segments
from engine.critics.qwen_vl.plan_samples import PlanSamplesJob
from engine.critics.qwen_vl.preprocess import (
    PatchGeometry,
    Segment,
    VideoSegment,
    sample_pairs,
)
from engine.critics.qwen_vl.reply_job import Answer, ReplyJob
from engine.critics.qwen_vl.reply_text import storable
from engine.critics.qwen_vl.schema import critique_json_schema, parse_critique, parse_plan, plan_json_schema
from engine.critics.qwen_vl.settings import CriticSettings, read_settings
from engine.critics.qwen_vl.slots import Slots
from engine.critics.qwen_vl.text_step import TextStep, groups
from engine.machine.phases import phase
from engine.quant.four_bit import pack_linears
from engine.types import (
    Clip,
    Critique,
    Footprint,
    PhysicsPlan,
    PlanReply,
    Prompt,
    Scenario,
    Verdict,
    Video,
    VideoSpec,
)
from engine.video.prefix import prefix_frames, read_chosen

log = logging.getLogger(__name__)

PAIR_SECONDS = 0.125  # between the two frames of a temporal patch
NUM_RECENT = 4
SHARED = "those of the generator's text tower, in memory once"


def _reader() -> ThreadPoolExecutor:
    """Decoding a 4K clip takes a second, which the thread that launches kernels does not have."""
    return ThreadPoolExecutor(1, "retake-critic-clips")


@dataclass(frozen=True, slots=True, kw_only=True)
class QwenVLCritic:
    """A loaded critic. `plan` and `start` do no work: the first `launch` has the prefix read on a thread of
    the host, the second one preprocesses its frames."""

    model: Any  # of transformers: Qwen3VL, Qwen3_5 or Qwen2_5_VLForConditionalGeneration
    tokenizer: Any
    settings: CriticSettings
    geometry: PatchGeometry
    eos_ids: tuple[int, ...]
    grammars: Grammars | None  # None: shapes only, or without llguidance a retry is not constrained
    patches: bool  # whether critiques write only what changes of the plan
    slots: Slots | None  # None: the model has shapes only
    replies: int = 1
    """How many are written side by side."""
    device: str = "cpu"
    """Where it is, or would be with weights."""
    notes: Mapping[str, str]
    lent: Any = None
    """The transformer of a generator whose text tower is the model's; its memory is that of the generator."""
    reader: ThreadPoolExecutor = field(default_factory=_reader, repr=False, compare=False)
    recent: deque[list[int]] = field(default_factory=lambda: deque(maxlen=NUM_RECENT), repr=False)
    """The tokens of the last replies, which the next ones partly repeat."""

    def plan(self, scenario: Scenario) -> ReplyJob[PlanReply] | PlanSamplesJob:
        """Step 1 of the loop: what the prefix and the brief text imply."""
        prefix = cache(partial(self._prefix, scenario.prefix))  # read once for all samples
        first = self._plan(scenario, prefix)
        if self.settings.plan_samples == 1:
            return first
        seeds = range(1, self.settings.plan_samples)
        return PlanSamplesJob([first, *(self._plan(scenario, prefix, seed) for seed in seeds)])

    def _plan(
        self, scenario: Scenario, prefix: Callable[[], VideoSegment], seed: int | None = None
    ) -> ReplyJob[PlanReply]:
        """A greedy plan, or one sampled by this seed."""

        def segments(prefix: VideoSegment, retry: bool) -> list[Segment]:
            instruction = self.settings.plan_instruction
            return plan_segments(self.tokenizer, instruction, prefix, scenario.text, retry=retry)

        def read(answer: Answer) -> PlanReply:
            plan = self._sure_of("plan", parse_plan(answer.text, cut=answer.cut), answer, scenario)
            raw, seconds = storable(answer.text), answer.seconds
            return PlanReply(plan=plan, raw=raw, num_tokens=answer.num_tokens, seconds=seconds)

        return ReplyJob(
            self,
            prefix,
            segments,
            read,
            lambda reply: reply.plan is not None,
            schema=plan_json_schema(),
            seed=seed or 0,
            sampled=seed is not None,
        )

    def start(
        self,
        scenario: Scenario,
        prompt: Prompt,
        video: Video,
        plan: PhysicsPlan | None,
        *,
        begun: str = "",
        constrained: bool = False,
    ) -> ReplyJob[Critique]:
        """Step 2 of the loop: what is wrong with a take, who is at fault, and the corrected plan.

        `plan` is told to a critic that writes patches; where there is none, it writes a whole one. `begun`:
        the first characters of the reply, written for it; it then has one try. `constrained`: it keeps to
        the grammar from the first try on, which needs `grammars`.
        """
        base = plan if self.patches else None

        def segments(prefix: VideoSegment, retry: bool) -> list[Segment]:
            return critique_segments(
                self.tokenizer,
                self.settings.critique_instruction if base is None else self.settings.patch_instruction,
                prefix,
                self._take(video),
                prompt.text,
                plan=base,
                retry=retry,
                begun=begun,
            )

        def read(answer: Answer) -> Critique:
            critique = parse_critique(
                answer.text,
                num_tokens=answer.num_tokens,
                seconds=answer.seconds,
                cut=answer.cut,
                base=base,
            )
            return replace(
                critique, revised=self._sure_of("revised plan", critique.revised, answer, scenario)
            )

        return ReplyJob(
            self,
            partial(self._prefix, scenario.prefix),
            segments,
            read,
            lambda reply: reply.verdict is not Verdict.UNREADABLE,
            schema=critique_json_schema(patch=base is not None),
            seed=prompt.seed,
            begun=begun,
            constrained=constrained,
        )

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"

    def footprint(self, spec: VideoSpec) -> Footprint:
        return footprint(self, spec)

    def _sure_of(
        self, what: str, plan: PhysicsPlan | None, answer: Answer, scenario: Scenario
    ) -> PhysicsPlan | None:
        """What of the plan in an answer is used; the answer itself is stored whole."""
        sure = self.settings.sure
        if plan is None or sure == 0:
            return plan
        used = without_unsure(plan, answer.facts(self.tokenizer), sure)
        num, left = len(facts_of(plan)), len(facts_of(used))
        log.info("%s scenario=%s facts=%d left_out=%d sure=%g", what, scenario.id, num, num - left, sure)
        return used

    def _prefix(self, clip: Clip) -> VideoSegment:
        prefix = prefix_frames(clip)
        picked = self._sample(len(prefix.indices), clip.fps, self.settings.num_prefix_frames)
        wanted = [prefix.indices[i] for i in picked]
        frames = read_chosen(clip, wanted)
        return VideoSegment(frames=frames, times_s=tuple(prefix.times_s[i] for i in picked))

    def _take(self, video: Video) -> VideoSegment:
        indices = self._sample(len(video.frames), video.fps, self.settings.num_take_frames)
        return VideoSegment(frames=video.frames[indices], times_s=tuple(i / video.fps for i in indices))

    def _sample(self, num_frames: int, fps: float, num_samples: int) -> list[int]:
        return sample_pairs(num_frames, num_samples, gap=max(1, round(fps * PAIR_SECONDS)))


def load(
    folder: Path,
    *,
    device: str,
    dtype: str,
    quantization: str = "none",
    patches: bool = False,
    with_weights: bool = True,
    replies: int = 1,
    takes: VideoSpec | None = None,
    tower: Any = None,
    sure: float | None = None,
    plan_samples: int | None = None,
) -> QwenVLCritic:
    """A critic from a transformers folder, for so many replies at once; nothing is downloaded.

    Without weights the model has shapes only (device meta): enough for the footprint.
    `patches`: critiques write only what changes of the plan. `takes`: what it will be asked about; a GPU
    then gives the memory for it at once. `tower`: the transformer of a loaded Cosmos3 generator of the same
    folder, by whose text tower the critic reads; None reads the weights of a language model of its own.
    `sure`, in [0, 1], and `plan_samples`: None is as the folder says.
    `device` "cpu", "cuda" or "cuda:1"; `dtype` one of DTYPES; `quantization` one of QUANTIZATIONS, applied
    while loading. Raises ConfigError for unknown names and ModelError when the folder does not fit the
    family, lacks a part, holds weights that nothing uses, or needs a package that is not installed.
    """
    settings = _asked(read_settings(folder, patches=patches), sure, plan_samples)
    lent = tower if quantization == "none" else None  # weights of fewer bits are the critic's own
    with phase("weights" if with_weights else "modules"):
        parts = read_folder(
            folder,
            device=device,
            dtype=dtype,
            quantization=quantization,
            with_weights=with_weights,
            tower=lent,
        )
    model, config = parts.model, parts.model.config
    grammars = None
    if with_weights:
        with phase("grammar"):
            grammars = build_grammars(parts.tokenizer, config.get_text_config().vocab_size, parts.eos_ids)
    slots = _slots(parts, settings.max_new_tokens, replies) if with_weights else None
    geometry = PatchGeometry.from_config(config, frame_px=settings.frame_px)
    critic = QwenVLCritic(
        model=model,
        tokenizer=parts.tokenizer,
        settings=settings,
        geometry=geometry,
        eos_ids=parts.eos_ids,
        grammars=grammars,
        patches=patches,
        slots=slots,
        replies=replies,
        device=device,
        notes=_notes(parts, settings, lent),
        lent=lent,
    )
    if slots is not None and critic.on_gpu and takes is not None:
        slots.expect(planned_length(critic, takes))
    return critic


def _asked(settings: CriticSettings, sure: float | None, plan_samples: int | None) -> CriticSettings:
    """Of the folder, where the run does not say otherwise."""
    settings = settings if sure is None else replace(settings, sure=sure)
    return settings if plan_samples is None else replace(settings, plan_samples=plan_samples)


def _notes(parts: CriticParts, settings: CriticSettings, lent: Any) -> dict[str, str]:
    notes = {**parts.notes, **({} if lent is None else {"weights": SHARED})}
    told = [f"without facts below {settings.sure:g}"] if settings.sure else []
    told += [f"most agreed of {settings.plan_samples}"] if settings.plan_samples > 1 else []
    return notes | ({"plans": ", ".join(told)} if told else {})


def _slots(parts: CriticParts, max_new_tokens: int, replies: int) -> Slots:
    device = torch.device(parts.model.device)
    if device.type == "cuda":
        with phase("linear layers"):
            pack_linears(groups(parts.model))
        torch.cuda.empty_cache()  # what bitsandbytes' layers and their repacking held
    step = TextStep(parts.model)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what was merged, once more
    return Slots(step, device=device, eos_ids=parts.eos_ids, max_new_tokens=max_new_tokens, at_once=replies)
