"""Which steps are left out: as many by every rule, apart, the quietest ones, or evenly spaced."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_denoise as tiny
from hypothesis import given
from hypothesis import strategies as st

from engine.denoise.step_cache import even_steps, quiet_steps, steps_to_extrapolate
from engine.errors import ConfigError
from engine.quant.precision_policy import FILE, Curve, Policy, checkpoint_digest
from engine.settings.presets import EVEN, MAGNITUDE, SPECTRUM, STEP_CACHES, DenoiseSettings

SCHEDULE = tuple(1000.0 - 100.0 * step for step in range(10))


def curve(changes: list[float]) -> Curve:
    """Of SCHEDULE, from what changes at each of its steps."""
    return tuple(zip(SCHEDULE, itertools.accumulate(changes), strict=True))


@given(num_steps=st.integers(1, 200), share=st.floats(0, 0.5))
def test_even_steps_are_apart_and_inside(num_steps: int, share: float) -> None:
    steps = sorted(even_steps(num_steps, share))
    assert all(2 <= step < num_steps - 1 for step in steps), "the first two and the last are predicted"
    assert all(later - earlier >= 2 for earlier, later in itertools.pairwise(steps)), "never two in a row"
    room = (max(0, num_steps - 3) + 1) // 2
    assert len(steps) == min(round(share * num_steps), room)


def test_even_steps_are_even() -> None:
    assert even_steps(50, 0.0) == frozenset()
    gaps = {b - a for a, b in itertools.pairwise(sorted(even_steps(50, 0.25)))}
    assert gaps <= {3, 4}
    assert even_steps(12, 0.5) == {2, 4, 6, 8, 10}


@given(changes=st.lists(st.floats(0, 10), min_size=10, max_size=10), share=st.floats(0, 0.5))
def test_quiet_steps_are_the_best_of_all_choices(changes: list[float], share: float) -> None:
    chosen = quiet_steps(SCHEDULE, share, curve(changes))
    assert len(chosen) == len(even_steps(10, share)), "time does not depend on the rule"
    apart = [
        steps
        for steps in itertools.combinations(range(2, 9), len(chosen))
        if all(b - a >= 2 for a, b in itertools.pairwise(steps))
    ]
    assert tuple(sorted(chosen)) in apart
    least = min(sum(changes[step] for step in steps) for steps in apart)
    assert sum(changes[step] for step in chosen) == pytest.approx(least)


def test_another_schedule_reads_the_curve_between_its_points() -> None:
    """All change is near timestep 500: steps there are predicted, however many a schedule has."""
    measured = ((1000.0, 0.0), (600.0, 0.1), (400.0, 5.0), (100.0, 5.1))
    for num_steps in (8, 20, 50):
        timesteps = [1000.0 * (1 - step / num_steps) for step in range(num_steps)]
        for step in quiet_steps(timesteps, 0.2, measured):
            assert not 400 < timesteps[step] < 600


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.transformer().save_pretrained(tmp_path / "transformer")
    loud = [0.0, 0, 2, 9, 9, 1, 9, 9, 0, 0]
    changes = {MAGNITUDE: curve(loud), SPECTRUM: curve(loud[::-1])}
    Policy(source=checkpoint_digest(tmp_path), producer="t", entries=(), changes=changes).save(
        tmp_path / FILE
    )
    return tmp_path


def test_the_rule_reads_its_curve_beside_the_model(folder: Path) -> None:
    settings = DenoiseSettings(step_cache=0.2)
    found = {
        rule: steps_to_extrapolate(SCHEDULE, replace(settings, step_cache_by=rule), folder)
        for rule in (EVEN, MAGNITUDE, SPECTRUM)
    }
    assert found == {EVEN: even_steps(10, 0.2), MAGNITUDE: {5, 8}, SPECTRUM: {4, 8}}
    named = replace(settings, step_cache_by=MAGNITUDE, policy=str(folder / FILE))
    assert steps_to_extrapolate(SCHEDULE, named, folder) == {5, 8}


def test_weights_that_were_not_measured_are_refused_with_the_way_out(folder: Path, tmp_path: Path) -> None:
    settings = DenoiseSettings(step_cache=0.2, step_cache_by="first-block")
    with pytest.raises(ConfigError, match=r"no curve of it \(magnitude, spectrum\)") as caught:
        steps_to_extrapolate(SCHEDULE, settings, folder)
    assert "policy_calibration" in caught.value.fix and "even" in caught.value.fix
    policy = Policy.load(folder / FILE)
    replace(policy, source="0" * 64).save(folder / FILE)
    with pytest.raises(ConfigError, match="measured on weights 000"):
        steps_to_extrapolate(SCHEDULE, settings, folder)
    with pytest.raises(ConfigError, match="none beside the model"):
        steps_to_extrapolate(SCHEDULE, settings, tmp_path / "other")


def test_without_a_share_no_rule_leaves_anything_out(tmp_path: Path) -> None:
    for rule in STEP_CACHES:
        assert not steps_to_extrapolate(SCHEDULE, DenoiseSettings(step_cache_by=rule), tmp_path)
