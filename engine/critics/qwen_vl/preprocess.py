"""Frames and text to the tensors a Qwen-VL model reads: own preprocessing, no torchvision, no HF processor.

Does not know what is asked of the model or what it answers. Invariant: token ids and pixel values equal those
of the library's processor (exactly when no resize is needed, within 1/255 per channel otherwise).
Legend: B batch . T pixel frames . H, W pixels . C 3 colours . G temporal groups . P patch side, px
. K temporal patch, frames . M spatial merge . N = G.(H/P).(W/P) patches . L prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from engine.errors import ModelError
from engine.types import Frames

VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
VIDEO_PAD = "<|video_pad|>"

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchGeometry:
    """How one model family cuts frames into patches, and how it is told the time.

    `frame_px` is the length of a frame's longer side after the resize; None keeps the size (but for rounding
    to whole merged patches). `text_timestamps` is Qwen3-VL's layout: the time of each temporal group in text.
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    text_timestamps: bool
    frame_px: int | None = None

    @classmethod
    def from_config(cls, config: Any, *, frame_px: int | None = None) -> PatchGeometry:
        """Reads a transformers Qwen3VLConfig, Qwen3_5Config or Qwen2_5_VLConfig. Raises ModelError for
        another family."""
        is_qwen3 = config.model_type in ("qwen3_vl", "qwen3_5", "cosmos3_omni")  # the same vision tower
        if not is_qwen3 and config.model_type != "qwen2_5_vl":
            raise ModelError(
                f"model_type {config.model_type!r} is not a Qwen-VL layout",
                fix="use a folder whose config.json says model_type qwen3_vl, qwen3_5, qwen2_5_vl or "
                "cosmos3_omni",
            )
        vision = config.vision_config
        return cls(
            patch_size=vision.patch_size,
            temporal_patch_size=vision.temporal_patch_size,
            merge_size=vision.spatial_merge_size,
            mean=HALF if is_qwen3 else CLIP_MEAN,
            std=HALF if is_qwen3 else CLIP_STD,
            text_timestamps=is_qwen3,
            frame_px=frame_px,
        )

    def frame_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the resize: whole merged patches, longer side near `frame_px`."""
        factor = self.patch_size * self.merge_size
        scale = 1.0 if self.frame_px is None else self.frame_px / max(height, width)
        return (
            max(1, round(height * scale / factor)) * factor,
            max(1, round(width * scale / factor)) * factor,
        )

    def tokens_per_group(self, height: int, width: int) -> int:
        """Video tokens that one temporal group of frames of this size (before the resize) becomes."""
        rows, columns = self.frame_size(height, width)
        return (rows // self.patch_size) * (columns // self.patch_size) // self.merge_size**2


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSegment:
    """A clip inside a prompt. `times_s[i]` is the time of frame i on the clip's own clock, from 0."""

    frames: Frames  # uint8 [T, H, W, 3]
    times_s: tuple[float, ...]


Segment = str | VideoSegment


