"""What the critic is trained on: its reply, and where things move in each pair of frames.

Both are functions of tensors of fixed shapes that wait for nothing, so that a step fits into a CUDA graph:
the places of the clips among the tokens are the same in all rows of a task, and are found once.
Legend: B batch, L tokens of a row, G pairs of frames, N patches of a row, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from engine.critics.qwen_vl.preprocess import PatchGeometry, patchify
from engine.demo.training.critic_model import GROUP_PATCHES
from engine.demo.training.windows import AMOUNTS, GRID

VISION_WEIGHT: Final = 0.1  # of the side task beside the reply
PREFIX_GROUPS: Final = 6

Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Layout:
    """Of all rows of a task: position ids [3, 1, L], and the columns int64 [G N / 4] of the clips' tokens."""

    positions: Tensor
    columns: Tensor


class CriticLosses(nn.Module):
    """The two losses over one model whose layers `fit_for_training` has changed."""

    def __init__(self, model: Any, geometry: PatchGeometry) -> None:
        super().__init__()
        self.model, self.geometry = model, geometry
        self.heads = nn.Linear(model.config.vision_config.out_hidden_size, len(AMOUNTS) + 2 * GRID)
        self._layouts: dict[int, Layout] = {}
        self._grids: dict[tuple[int, int], dict[str, Tensor]] = {}

    def pixels(self, frames: Tensor) -> Tensor:
        """[B N, 1536] of uint8 frames [B, T, S, S, 3]; outside of a graph, since it copies from the host."""
        dtype = torch.bfloat16 if frames.is_cuda else torch.float32
        return patchify(frames, self.geometry, dtype=dtype)[0].flatten(0, 1)

    def vision_losses(self, pixels: Tensor, windows: Tensor) -> dict[str, Tensor]:
        """Of the side task alone; windows int64 [B, G, 3]."""
        return {"loss": self._place_loss(self._see(pixels, len(windows)), windows)}

    def reply_losses(self, pixels: Tensor, windows: Tensor, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy of the reply's tokens and the side task, of one batch of one task.

        ids and labels int64 [B, L], labels -100 outside of the reply.
        """
        core, layout = self.model.model, self._layout(ids)
        output = self._see(pixels, len(ids))
        embeds = core.language_model.embed_tokens(ids)
        hidden = core.language_model(
            inputs_embeds=embeds.index_copy(1, layout.columns, self._rows(output.pooler_output, embeds)),
            position_ids=layout.positions.expand(-1, len(ids), -1),
            visual_pos_masks=layout.columns,
            deepstack_visual_embeds=[self._rows(d, embeds) for d in output.deepstack_features],
            use_cache=False,
        ).last_hidden_state
        logits = self.model.lm_head(hidden[:, :-1]).float()
        reply = functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        vision = self._place_loss(output, windows)
        return {"loss": reply + VISION_WEIGHT * vision, "reply": reply, "vision": vision}

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Of `reply_losses` or, of a batch without a reply, of `vision_losses`."""
        replies = (batch["ids"], batch["labels"]) if "ids" in batch else ()
        return (self.pixels(batch["frames"]), batch["windows"], *replies)

    def _see(self, pixels: Tensor, batch: int) -> Any:
        """The vision tower's output for clips, or for two clips in a row."""
        groups = len(pixels) // batch // GROUP_PATCHES
        return self.model.model.visual(pixels, None, **self._grid(batch, groups, pixels.device))

    def _place_loss(self, output: Any, windows: Tensor) -> Tensor:
        """Cross entropy of amount, and of x and y where something moves."""
        pooled = output.pooler_output.unflatten(0, (*windows.shape[:2], -1)).mean(dim=2)
        amount, x, y = self.heads(pooled).float().split([len(AMOUNTS), GRID, GRID], dim=-1)
        place = functional.cross_entropy(x.flatten(0, 1), windows[..., 1].flatten(), ignore_index=-1)
        place = place + functional.cross_entropy(y.flatten(0, 1), windows[..., 2].flatten(), ignore_index=-1)
        loss: Tensor = functional.cross_entropy(amount.flatten(0, 1), windows[..., 0].flatten()) + place
        return loss

    @staticmethod
    def _rows(features: Tensor, embeds: Tensor) -> Tensor:
        """[B, G N / 4, D] in the dtype of `embeds`."""
        rows: Tensor = features.to(embeds.dtype).unflatten(0, (len(embeds), -1))
        return rows

    def _grid(self, batch: int, groups: int, device: torch.device) -> dict[str, Tensor]:
        """What the tower works out of a grid in Python, clip by clip; asked for once."""
        if (batch, groups) not in self._grids:
            visual, side = self.model.model.visual, int(GROUP_PATCHES**0.5)
            grid = torch.tensor([[groups, side, side]] * batch)
            merge = visual.spatial_merge_size
            indices, weights = get_vision_interpolation_indices_and_weights(
                grid, visual.num_grid_per_side, mode=visual.interpolation_mode,
                align_corners=visual.interpolation_align_corners, spatial_merge_size=merge,
            )  # fmt: skip
            found = {
                "interp_indices": indices,
                "interp_weights": weights,
                "position_ids": get_vision_position_ids(grid, merge),
                "cu_seqlens": get_vision_cu_seqlens(grid),
            }
            self._grids[batch, groups] = {name: value.to(device) for name, value in found.items()}
        return self._grids[batch, groups]

    def _layout(self, ids: Tensor) -> Layout:
        length = ids.shape[1]
        if length not in self._layouts:
            row = ids[:1]
            shown = row == self.model.config.video_token_id
            side = int(GROUP_PATCHES**0.5)
            groups = int(shown.sum()) * 4 // GROUP_PATCHES
            counts = [groups] if groups == PREFIX_GROUPS else [PREFIX_GROUPS, groups - PREFIX_GROUPS]
            grid = torch.tensor([[count, side, side] for count in counts], device=ids.device)
            positions, _ = self.model.model.get_rope_index(
                row, mm_token_type_ids=shown.long() * 2, video_grid_thw=grid
            )
            self._layouts[length] = Layout(positions, shown[0].nonzero()[:, 0])
        return self._layouts[length]
