"""Clips as another camera would have seen them: moved a little, brighter or darker, in all frames alike.

Labels stay what they are, so a move is of one pixel at most, where a cell of the grid that places are told on
has eight: a critic that was moved by three told the places of things no better than chance. So few takes can
be scored that a critic would otherwise learn them by heart.
"""

from __future__ import annotations

from typing import Final

import torch

MAX_SHIFT_PX: Final = 1
MAX_GAIN: Final = 0.12


def augmented(frames: torch.Tensor) -> torch.Tensor:
    """uint8 [B, T, S, S, 3] of the same shape; borders are repeated, and each clip is changed as a whole."""
    batch, _, height, width, _ = frames.shape
    device = frames.device

    def places(size: int) -> torch.Tensor:
        shift = torch.randint(-MAX_SHIFT_PX, MAX_SHIFT_PX + 1, (batch, 1), device=device)
        return (torch.arange(size, device=device) + shift).clamp(0, size - 1)

    clips = torch.arange(batch, device=device)[:, None, None]
    moved = frames.transpose(0, 1)[:, clips, places(height)[:, :, None], places(width)[:, None, :]]
    gain = 1.0 + MAX_GAIN * (2.0 * torch.rand(batch, 1, 1, 1, device=device) - 1.0)
    return (moved.float() * gain).clamp(0.0, 255.0).round().to(torch.uint8).transpose(0, 1)
