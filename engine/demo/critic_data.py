"""Training examples for the demo critic, kept on the training device: frames once, token rows for both tasks.

Takes are of three kinds: the true continuation, the true one with planted wrong physics, and real outputs of the
bundled generator under complete and poor prompts.
Legend: B batch, T frames of a clip, L tokens of a row, M rows of a task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch

from engine.critics._instructions import critique_segments, plan_segments
from engine.critics._preprocess import PatchGeometry, VideoSegment, sample_pairs, video_text
from engine.demo import critic_text, prompts
from engine.demo.clips import Block, describe_answer
from engine.demo.scenes.base import FPS, NUM_ANSWER_FRAMES, NUM_PREFIX_FRAMES, SWITCH
from engine.types import Fault

PREFIX_INDICES: Final = sample_pairs(NUM_PREFIX_FRAMES, critic_text.NUM_PREFIX_FRAMES)
TAKE_INDICES: Final = sample_pairs(NUM_ANSWER_FRAMES, critic_text.NUM_TAKE_FRAMES)
PLANTS: Final = ("freeze", "stop", "slow", "fast", "reverse", "mirror", "jump")

# frames [B, 24, ...] and texts -> takes [B, 40, ...], all uint8 on the device
TakeMaker = Callable[[torch.Tensor, list[str]], torch.Tensor]


def planted_indices(kind: str, rng: prompts.Rng) -> np.ndarray:
    """Clip indices [40] of an answer in which time runs wrong; "mirror" keeps the true order."""
    i = np.arange(NUM_ANSWER_FRAMES)
    if kind == "freeze":
        return np.full_like(i, SWITCH - 1)
    if kind == "stop":
        return SWITCH + np.minimum(i, int(rng.integers(4, 24)))
    if kind == "slow":
        return SWITCH + i // 2
    if kind == "fast":
        return SWITCH + np.minimum(2 * i, NUM_ANSWER_FRAMES - 1)
    if kind == "reverse":
        return SWITCH - 1 - np.minimum(i, SWITCH - 1)
    if kind == "jump":
        start, length = int(rng.integers(4, 20)), int(rng.integers(6, 16))
        return SWITCH + np.minimum(np.where(i >= start, i + length, i), NUM_ANSWER_FRAMES - 1)
    return SWITCH + i


def plant(clip: np.ndarray, kind: str, rng: prompts.Rng) -> np.ndarray:
    """The answer of `clip` [64, H, W, 3] with wrong physics [40, H, W, 3]."""
    answer = clip[planted_indices(kind, rng)]
    return answer[:, :, ::-1] if kind == "mirror" else answer


@dataclass
class TaskRows:
    """Token rows of one task: ids int16 [M, L], and for each row where its reply starts and its length."""

    ids: list[np.ndarray] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    clips: list[int] = field(default_factory=list)
    takes: list[int] = field(default_factory=list)


class CriticData:
    """Collects examples block by block; `batch` hands out device tensors of one task."""

    def __init__(self, tokenizer: Any, geometry: PatchGeometry, device: str, size_px: int) -> None:
        self.tokenizer, self.geometry, self.device, self.size_px = tokenizer, geometry, device, size_px
        self.prefixes: list[torch.Tensor] = []  # each [clips, 12, S, S, 3]
        self.takes: list[torch.Tensor] = []  # each [takes, 16, S, S, 3]
        self.prefix_windows: list[torch.Tensor] = []  # [clips, 6, 3]: amount, x, y
        self.take_windows: list[torch.Tensor] = []  # [takes, 8, 3]
        self.plan_rows, self.critique_rows = TaskRows(), TaskRows()
        self.num_clips = self.num_takes = 0
        self._flat: dict[str, Any] = {}
        self._heads: dict[str, list[int]] = {}

    def _segment(self, indices: list[int]) -> VideoSegment:
        frames = np.empty((len(indices), self.size_px, self.size_px, 3), np.uint8)  # only its shape is read
        return VideoSegment(frames=frames, times_s=tuple(i / FPS for i in indices))

    def _encode(self, segments: list[Any], reply: str) -> tuple[np.ndarray, int]:
        """Token ids of question and reply, and where the reply starts.

        All up to the last clip is the same in every row of a task and is tokenized once; it ends in a special
        token, where tokenization may be cut.
        """
        size = self.size_px
        head = "".join(
            s if isinstance(s, str) else video_text(s.times_s, size, size, self.geometry)
            for s in segments[:-1]
        )
        if head not in self._heads:
            self._heads[head] = self._ids(head)
        question = self._heads[head] + self._ids(segments[-1])
        return np.array(question + self._ids(reply + "<|im_end|>"), np.int16), len(question)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _append(self, rows: TaskRows, segments: list[Any], reply: str, clip: int, take: int) -> None:
        ids, start = self._encode(segments, reply)
        rows.ids.append(ids)
        rows.starts.append(start)
        rows.clips.append(clip)
        rows.takes.append(take)

    def add(self, block: Block, rng: prompts.Rng, make_takes: TakeMaker | None) -> None:
        """One row of the plan task per clip and two or three of the critique task."""
        frames = block.frames.numpy()
        wrong = self._wrong_plans(block)
        texts, faults = [], []
        for record, other in zip(block.records, wrong, strict=True):
            text, fault = prompts.poor_prompt(record.brief, record.plan, other, rng)
            texts.append(text)
            faults.append(fault)
        generated = None
        if make_takes is not None:
            generated = make_takes(block.frames[:, :SWITCH].to(self.device), texts).cpu().numpy()
        takes: list[np.ndarray] = []
        prefix = self._segment(PREFIX_INDICES)
        for i, record in enumerate(block.records):
            clip = self.num_clips + i
            segments = plan_segments(self.tokenizer, critic_text.PLAN_INSTRUCTION, prefix, record.brief)
            self._append(
                self.plan_rows, segments, critic_text.plan_reply(record.prefix_windows, record.plan), clip, -1
            )
            options = [(frames[i, SWITCH:], texts[i], Fault.NONE)]
            if generated is None or rng.random() < 0.5:
                kind = PLANTS[int(rng.integers(len(PLANTS)))]
                options.append((plant(frames[i], kind, rng), texts[i], faults[i]))
            if generated is not None:
                options.append((generated[i], texts[i], faults[i]))
                if rng.random() < 0.6:  # the loop shows the critic generated takes only
                    options.pop(0)
            for take, text, fault in options:
                self._add_critique(block, i, take, text, fault, clip, takes, prefix)
        self.prefixes.append(block.frames[:, PREFIX_INDICES].to(self.device))
        self.takes.append(torch.from_numpy(np.stack(takes)).to(self.device))
        self.prefix_windows.append(_window_tensor([r.prefix_windows for r in block.records]))
        self.num_clips += len(block.records)
        self.num_takes += len(takes)
        self._flat = {}

    def _add_critique(
        self, block: Block, i: int, take: np.ndarray, text: str, fault: Fault, clip: int,
        takes: list[np.ndarray], prefix: VideoSegment,
    ) -> None:  # fmt: skip
        record = block.records[i]
        last = block.frames[i, SWITCH - 1].numpy()
        seen = record.answer_windows if fault is Fault.NONE else describe_answer(last, take)
        segments = critique_segments(
            self.tokenizer, critic_text.CRITIQUE_INSTRUCTION, prefix, self._segment(TAKE_INDICES), text
        )
        reply = critic_text.critique_reply(seen, record.answer_windows, record.plan, fault)
        self._append(self.critique_rows, segments, reply, clip, self.num_takes + len(takes))
        self.take_windows.append(_window_tensor([seen]))
        takes.append(np.ascontiguousarray(take[TAKE_INDICES]))

    def _wrong_plans(self, block: Block) -> list[Any]:
        """For each record the truth of another scene of its kind (its own if the block has no other)."""
        by_kind: dict[str, list[int]] = {}
        for index, record in enumerate(block.records):
            by_kind.setdefault(record.kind, []).append(index)
        wrong = []
        for index, record in enumerate(block.records):
            peers = by_kind[record.kind]
            wrong.append(block.records[peers[(peers.index(index) + 1) % len(peers)]].plan)
        return wrong

    def _tensors(self) -> dict[str, Any]:
        if not self._flat:
            self._flat = {
                "prefixes": torch.cat(self.prefixes),
                "takes": torch.cat(self.takes),
                "prefix_windows": torch.cat(self.prefix_windows).to(self.device),
                "take_windows": torch.cat(self.take_windows).to(self.device),
            }
            self.prefixes, self.takes = [self._flat["prefixes"]], [self._flat["takes"]]
        return self._flat

    def batch(self, task: str, size: int, rng: prompts.Rng) -> dict[str, torch.Tensor]:
        """ids and labels int64 [B, L], frames: list of uint8 [B, T, S, S, 3] (prefix, and take if critique)."""
        rows = self.plan_rows if task == "plan" else self.critique_rows
        flat, picked = self._tensors(), rng.integers(len(rows.ids), size=size)
        longest = max(len(rows.ids[i]) for i in picked)
        ids = np.zeros((size, longest), np.int64)  # 0 pads behind the reply, where nothing is learned or seen
        labels = np.full((size, longest), -100, np.int64)
        for row, i in enumerate(picked):
            ids[row, : len(rows.ids[i])] = rows.ids[i]
            labels[row, rows.starts[i] : len(rows.ids[i])] = rows.ids[i][rows.starts[i] :]
        clips = torch.tensor([rows.clips[i] for i in picked], device=self.device)
        result = {
            "ids": torch.from_numpy(ids).to(self.device),
            "labels": torch.from_numpy(labels).to(self.device),
            "prefix": flat["prefixes"][clips],
        }
        if task == "critique":
            result["take"] = flat["takes"][torch.tensor([rows.takes[i] for i in picked], device=self.device)]
        return result

    def vision_batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames uint8 [B, 28, S, S, 3] (prefix and take) and their windows int64 [B, 14, 3]."""
        flat = self._tensors()
        rows = torch.randint(len(self.critique_rows.ids), (size,))
        clips = torch.tensor([self.critique_rows.clips[i] for i in rows], device=self.device)
        takes = torch.tensor([self.critique_rows.takes[i] for i in rows], device=self.device)
        frames = torch.cat([flat["prefixes"][clips], flat["takes"][takes]], dim=1)
        return frames, torch.cat([flat["prefix_windows"][clips], flat["take_windows"][takes]], dim=1)


def _window_tensor(rows: list[Any]) -> torch.Tensor:
    return torch.tensor([[[w.amount, w.x, w.y] for w in windows] for windows in rows])
