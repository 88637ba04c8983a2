"""How a denoiser may be made faster, as data: the presets, and single parts laid over them.

Knows no kernel and imports no torch. "auto" is resolved where the device is known, in
engine/denoise/assemble.py.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from engine.settings.fields import setting

FORWARDS = ("library", "fast")
LINEARS = ("bf16", "fp8", "fp8_full_accum", "int8", "auto")
ELEMENT_WISE = ("ours", "compiler")
SWITCH = ("off", "on", "auto")
POLICIES = ("off", "auto")
QUANTIZED_END = 0.1
VAES = ("library", "fused", "fp8")
EVEN, MAGNITUDE, SPECTRUM = "even", "magnitude", "spectrum"
FIRST_BLOCK, EXTRAPOLATION = "first-block", "extrapolation"
STEP_CACHES = (EVEN, MAGNITUDE, SPECTRUM, FIRST_BLOCK, EXTRAPOLATION)
"""Rules by which steps are left out: those of MagCache, SeaCache and first-block caches, as a calibration
measured them, and the error of the extrapolation itself."""
KEPT_PREFIX = 0.15
"""Measured: docs/denoiser.md, past dense attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiseSettings:
    """One value for every part. The defaults are the untouched library module: the oracle."""

    forward: str = setting(
        "library",
        choices=FORWARDS,
        help="Forward pass: the library's own, or, with fast, ours over the same weights, which the settings "
        "from attention to graphs need.",
    )
    attention: tuple[str, ...] = setting(
        (),
        help="Attention kernels in the order they are tried, see retake kernels; one name alone is required, "
        "none means the fastest exact one here.",
    )
    quantized_attention: tuple[str, ...] = setting(
        (),
        help="8-bit or sparse attention kernels for the middle noise levels; auto: an 8-bit one that is "
        "faster than every exact one here, if there is any.",
    )
    quantized_first: float | None = setting(
        None,
        low=0.0,
        high=1.0,
        help="Share of the noise levels at the noisy end that keep exact attention. Unless this or "
        f"quantized_last is given, the policy decides, and without a policy it is {QUANTIZED_END}.",
    )
    quantized_last: float | None = setting(
        None,
        low=0.0,
        high=1.0,
        help="The same at the clean end. With either one given the policy does not decide.",
    )
    linear: str = setting(
        "bf16",
        choices=LINEARS,
        help="Format of the linear layers of the blocks; auto: the 8-bit one that is fast on this device, if "
        "any, for the layers that the policy admits to it.",
    )
    policy: str = setting(
        "off",
        metavar="auto|off|FILE",
        help="Which layers may be 8-bit and when, as measured for these weights; auto: by the table beside "
        "the model, or a file of bench.quality.policy_calibration. A format or range that is given wins.",
    )
    element_wise: str = setting(
        "ours",
        choices=ELEMENT_WISE,
        help="Norms, modulation, rotary embedding and quantization: our kernels, or torch for the compiler.",
    )
    compile: str = setting("off", choices=SWITCH, help="Compile each block; auto: on a GPU.")
    graphs: str = setting(
        "off",
        choices=SWITCH,
        help="Replay a CUDA graph; auto: on a GPU for short sequences, where launches cost time.",
    )
    vae: str = setting(
        "library",
        choices=VAES,
        help="The autoencoder's own passes, or norms and activations fused; fp8: and in FP8 those "
        "convolutions of the decoder that keep the picture, as bench.quality.vae_calibration measured for "
        "these weights.",
    )
    vae_chunk: int = setting(
        0,
        low=0,
        high=16,
        help="Latent frames that the autoencoder takes at a time; 0: 4, on a CPU fewer where they are large.",
    )
    prefix_kept: float = setting(
        0.0,
        low=0.0,
        high=1.0,
        help="Share of the noise levels through which the keys and values of a clean prefix are read before "
        "they are computed again; 0: computed in each step. With the fast forward a model whose prefix looks "
        "at itself alone computes them once a take, exactly, whatever this is.",
    )
    cfg_gate: float = setting(
        1.0,
        low=0.0,
        high=1.0,
        help="Share of the steps that run both branches of guidance; the others reuse the last difference.",
    )
    step_cache: float = setting(
        0.0,
        low=0.0,
        high=0.5,
        help="Share of the steps whose velocity is extrapolated instead of predicted.",
    )
    step_cache_by: str = setting(
        EVEN,
        choices=STEP_CACHES,
        help="Which steps those are: evenly spaced, or where, behind the prefix, the magnitude of the "
        "velocity, the coarse spectrum of the latents or what the first block adds changes least, or where "
        "extrapolation errs least: as bench.quality.policy_calibration measured for these weights.",
    )
    early_stop: float = setting(
        0.0,
        low=0.0,
        high=1.0,
        help="End a take once its preview changes by less than this share in a step; 0: never.",
    )


WITH_ANY_FORWARD = ("vae", "vae_chunk", "cfg_gate", "step_cache", "step_cache_by", "early_stop")
"""Parts around the forward; all others are of our own forward."""


def parts_of_forward(settings: DenoiseSettings) -> list[str]:
    """The parts that only our own forward has and that are not left as they are."""
    untouched = DenoiseSettings()
    names = [part.name for part in fields(settings) if part.name not in WITH_ANY_FORWARD]
    return [name for name in names if getattr(settings, name) != getattr(untouched, name)]


AUTO_PRESET, EXACT = "auto", "exact"
PRESETS = {
    EXACT: DenoiseSettings(),
    "fast": DenoiseSettings(
        forward="fast",
        linear="auto",
        policy="auto",
        quantized_attention=("auto",),
        compile="auto",
        graphs="auto",
        vae="fused",
        prefix_kept=KEPT_PREFIX,
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
        prefix_kept=KEPT_PREFIX,
        cfg_gate=0.5,
        step_cache=0.25,
    ),
}
