"""Frozen image encoders: frames to patch features, each frame by itself.

A transformers folder (DINOv2, SigLIP, ViT and their like) or, where the user gives none, a descriptor without
weights. Trains nothing. Invariant: the features of a frame depend on no other frame.
Legend: T frames . H, W pixels . P patches, row by row . D feature size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.errors import ModelError
from engine.machine.own_code import refuse_own_code
from engine.selectors._clips import shrunk
from engine.types import Frames, SelectorSettings
from engine.words import counted

Features = NDArray[np.float32]
"""float32 [T, P, D]."""

GRID = 16  # patches a side of the descriptor
PATCH_PX = 8
BINS = 8  # directions of edges
SCALES = (1, 2)
BATCH = 16  # frames a forward pass
LAYOUT = "config.json, model.safetensors and preprocessor_config.json of an image encoder such as DINOv2"


class ImageEncoder(Protocol):
    def features(self, frames: Frames) -> Features:
        """uint8 RGB [T, H, W, 3] to float32 [T, P, D]; P and D do not depend on T."""
        ...


def load_image_encoder(settings: SelectorSettings) -> ImageEncoder:
    """The folder of the settings, or the descriptor. Raises ModelError for a folder that is no encoder."""
    if settings.image_encoder is None:
        return EdgeDescriptor()
    return _load_folder(settings.image_encoder, settings.device)


@dataclass(frozen=True, slots=True)
class EdgeDescriptor:
    """Colour and oriented edges of each patch, on a grid of GRID x GRID. No weights."""

    def features(self, frames: Frames) -> Features:
        return np.stack([_describe(frame) for frame in frames])


@dataclass(frozen=True, slots=True)
class FolderEncoder:
    """Patch tokens of the last layer of a transformers vision model; the picture is squeezed to `side_px`.

    Squeezed, since the centre crop of many processors would cut off where things enter and leave.
    """

    model: Any
    processor: Any
    side_px: int
    device: str

    def features(self, frames: Frames) -> Features:
        import torch

        parts = []
        dtype = next(self.model.parameters()).dtype
        with torch.inference_mode():
            for start in range(0, len(frames), BATCH):
                pictures = [shrunk(frame, (self.side_px,) * 2) for frame in frames[start : start + BATCH]]
                pixels = self.processor(
                    images=pictures, do_resize=False, do_center_crop=False, return_tensors="pt"
                )["pixel_values"]
                hidden = self.model(pixel_values=pixels.to(self.device, dtype)).last_hidden_state
                parts.append(_patch_tokens(hidden, self.side_px, self.model.config).float().cpu().numpy())
        return np.concatenate(parts)


def _describe(frame: Frames) -> Features:
    """[H, W, 3] to [P, D]: mean colour (3), then the root of the edge energy by direction at each scale."""
    side = GRID * PATCH_PX
    picture = cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(picture.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB) / 100.0
    columns = [cv2.resize(lab, (GRID, GRID), interpolation=cv2.INTER_AREA)]
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255.0
    levels = (cv2.resize(grey, (side // k, side // k), interpolation=cv2.INTER_AREA) for k in SCALES)
    columns += [np.sqrt(_edge_energy(level)) for level in levels]
    return np.concatenate(columns, axis=2).reshape(GRID * GRID, -1).astype(np.float32)


def _edge_energy(grey: NDArray[Any]) -> NDArray[np.float32]:
    """Gradient magnitude by direction, mean over each patch, [GRID, GRID, BINS]; shared by two directions."""
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *axis, ksize=3, scale=1 / 8) for axis in ((1, 0), (0, 1)))
    magnitude = np.hypot(across, down)
    place = np.arctan2(down, across) % np.pi / np.pi * BINS
    lower, share = place.astype(int) % BINS, place % 1.0
    energy = np.zeros((*grey.shape, BINS), np.float32)
    np.put_along_axis(energy, lower[..., None], (magnitude * (1.0 - share))[..., None], axis=2)
    np.put_along_axis(energy, ((lower + 1) % BINS)[..., None], (magnitude * share)[..., None], axis=2)
    patch = grey.shape[0] // GRID
    mean = energy.reshape(GRID, patch, GRID, patch, BINS).mean(axis=(1, 3))
    return np.asarray(mean, np.float32)


def _load_folder(folder: Path, device: str) -> FolderEncoder:
    import torch
    from transformers import AutoImageProcessor, AutoModel

    fix = f"give a folder with: {LAYOUT}"
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is not an image encoder: it has no config.json", fix=fix)
    refuse_own_code(folder)
    try:
        processor: Any = AutoImageProcessor.from_pretrained(  # nosec B615 # a local folder
            folder, local_files_only=True
        )
        # In fp32 everywhere: frames differ by less than what bf16 keeps of a feature.
        loaded: Any = AutoModel.from_pretrained(  # nosec B615 # a local folder
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{folder} does not load as an image encoder: {error}", fix=fix) from error
    model, info = loaded
    # A pooling head may be missing, for patches need none; any other weight would be random.
    if lacking := sorted(key for key in info["missing_keys"] if "pooler" not in key):
        raise ModelError(
            f"{folder} lacks {counted(len(lacking), 'weight')}, the first is {lacking[0]}", fix=fix
        )
    model = getattr(model, "vision_model", model)  # of SigLIP and CLIP: without the text's half
    if getattr(model, "main_input_name", "") != "pixel_values":
        raise ModelError(f"{folder} is a {type(model).__name__}, which reads no pictures", fix=fix)
    return FolderEncoder(
        model=model.to(device).eval(),
        processor=processor,
        side_px=_side_px(processor, model.config),
        device=device,
    )


def _side_px(processor: Any, config: Any) -> int:
    """The side of the square that the processor hands to its model."""
    for size in (getattr(processor, "crop_size", None), getattr(processor, "size", None)):
        found = {} if size is None else dict(size)
        side = found.get("height") or found.get("shortest_edge")
        if side:
            return int(side)
    return int(config.image_size)


def _patch_tokens(hidden: Any, side_px: int, config: Any) -> Any:
    """[T, P, D] without class and register tokens, which come first; or from a convolution's [T, D, h, w]."""
    if hidden.ndim == 4:
        return hidden.flatten(2).transpose(1, 2)
    num_patches = (side_px // int(config.patch_size)) ** 2
    assert hidden.shape[1] >= num_patches, f"{hidden.shape[1]} tokens for {num_patches} patches"
    return hidden[:, -num_patches:]
