"""Forwards of a full-size Wan behind a prefix: dense, sparse, and with what is kept of the prefix."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.perf.denoisers.base import module_tree
from bench.perf.denoisers.by_name import SUBJECTS
from bench.perf.denoisers.wan import WanSubject
from bench.perf.past_dense.case import Case, against
from engine.denoise.guidance import COND
from engine.generators.wan.denoiser import FastDenoiser
from engine.generators.wan.own_prefix import use_own_prefix
from engine.generators.wan.prefix_keys import for_take
from engine.settings.presets import DenoiseSettings

BASE = DenoiseSettings(forward="fast", linear="auto", quantized_first=0.0, quantized_last=0.0)
CLOSE = 0.3
"""As bench.perf.denoiser: a wrong forward is near 1. Sparse attention of random layers is nearly that of all
keys, since no key matters more than another."""
LOOSE = 0.7
"""Where queries look for some keys among all, as the random ones of Cosmos3 are made to."""
SAME = 0.05
"""Of the same forward in another order of summation, in 8 bits."""


def subject(*, small: bool) -> WanSubject:
    if small:
        return WanSubject(architecture="tiny", width=128, height=64, num_frames=17, prefix_frames=2)
    return WanSubject(architecture="wan2.1-1.3b", width=832, height=480, num_frames=81, prefix_frames=8)


OTHERS: Mapping[str, tuple[Any, float]] = {
    "cosmos3-nano": (SUBJECTS["cosmos3-nano"], LOOSE),
    "wan2.2-5b": (replace(SUBJECTS["5b"], prefix_frames=19), CLOSE),  # type: ignore[type-var]
    "wan2.1-14b": (replace(SUBJECTS["14b"], prefix_frames=8), CLOSE),  # type: ignore[type-var]
}
"""What else is exchanged in, a prefix of three seconds first, and how far a forward may be from the first."""


def of_attentions(*, small: bool, cache: Path, other: str | None = None) -> Iterator[Case]:
    """One transformer, the attention exchanged; `other` of OTHERS, in small always a tiny Cosmos3."""
    wan, allowed = (subject(small=small), CLOSE) if other is None else OTHERS[other]
    if small and other is not None:
        wan = SUBJECTS["tiny-cosmos3"]
    transformer = wan.build(device())
    expected: list[Tensor] = []
    exact = ("sdpa_flash", "sdpa_math") if small else ("fa3", "sdpa_cudnn")
    variants = {
        "FA3 FP8 attention": ("fa3_fp8",),
        "exact attention": (),
        "fa3_prefix_sparse": ("fa3_prefix_sparse",),
        "fa3_fp8_prefix_sparse": ("fa3_fp8_prefix_sparse",),
        "triton_prefix_sparse": ("triton_prefix_sparse",),
        "comfy_sol": ("comfy_sol",),
    }
    for name, low in variants.items():
        settings = replace(BASE, attention=exact, quantized_attention=low, compile="auto")

        def make(settings: DenoiseSettings = settings) -> Callable[[], Tensor]:
            return wan.ours(module_tree(transformer), settings, cache)[0]

        yield _forward(name, "8-bit linear layers, one forward", make, expected, wan.prefix_frames, allowed)


def of_kept_prefix(*, small: bool, cache: Path) -> Iterator[Case]:
    """A transformer whose prefix looks at itself alone, and one whose prefix does not."""
    wan = subject(small=small)
    exact = ("sdpa_flash", "sdpa_math") if small else ("fa3", "sdpa_cudnn")
    lows: dict[str, tuple[str, ...]] = {
        "FA3 FP8 attention": () if small else ("fa3_fp8",),
        "fa3_prefix_sparse": ("triton_prefix_sparse",) if small else ("fa3_prefix_sparse",),
    }
    frames = wan.latent_shape[2]
    for whose in ("own prefix", "any prefix"):
        transformer = wan.build(device())
        if whose == "own prefix":
            use_own_prefix(transformer, wan.prefix_frames, frames)
        for low, names in lows.items():
            settings = replace(BASE, attention=exact, quantized_attention=names)
            denoiser = functools.cache(
                functools.partial(_assembled, wan, module_tree(transformer), settings, cache)
            )
            expected: list[Tensor] = []
            for kept in (False, True):
                yield _forward(
                    f"{whose}, {low}" + (", kept" if kept else ""),
                    "one step with what is kept of the prefix" if kept else "one whole forward",
                    functools.partial(_step, wan, denoiser, kept=kept),
                    expected,
                    wan.prefix_frames,
                    # a prefix of its own is kept exact, and blocks of queries begin elsewhere
                    SAME if (whose, low) == ("any prefix", "FA3 FP8 attention") else CLOSE,
                )
        yield _making(whose, wan, denoiser)


GROUPS: dict[str, tuple[float, Callable[..., Iterator[Case]]]] = {
    "forwards, prefix kept": (60.0, of_kept_prefix),
    "forwards, attention exchanged": (150.0, of_attentions),
}


def _forward(
    name: str,
    of: str,
    make: Callable[[], Callable[[], Tensor]],
    expected: list[Tensor],
    prefix_frames: int,
    allowed: float,
) -> Case:
    """Compared behind the prefix with the first of its kind, which `expected` keeps."""

    def behind(velocity: Tensor) -> Tensor:
        return velocity[:, :, prefix_frames:]

    def check(velocity: Tensor) -> dict[str, float]:
        if not expected:
            expected.append(behind(velocity).clone())
        return against(lambda: expected[0], behind)(velocity)

    return Case(name=name, of=of, make=make, check=check, allowed=allowed)


def _assembled(wan: WanSubject, transformer: Any, settings: DenoiseSettings, cache: Path) -> FastDenoiser:
    denoiser = wan.assembled(transformer, settings, cache).denoiser
    assert isinstance(denoiser, FastDenoiser)
    return denoiser


def _step(wan: WanSubject, denoiser: Callable[[], FastDenoiser], *, kept: bool) -> Callable[[], Tensor]:
    """A whole forward, or one that reads what a first call has kept."""
    latents, timestep, text = wan.inputs(device())
    made: Any = denoiser()
    if kept:
        made = for_take(denoiser(), (timestep.value,), 1.0)
    prepared = made.prepare(text)
    if kept and not denoiser().wan.own_prefix:
        made(latents, timestep, prepared, branch=COND)  # computes the prefix; the next ones read it
    velocity: Callable[[], Tensor] = lambda: made(latents, timestep, prepared, branch=COND)  # noqa: E731
    return velocity


def _making(whose: str, wan: WanSubject, denoiser: Callable[[], FastDenoiser]) -> Case:
    """The pass that makes what is kept: over the prefix alone, or a whole forward."""

    def make() -> Callable[[], Any]:
        latents, timestep, text = wan.inputs(device())
        if denoiser().wan.own_prefix:
            return lambda: denoiser().wan.own_prefix_keys(latents, wan.prefix_frames)
        prepared = denoiser().prepare(text)
        return lambda: denoiser().keeping(latents, timestep, prepared, branch=COND).prefix

    def check(kept: Any) -> dict[str, float]:
        pairs = [tensor for pair in kept.pairs for tensor in pair]
        assert all(bool(torch.isfinite(tensor).all()) for tensor in pairs), "not a number in what is kept"
        return {"kept_bytes": float(sum(tensor.nbytes for tensor in pairs))}

    return Case(name=f"{whose}, making what is kept", of="once a take, or again after some steps",
                make=make, check=check, allowed=0.0)  # fmt: skip


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
