"""The selector "vjepa": how little a take surprises a V-JEPA 2, which knows what usually happens next.

As WMReward (arXiv 2601.10553): in windows of 16 frames, the first 8 predict the other 8. The first window
begins in the prefix, so that a take which does not continue it is a surprise. Sees prefix and takes only.
Invariant: a take's score does not depend on the other takes.
Legend: S side of the model's frames . W frames a window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError

from engine.errors import ModelError
from engine.machine.own_code import refuse_own_code
from engine.protocols import Selector
from engine.selectors._clips import shrunk
from engine.selectors._vjepa_model import (
    CONTEXT_FRAMES,
    WINDOW_FRAMES,
    surprise,
    to_pixels,
    window_starts,
)
from engine.types import Attempt, Frames, Scenario, SelectorSettings, Video, VideoSpec
from engine.video.files import resample_indices
from engine.video.prefix import read_prefix
from engine.words import counted
from kernels.files import read_json

BUNDLED: Final = Path(__file__).parents[1] / "demo" / "models" / "vjepa"
DEFAULT_FPS: Final = 8.0
"""Where the folder states no "fps": five windows then tile a 5 s take. Published checkpoints state none; they
were trained at 4 frames per second, and WMReward feeds them 49 frames of a clip, about 10 per second."""
MAX_TOKENS: Final = 16_384  # of one forward pass: bounds memory for models of any size
PREPROCESSORS: Final = ("video_preprocessor_config.json", "preprocessor_config.json")
FIX: Final = (
    "give a folder with config.json, model.safetensors and video_preprocessor_config.json, such as a copy of "
    "facebook/vjepa2-vitg-fpc64-256, or none for the bundled model"
)
FIX_BUNDLED: Final = (
    "install Retake with its bundled models, train one with `python -m engine.demo.training.train_vjepa`, "
    "or give the folder of a V-JEPA 2 checkpoint"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VjepaSurprise:
    model: Any  # transformers.VJEPA2Model
    fps: float  # at which takes and prefix are sampled
    mean: torch.Tensor
    std: torch.Tensor
    device: str

    def score(self, scenario: Scenario, takes: Sequence[Video], attempts: Sequence[Attempt]) -> list[float]:
        """Minus the mean surprise over the windows of each take; -inf for a take too short for one window."""
        prefix = self._prefix(scenario)
        windows: list[Frames] = []
        owners: list[int] = []
        for owner, take in enumerate(takes):
            clip = np.concatenate([prefix, self._sampled(take)])
            if len(clip) < WINDOW_FRAMES:
                continue
            for start in window_starts(len(clip), len(prefix)):
                windows.append(clip[start : start + WINDOW_FRAMES])
                owners.append(owner)
        found: list[list[float]] = [[] for _ in takes]
        size = self._windows_per_pass()
        for first in range(0, len(windows), size):
            frames = torch.from_numpy(np.stack(windows[first : first + size])).to(self.device)
            values = surprise(self.model, to_pixels(frames, self.mean, self.std)).tolist()
            for owner, value in zip(owners[first : first + size], values, strict=True):
                found[owner].append(value)
        return [-math.fsum(values) / len(values) if values else -math.inf for values in found]

    def _prefix(self, scenario: Scenario) -> Frames:
        """The frames before the switch that the first window shows: uint8 [up to W / 2, S, S, 3]."""
        clip, side = scenario.prefix, int(self.model.config.crop_size)
        num_frames = min(CONTEXT_FRAMES, max(1, int(clip.seconds * self.fps + 1e-6)))
        spec = VideoSpec(width=side, height=side, fps=self.fps, prefix_frames=num_frames, num_frames=1)
        return read_prefix(clip, spec)

    def _sampled(self, take: Video) -> Frames:
        """The take at the model's rate and size; squeezed, for a centre crop hides what enters and leaves."""
        side = int(self.model.config.crop_size)
        picked = resample_indices(len(take.frames), take.fps, self.fps)
        return np.stack([shrunk(take.frames[index], (side, side)) for index in picked])

    def _windows_per_pass(self) -> int:
        config = self.model.config
        tokens = WINDOW_FRAMES // config.tubelet_size * (config.crop_size // config.patch_size) ** 2
        return max(1, MAX_TOKENS // int(tokens))


def build(settings: SelectorSettings) -> Selector:
    """The V-JEPA 2 of the settings' folder, or the bundled one, in bf16 on a GPU and fp32 elsewhere.

    Raises ModelError when the folder holds no complete V-JEPA 2.
    """
    folder = BUNDLED if settings.vjepa is None else settings.vjepa
    _check_folder(folder)
    preprocessor = _preprocessor(folder)
    refuse_own_code(folder)
    model = _load(folder).to(settings.device, torch.bfloat16 if settings.device == "cuda" else torch.float32)
    mean, std = (
        torch.tensor(preprocessor[key], device=settings.device) for key in ("image_mean", "image_std")
    )
    return VjepaSurprise(
        model=model, fps=float(preprocessor.get("fps") or DEFAULT_FPS), mean=mean, std=std,
        device=settings.device,
    )  # fmt: skip


def _check_folder(folder: Path) -> None:
    config = _json(folder, "config.json")
    if config.get("model_type") != "vjepa2":
        raise ModelError(f"{folder} holds a {config.get('model_type')!r} model, not a 'vjepa2'", fix=FIX)
    tubelet = config.get("tubelet_size", 2)
    if CONTEXT_FRAMES % tubelet or WINDOW_FRAMES % tubelet:
        raise ModelError(
            f"{folder} reads {tubelet} frames at once, which does not divide {CONTEXT_FRAMES}", fix=FIX
        )


def _preprocessor(folder: Path) -> dict[str, Any]:
    name = next((name for name in PREPROCESSORS if (folder / name).is_file()), PREPROCESSORS[0])
    values = _json(folder, name)
    for key in ("image_mean", "image_std"):
        if not (isinstance(values.get(key), list) and len(values[key]) == 3):
            raise ModelError(f"{folder / name} has {key} {values.get(key)!r}; 3 numbers are needed", fix=FIX)
    return values


def _json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        fix = FIX_BUNDLED if folder == BUNDLED else FIX
        raise ModelError(f"{folder} is not a V-JEPA 2 folder: there is no {name} in it", fix=fix)
    try:
        values = read_json(path)
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}", fix=FIX) from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds a {type(values).__name__}, not an object", fix=FIX)
    return values


def _load(folder: Path) -> Any:
    """The model in fp32. A weight that the file lacks would be random, so that it is an error."""
    from transformers import VJEPA2Model

    try:
        model, info = VJEPA2Model.from_pretrained(  # nosec B615 # a local folder
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder} does not load as a V-JEPA 2: {error}", fix=FIX) from error
    lacking = sorted(info["missing_keys"])
    if lacking:
        raise ModelError(
            f"{folder} lacks {counted(len(lacking), 'weight')}, the first is {lacking[0]}", fix=FIX
        )
    return model.eval()
