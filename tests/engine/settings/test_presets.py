"""The presets as data: valid, ordered by what they give up, and the default is the oracle."""

from __future__ import annotations

import dataclasses

import pytest

from engine.settings.presets import (
    ELEMENT_WISE,
    FORWARDS,
    LINEARS,
    POLICIES,
    PRESETS,
    QUANTIZED_END,
    STEP_CACHES,
    SWITCH,
    VAES,
    DenoiseSettings,
)

CHOICES = {
    "forward": FORWARDS,
    "linear": LINEARS,
    "policy": POLICIES,
    "element_wise": ELEMENT_WISE,
    "compile": SWITCH,
    "graphs": SWITCH,
    "vae": VAES,
    "step_cache_by": STEP_CACHES,
}
SKIPPING = {"cfg_gate": 1.0, "step_cache": 0.0, "early_stop": 0.0}


def test_the_default_is_the_untouched_library() -> None:
    settings = DenoiseSettings()
    assert PRESETS["exact"] == settings
    assert (settings.forward, settings.linear, settings.vae) == ("library", "bf16", "library")
    assert (settings.attention, settings.quantized_attention) == ((), ())
    assert (settings.compile, settings.graphs) == ("off", "off")
    assert {name: getattr(settings, name) for name in SKIPPING} == SKIPPING


@pytest.mark.parametrize("name", PRESETS)
def test_every_value_of_a_preset_is_allowed(name: str) -> None:
    values = dataclasses.asdict(PRESETS[name])
    for part, allowed in CHOICES.items():
        assert values[part] in allowed, part
    assert all(0 <= values[part] <= 1 for part in SKIPPING)
    assert all(
        values[part] is None or 0 <= values[part] <= 1 for part in ("quantized_first", "quantized_last")
    )


def test_fast_runs_every_step_and_both_branches_and_fastest_does_not() -> None:
    fast, fastest = PRESETS["fast"], PRESETS["fastest"]
    assert {name: getattr(fast, name) for name in SKIPPING} == SKIPPING
    assert (fast.quantized_first, fast.quantized_last) == (None, None) and QUANTIZED_END > 0, (
        "the policy or the middle alone"
    )
    assert fastest.cfg_gate < 1 and fastest.step_cache > 0
    assert (fastest.quantized_first, fastest.quantized_last) == (0.0, 0.0)


@pytest.mark.parametrize("name", ["fast", "fastest"])
def test_a_preset_names_no_kernel_and_no_format_of_one_device(name: str) -> None:
    preset = PRESETS[name]
    assert preset.forward == "fast" and preset.attention == () and preset.quantized_attention == ("auto",)
    assert (preset.linear, preset.compile, preset.graphs) == ("auto", "auto", "auto")
    assert preset.policy == "auto"


def test_settings_cannot_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["fast"].linear = "int8"  # type: ignore[misc]
