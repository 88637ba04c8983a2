"""V-JEPA 2 (transformers) as a measure of surprise: what it predicts of the future against what it then sees.

Shared by the selector `vjepa` and the training of the bundled model. The context is encoded alone: the
library's own forward encodes the whole clip first, so that its "predicted" future would have been seen.
Legend: B windows . W frames a window . N tokens (time-major) . D hidden size . S side of a frame.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.nn import functional

WINDOW_FRAMES: Final = 16  # W
CONTEXT_FRAMES: Final = 8
STRIDE_FRAMES: Final = 8


def window_starts(num_frames: int, switch: int) -> list[int]:
    """First frames of the windows whose futures cover the answer, frames `switch` to `num_frames`.

    The first window predicts the start of the answer from the end of the prefix. Where the stride leaves a
    rest, one more window ends at the last frame.
    """
    first, last = max(switch - CONTEXT_FRAMES, 0), num_frames - WINDOW_FRAMES
    assert last >= 0, f"{num_frames} frames hold no window of {WINDOW_FRAMES}"
    starts = [*range(first, last + 1, STRIDE_FRAMES)]
    return starts if starts and starts[-1] == last else [*starts, last]


def to_pixels(frames: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """uint8 [B, W, S, S, 3] to normalised float32 [B, W, 3, S, S]; `mean`, `std` are of pixels in 0 to 1."""
    return ((frames.float() / 255.0 - mean) / std).permute(0, 1, 4, 2, 3)


def normalised(features: torch.Tensor) -> torch.Tensor:
    """What V-JEPA learns to predict: features [B, N, D] in float32, each token with mean 0 and variance 1."""
    return functional.layer_norm(features.float(), features.shape[-1:])


@torch.no_grad()
def surprise(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Mean over future tokens of 1 - cos(predicted, encoded), float32 [B], of pixels [B, W, 3, S, S].

    Context and W are multiples of the model's `tubelet_size`, S is its `crop_size`: the library drops a frame
    that is left over, and numbers the places of a picture of another size by the grid of that one.
    """
    side, tubelet = model.config.crop_size, model.config.tubelet_size
    assert pixels.shape[-2:] == (side, side), f"{tuple(pixels.shape)} for crops of {side}"
    assert pixels.shape[1] % tubelet == CONTEXT_FRAMES % tubelet == 0, (
        f"{pixels.shape[1]} frames by {tubelet}"
    )
    context = model.encoder(pixel_values_videos=pixels[:, :CONTEXT_FRAMES]).last_hidden_state
    encoded = model.encoder(pixel_values_videos=pixels).last_hidden_state
    num_context, num_tokens = context.shape[1], encoded.shape[1]
    ids = torch.arange(num_tokens, device=pixels.device).expand(len(pixels), -1)
    predicted = model.predictor(
        encoder_hidden_states=context,
        context_mask=[ids[:, :num_context]],
        target_mask=[ids[:, num_context:]],
    ).last_hidden_state
    future = normalised(encoded[:, num_context:])
    return 1.0 - functional.cosine_similarity(normalised(predicted), future, dim=-1).mean(dim=1)
