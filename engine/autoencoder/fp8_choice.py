"""Which convolutions of one decoder may be FP8: what the picture loses by each, the choice, and its file.

The file lies beside the model and is bound to the weights of its autoencoder. It names convolutions and how
near all of them together keep the picture to the exact decode; whatever it does not name is as before.
Errors are mean squares of pixels in [-1, 1], one a clip; the worst clip counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from diffusers import AutoencoderKLWan
from torch import Tensor

from engine.autoencoder.fp8_conv import Fp8Conv, fp8_convolutions
from engine.autoencoder.vae_fused import use_fused_vae
from engine.errors import ModelError
from engine.machine.outline import bytes_of
from engine.quant.precision_policy import checkpoint_digest
from engine.quant.recipes import SurgeryError
from engine.words import counted
from kernels.files import read_json

FILE = "fp8_convolutions.json"
SCHEMA = 1
MIN_PSNR_DB = 45.0
"""To the exact decode, with a peak of 2; the library's own decode in bf16 is some dB above."""
CALIBRATE = "python -m bench.quality.vae_calibration"
SMALLEST_ERROR = 1e-20
OTHERWISE = 'set denoise.vae = "fused"'

Errors = Sequence[float]
"""Mean square of a clip each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Choice:
    """`psnr_db`: of the worst clip, with all `convolutions` in FP8. `source`: digest of the weights."""

    source: str
    producer: str
    psnr_db: float
    convolutions: tuple[str, ...]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Fp8Choice:
        """Reads what `save` wrote; raises ModelError for anything else."""
        try:
            document = dict(read_json(path))
            if (schema := document.pop("schema")) != SCHEMA:
                raise ValueError(f"schema {schema}, this version reads {SCHEMA}")
            names = document.pop("convolutions")
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"convolutions {names!r} are no list of names")
            return cls(**document, convolutions=tuple(names))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is not usable: {error}", fix=f"{CALIBRATE}, or {OTHERWISE}") from error


def find(folder: Path | None) -> Fp8Choice:
    """The choice beside a generator in `folder`; ModelError where there is none of these weights."""
    fix = f"{CALIBRATE}, or {OTHERWISE}"
    path = None if folder is None else folder / FILE
    if folder is None or path is None or not path.is_file():
        raise ModelError("which convolutions may be FP8 was not measured: no file beside the model", fix=fix)
    choice, found = Fp8Choice.load(path), checkpoint_digest(folder, "vae")
    if choice.source != found:
        raise ModelError(
            f"{path} was measured on an autoencoder {choice.source[:16]}, the model has {found[:16]}", fix=fix
        )
    return choice


def use_vae(vae: AutoencoderKLWan, wanted: str, folder: Path | None) -> str:
    """Makes `vae` what the setting `denoise.vae` wants, "fused" or "fp8", and tells how.

    ModelError, SurgeryError: FP8 is wanted and was not measured for these weights, or does not run here.
    """
    if wanted != "fp8":
        return f"fused: {use_fused_vae(vae)} modules"
    choice, known = find(folder), fp8_convolutions(vae)
    for name in choice.convolutions:
        reason = known.get(name, "this autoencoder has no such convolution")
        if reason is not None:
            raise SurgeryError(f"{name} cannot be FP8 here: {reason}", fix=OTHERWISE)
    count = use_fused_vae(vae, fp8=choice.convolutions)
    kept = (
        f"{len(choice.convolutions)} of {counted(len(known), 'convolution')} in FP8, {choice.psnr_db:.1f} dB"
    )
    return f"fused: {counted(count, 'module')}; {kept} ({choice.producer})"


def vae_bytes(vae: AutoencoderKLWan, wanted: str, folder: Path | None) -> int:
    """Of weights, with those that `use_vae` makes for FP8, whether it was called yet or not.

    ModelError: as `use_vae`, so that a plan says it before weights are read.
    """
    made = any(isinstance(module, Fp8Conv) for module in vae.modules())
    if wanted != "fp8" or made:
        return bytes_of(vae)
    modules = dict(vae.named_modules())
    weights: list[Tensor] = [modules[name].weight for name in find(folder).convolutions if name in modules]
    return bytes_of(vae) + sum(weight.numel() for weight in weights)  # a byte each


def mean_squares(pixels: Tensor, exact: Tensor) -> list[float]:
    """Of the difference of [B, 3, T, H, W], a clip each."""
    return (pixels.float() - exact.float()).square().flatten(1).mean(dim=1).tolist()


def psnr_db(errors: Errors) -> float:
    """Of the worst clip, with a peak of 2; 206 without any error, which a file can hold."""
    return 10 * math.log10(4.0 / max(*errors, SMALLEST_ERROR))


def limit_of(min_psnr_db: float) -> float:
    """The inverse of `psnr_db`."""
    return float(4.0 / 10 ** (min_psnr_db / 10))


def choose(
    of: Callable[[Collection[str]], Errors], work: Mapping[str, float], limit: float
) -> tuple[list[str], Errors]:
    """(convolutions whose error together stays within `limit`, that error).

    `of` measures the decoder with some in FP8; `work`: multiplications of each, of which as many as possible
    shall be fast. What is least lost for its work comes first. Errors of different layers are independent and
    their squares add up; what was foreseen so is measured, and the costliest given up until it holds.
    """
    base = of(())
    added = {name: [max(a - b, 0.0) for a, b in zip(of((name,)), base, strict=True)] for name in work}
    chosen, total = list[str](), list(base)
    for name in sorted(work, key=lambda name: max(added[name]) / work[name]):
        after = [a + b for a, b in zip(total, added[name], strict=True)]
        if _within(after, limit):
            chosen.append(name)
            total = after
    while chosen:
        found = of(chosen)
        if _within(found, limit):
            return chosen, found
        chosen.pop()
    return [], base


def _within(errors: Iterable[float], limit: float) -> bool:
    return all(error <= limit for error in errors)  # which a NaN is not
