"""A clip of all steps, computed from a take of few: each kind of step counts as often as it comes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bench.perf.models.steps import kinds_of, whole_clip
from bench.perf.takes_alone import Timed
from engine.settings.presets import PRESETS, DenoiseSettings

TIMESTEPS = (999.0, 950.0, 800.0, 600.0, 300.0, 50.0)


def generator(settings: DenoiseSettings, note: str) -> Any:
    return SimpleNamespace(settings=settings, notes={"quantized_attention": note})


def test_attention_of_8_bits_is_that_of_the_middle_noise_levels() -> None:
    fast = kinds_of(generator(PRESETS["fast"], "fa3_fp8, without 0.1 first and 0.1 last"), TIMESTEPS)
    exact, middle = fast[0], fast[2]
    assert list(fast) == [exact, exact, middle, middle, middle, exact] and exact != middle
    for note in ("off", "none: no 8-bit kernel is faster here than sdpa"):
        assert len(set(kinds_of(generator(PRESETS["fast"], note), TIMESTEPS))) == 1
    assert len(set(kinds_of(SimpleNamespace(settings=PRESETS["exact"], notes={}), TIMESTEPS))) == 1


def test_what_a_preset_leaves_out_is_a_kind_of_its_own() -> None:
    kinds = kinds_of(generator(PRESETS["fastest"], "off"), TIMESTEPS)
    left_out, _, one_branch = zip(*kinds, strict=True)
    assert one_branch == (False, False, False, True, True, True) and sum(left_out) == 2


def test_missing_steps_take_what_their_kind_takes() -> None:
    timed = Timed(seconds=10.0, steps_s=(3.0, 2.0, 1.0))
    found = whole_clip(timed, ["a", "a", "b"], ["a"] * 2 + ["b"] * 6)
    assert found["clip_steps"] == 8
    assert found["step_s"] == pytest.approx((2 * 2.5 + 6 * 1.0) / 8)
    assert found["clip_s"] == pytest.approx(10.0 + 5 * 1.0)
    unseen = whole_clip(timed, ["a", "a", "b"], ["a", "a", "b", "c"])
    assert unseen["clip_s"] == pytest.approx(10.0 + 2.0), "the median of all"


def test_a_whole_clip_is_itself() -> None:
    timed = Timed(seconds=10.0, steps_s=(1.0, 2.0, 6.0, 3.0))  # of two chunks
    found = whole_clip(timed, ["a", "b"], ["a", "b"])
    assert (found["step_s"], found["clip_s"]) == (3.0, 10.0)
