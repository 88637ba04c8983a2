"""A tiny V-JEPA 2 folder with random weights: for plumbing only, its surprise means nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SIDE_PX = 32


def tiny_model(**changes: Any) -> Any:
    from transformers import VJEPA2Config, VJEPA2Model

    torch.manual_seed(0)
    sizes = {
        "patch_size": 16, "crop_size": SIDE_PX, "frames_per_clip": 16, "tubelet_size": 2, "hidden_size": 24,
        "num_attention_heads": 2, "num_hidden_layers": 2, "mlp_ratio": 2.0, "pred_hidden_size": 24,
        "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1, "pred_num_mask_tokens": 2,
    }  # fmt: skip
    return VJEPA2Model(VJEPA2Config(**(sizes | changes))).eval()


def write_tiny_vjepa(folder: Path, *, fps: float | None = 8.0, **changes: Any) -> Path:
    """Saves the tiny model and a preprocessor config; `fps` None leaves the rate unstated."""
    tiny_model(**changes).save_pretrained(folder)
    values: dict[str, Any] = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "fps": fps}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(values))
    return folder
