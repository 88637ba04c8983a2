"""How a denoiser may be made faster, as data: the presets, and single parts laid over them.

Knows no kernel and imports no torch. "auto" is resolved where the device is known, in
engine/denoise/assemble.py.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

FORWARDS = ("library", "fast")
LINEARS = ("bf16", "fp8", "int8", "auto")
ELEMENT_WISE = ("ours", "compiler")
SWITCH = ("off", "on", "auto")
POLICIES = ("off", "auto")
QUANTIZED_END = 0.1
VAES = ("library", "fused")


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiseSettings:
    """One value for every part. The defaults are the untouched library module: the oracle."""

    forward: str = "library"
    """Diffusers' own, or ours over the same weights (engine/generators/wan/forward.py)."""
    attention: tuple[str, ...] = ()
    """Kernels in the order they are tried; one name is required; empty: the fastest exact one here."""
    quantized_attention: tuple[str, ...] = ()
    """8-bit or sparse kernels for the middle of the noise levels; "auto": an 8-bit one that is faster than
    every exact one here, if there is any."""
    quantized_first: float | None = None
    """Share of the noise levels at the noisy end that keep the exact attention; None: as the policy says,
    without one `QUANTIZED_END`."""
    quantized_last: float | None = None
    """And at the clean end. With either one given the policy decides no attention."""
    linear: str = "bf16"
    """Products of the inner blocks; "auto": the 8-bit format that is fast on this device, if any, for the
    layers that the policy admits to it."""
    policy: str = "off"
    """What was calibrated for these weights: "auto": the table beside the model, if it is theirs; or a file.
    It decides only what "auto" leaves open: a format or a range that was given wins."""
    element_wise: str = "ours"
    """Norms, modulation, rotary embedding, quantization: our kernels, or plain torch for the compiler."""
    compile: str = "off"
    """Compile each block; "auto": on a GPU."""
    graphs: str = "off"
    """Replay a CUDA graph; "auto": on a GPU for short sequences, where launches cost time."""
    vae: str = "library"
    """The autoencoder's own passes, or norms and activations fused (engine/generators/wan/vae_fused.py)."""
    cfg_gate: float = 1.0
    """Share of the steps that run both branches of guidance; the others use the last difference again."""
    step_cache: float = 0.0
    """Share of the steps whose velocity is extrapolated instead of predicted."""
    early_stop: float = 0.0
    """Stop once the previewed result changes by less than this share in a step; 0: never."""


WITH_ANY_FORWARD = ("vae", "cfg_gate", "step_cache", "early_stop")
"""Parts around the forward; all others are of our own forward."""


def parts_of_forward(settings: DenoiseSettings) -> list[str]:
    """The parts that only our own forward has and that are not left as they are."""
    untouched = DenoiseSettings()
    names = [part.name for part in fields(settings) if part.name not in WITH_ANY_FORWARD]
    return [name for name in names if getattr(settings, name) != getattr(untouched, name)]


PRESETS = {
    "exact": DenoiseSettings(),
    "fast": DenoiseSettings(
        forward="fast",
        linear="auto",
        policy="auto",
        quantized_attention=("auto",),
        compile="auto",
        graphs="auto",
        vae="fused",
    ),
    "fastest": DenoiseSettings(
        forward="fast",
        linear="auto",
        policy="auto",
        quantized_attention=("auto",),
        quantized_first=0.0,
        quantized_last=0.0,
        compile="auto",
        graphs="auto",
        vae="fused",
        cfg_gate=0.5,
        step_cache=0.25,
    ),
}
