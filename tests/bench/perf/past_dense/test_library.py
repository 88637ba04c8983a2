"""diffusers at its best: what a step cache keeps is of one take and one branch, and what it skips is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from torch import Tensor

from bench.perf.denoisers.base import module_tree
from bench.perf.past_dense import forwards, library
from bench.perf.past_dense.library import CacheDit, FirstBlockCache, LibraryDenoiser, NoCache
from engine.denoise.guidance import COND, UNCOND
from kernels.descriptors import Target

torch.set_num_threads(1)
WAN = forwards.subject(small=True)
STEPS = 4
CACHES = ("cache_dit", "first_block")
SKIPPED = {"cache_dit": 4, "first_block": 6}
"""Of 8 forwards, where everything is close enough: after the warm-up of two steps, or after the first."""


@pytest.fixture(scope="module")
def transformer() -> Any:
    return WAN.build(torch.device("cpu"))


def denoiser(transformer: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> LibraryDenoiser:
    """Any residual is close enough to the one before."""
    module = module_tree(transformer)
    if name == "first_block":
        monkeypatch.setattr(library, "FirstBlockCacheConfig", lambda: FirstBlockCacheConfig(threshold=100.0))
        return LibraryDenoiser(module, FirstBlockCache(module))
    pytest.importorskip("cache_dit")
    settings = library.cache_dit_settings
    monkeypatch.setattr(
        library, "cache_dit_settings", lambda *sizes: settings(*sizes).update(residual_diff_threshold=100.0)
    )
    return LibraryDenoiser(module, CacheDit(module, STEPS))


def take(
    made: LibraryDenoiser, first: Tensor, second: Tensor, *, latents: Tensor | None = None
) -> list[Tensor]:
    """The velocities of both branches, in the order of a guided take."""
    noise, timestep, _ = WAN.inputs(torch.device("cpu"))
    one, found = made.of_take(), []
    with torch.inference_mode():
        for step in range(STEPS):
            at = (noise if latents is None else latents) * (1 - 0.1 * step)
            for text, branch in ((first, UNCOND), (second, COND)):
                found.append(one(at, timestep, one.prepare(text), branch=branch))
    return found


def texts() -> tuple[Tensor, Tensor]:
    _, _, text = WAN.inputs(torch.device("cpu"))
    return text.flip(1), text


@pytest.mark.parametrize("name", CACHES)
def test_a_take_is_the_same_after_another_one(
    name: str, transformer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = denoiser(transformer, name, monkeypatch)
    alone = take(made, *texts())
    assert made.cache.skipped() == SKIPPED[name]
    other = WAN.inputs(torch.device("cpu"))[0].flip(3)
    take(made, *reversed(texts()), latents=other)
    again = take(made, *texts())
    assert made.cache.skipped() == SKIPPED[name]
    assert all(torch.equal(x, y) for x, y in zip(alone, again, strict=True))


@pytest.mark.parametrize("name", CACHES)
def test_a_branch_does_not_see_the_residual_of_the_other(
    name: str, transformer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = denoiser(transformer, name, monkeypatch)
    uncond, cond = texts()
    both, twice = take(made, uncond, cond)[1::2], take(made, cond, cond)[1::2]
    assert all(torch.equal(x, y) for x, y in zip(both, twice, strict=True))
    whole = take(LibraryDenoiser(module_tree(transformer), NoCache()), uncond, cond)[1::2]
    assert torch.equal(both[0], whole[0]) and not torch.equal(both[-1], whole[-1])


@pytest.mark.parametrize(
    ("capability", "package", "wheel", "expected"),
    [
        ((9, 0), True, True, "_flash_3"),
        ((9, 0), False, True, "fa3"),
        ((9, 0), False, False, "_native_cudnn"),
        ((8, 9), True, False, "_native_cudnn"),
        (None, True, True, "native"),
    ],
)
def test_the_attention_is_the_fastest_that_is_here(
    capability: tuple[int, int] | None,
    package: bool,
    wheel: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = Target(kind="cuda" if capability else "cpu", capability=capability)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(library.Target, "of", lambda device: target)
    monkeypatch.setattr(library, "is_flash_attn_3_available", lambda: package)
    monkeypatch.setattr(library.fa3, "supports", lambda problem: None if wheel else "not installed")
    assert library.fastest_attention(WAN) == expected
    assert expected in library.ATTENTIONS