def sample_pairs(num_frames: int, num_samples: int, *, gap: int = 1) -> list[int]:
    """Indices of `num_samples` (even) frames: pairs `gap` frames apart, spread from first to last frame.

    A temporal patch merges two frames, so motion shows inside a patch only if they are close in time. Fewer
    frames than asked for: all of them. The gap shrinks where pairs would overlap; indices strictly ascend.
    """
    assert num_frames > 0 and num_samples > 0 and gap > 0, f"{num_frames=} {num_samples=} {gap=}"
    assert num_samples % 2 == 0, f"{num_samples} samples do not make pairs"
    if num_frames <= num_samples:
        return list(range(num_frames))
    gap = max(1, min(gap, num_frames // num_samples))
    starts = np.floor(np.linspace(0, num_frames - 1 - gap, num_samples // 2) + 0.5).astype(int).tolist()
    return [index for start in starts for index in (start, start + gap)]


def resize_frames(frames: torch.Tensor, geometry: PatchGeometry) -> torch.Tensor:
    """uint8 [B, T, H, W, 3] -> uint8 [B, T, H', W', 3]: antialiased bicubic, rounded to whole levels."""
    batch, num_frames, height, width, channels = frames.shape
    size = geometry.frame_size(height, width)
    if size == (height, width):
        return frames
    flat = frames.reshape(batch * num_frames, height, width, channels).permute(0, 3, 1, 2).float()
    flat = functional.interpolate(flat, size=size, mode="bicubic", antialias=True, align_corners=False)
    flat = flat.round_().clamp_(0, 255).to(torch.uint8)  # [B*T, 3, H', W']
    return flat.permute(0, 2, 3, 1).reshape(batch, num_frames, *size, channels)


def patchify(
    frames: torch.Tensor, geometry: PatchGeometry, *, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [B, T, H, W, 3] on any device -> (pixel values [B, N, C*K*P*P] `dtype`, grid [B, 3] int64, CPU).

    Resizes as `geometry` asks; a last incomplete temporal group is filled with its last frame. The grid
    (G, H/P, W/P) stays on the CPU: it is known there, and reading it back from a GPU would synchronize.
    Training uses this batched form; a model takes `pixels.flatten(0, 1)` and `grid.to(device)`.
    """
    assert frames.dtype == torch.uint8 and frames.ndim == 5, f"{frames.dtype} {tuple(frames.shape)}"
    frames = resize_frames(frames, geometry)
    k, p, m = geometry.temporal_patch_size, geometry.patch_size, geometry.merge_size
    if missing := -frames.shape[1] % k:
        frames = torch.cat([frames, frames[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
    batch, num_frames, height, width, _ = frames.shape
    groups, rows, columns = num_frames // k, height // p, width // p
    mean = torch.tensor(geometry.mean).mul_(255.0).to(frames.device, non_blocking=True)
    std = torch.tensor(geometry.std).mul_(255.0).to(frames.device, non_blocking=True)
    pixels = (frames.float() - mean) / std  # [B, T, H, W, 3]
    pixels = pixels.reshape((batch, groups, k, rows // m, m, p, columns // m, m, p, 3))
    pixels = pixels.permute((0, 1, 3, 6, 4, 7, 9, 2, 5, 8))  # [B, G, H/PM, W/PM, M, M, C, K, P, P]
    pixels = pixels.reshape(batch, groups * rows * columns, 3 * k * p * p)
    grid = torch.tensor([[groups, rows, columns]], dtype=torch.int64).expand(batch, -1).contiguous()
    return pixels.to(dtype), grid


def video_text(times_s: Sequence[float], height: int, width: int, geometry: PatchGeometry) -> str:
    """The prompt text of one clip, with every placeholder token; `height`, `width` are before the resize.

    Qwen3-VL: "<0.1 seconds><|vision_start|><|video_pad|>...<|vision_end|>" for each temporal group, at the
    mean of its first and last frame time. Qwen2.5-VL: one vision block; its clock is in the position ids.
    """
    k = geometry.temporal_patch_size
    padded = [*times_s, *[times_s[-1]] * (-len(times_s) % k)]
    pads = VIDEO_PAD * geometry.tokens_per_group(height, width)
    if not geometry.text_timestamps:
        return VISION_START + pads * (len(padded) // k) + VISION_END
    centres = [(padded[i] + padded[i + k - 1]) / 2 for i in range(0, len(padded), k)]
    return "".join(f"<{t:.1f} seconds>{VISION_START}{pads}{VISION_END}" for t in centres)


def build_inputs(
    tokenizer: Any,
    config: Any,
    segments: Sequence[Segment],
    *,
    geometry: PatchGeometry | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, torch.Tensor]:
    """Keyword arguments of a Qwen-VL forward for one prompt (B=1, exact length, no padding).

    input_ids and mm_token_type_ids [1, L] int64 and video_grid_thw [clips, 3] int64 on the CPU (positions are
    computed there without a synchronization); pixel_values_videos [sum N, C*K*P*P] `dtype` on `device`;
    Qwen2.5-VL also gets second_per_grid_ts [clips] float32, CPU. Text segments may hold ChatML markers; use
    `plain_text` on what a user wrote. Without a clip only the first two keys are present.
    """
    geometry = geometry or PatchGeometry.from_config(config)
    parts: list[str] = []
    pixels: list[torch.Tensor] = []
    grids: list[torch.Tensor] = []
    seconds_per_group: list[float] = []
    for segment in segments:
        if isinstance(segment, str):
            parts.append(segment)
            continue
        num_frames, height, width, _ = segment.frames.shape
        assert len(segment.times_s) == num_frames, f"{len(segment.times_s)} times for {num_frames} frames"
        parts.append(video_text(segment.times_s, height, width, geometry))
        frames = torch.from_numpy(np.ascontiguousarray(segment.frames)).to(device, non_blocking=True)
        values, grid = patchify(frames[None], geometry, dtype=dtype)
        pixels.append(values[0])
        grids.append(grid)
        seconds_per_group.append(_seconds_per_group(segment.times_s, geometry))
    ids = tokenizer("".join(parts), add_special_tokens=False, return_tensors="pt")["input_ids"]
    is_video = ids == config.video_token_id
    expected = sum(int(grid.prod()) for grid in grids) // geometry.merge_size**2
    assert int(is_video.sum()) == expected, f"{int(is_video.sum())} video tokens for {expected} features"
    inputs = {"input_ids": ids, "mm_token_type_ids": is_video.long() * 2}
    if pixels:
        inputs["pixel_values_videos"] = torch.cat(pixels)
        inputs["video_grid_thw"] = torch.cat(grids)
        if not geometry.text_timestamps:
            inputs["second_per_grid_ts"] = torch.tensor(seconds_per_group)
    return inputs


def plain_text(text: str) -> str:
    """Text of a user or a model with the opening of special tokens broken, so that it stays plain text."""
    return text.replace("<|", "< |")


def _seconds_per_group(times_s: Sequence[float], geometry: PatchGeometry) -> float:
    """Mean time from one temporal group to the next; frames are taken in pairs, so spans are of groups."""
    starts = times_s[:: geometry.temporal_patch_size]
    return (starts[-1] - starts[0]) / (len(starts) - 1) if len(starts) > 1 else 1.0
