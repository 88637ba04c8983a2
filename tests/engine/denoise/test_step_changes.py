"""What a trajectory changes, by each rule: of noisy tokens alone, and what the formula says."""

from __future__ import annotations

import math

import pytest
import tiny_denoise as tiny
import torch

from engine.denoise.step_changes import StepChanges, denoised
from engine.quant.precision_policy import Curve

TIMES = (900.0, 700.0, 400.0, 100.0)


def curves(scale: float = 1.0) -> dict[str, Curve]:
    """Latents that stay, a block that doubles at each step, a velocity that grows by half of its first."""
    measured = StepChanges()
    for take in range(2):
        measured.begin()
        x = scale * tiny.random(1, 4, 3, 8, 8, seed=take)
        for step, timestep in enumerate(TIMES):
            block = 2.0**step * tiny.random(1, 12, 6, seed=take)
            measured.note(timestep, x, block, (1 + step / 2) * x)
    return dict(measured.curves())


def test_each_rule_measures_what_it_says() -> None:
    found = curves()
    assert [t for t, _ in found["magnitude"]] == [1000.0, 700.0, 400.0, 100.0]
    totals = [total for _, total in found["magnitude"]]
    assert totals == pytest.approx([0, math.log(1.5), math.log(2.0), math.log(2.5)], abs=1e-6)
    assert [total for _, total in found["first-block"]] == pytest.approx([0, 1, 2, 3])
    # a line through 900 and 700 gives at 400 1 + 0.5 * 2.5 of x, where 2 is; one through 700 and 400 gives at
    # 100 the 2.5 that is
    assert [t for t, _ in found["extrapolation"]] == [1000.0, 400.0, 100.0]
    assert [total for _, total in found["extrapolation"]] == pytest.approx([0, 0.125, 0.125], abs=1e-6)


def test_no_rule_depends_on_the_unit_of_the_values() -> None:
    one, ten = curves(), curves(10.0)
    for rule, points in one.items():
        assert [p[1] for p in points] == pytest.approx([p[1] for p in ten[rule]], rel=1e-4, abs=1e-6)


def test_noise_keeps_what_is_coarse_and_little_noise_keeps_all() -> None:
    coarse = torch.ones(1, 1, 4, 8, 8)
    signs = torch.tensor([1.0, -1.0]).repeat(4)
    fine = (signs[:, None] * signs).expand(1, 1, 4, 8, 8)
    ratio = {s: float(denoised(fine, s).norm() / denoised(coarse, s).norm()) for s in (0.01, 0.5, 0.95)}
    assert ratio[0.01] > 0.95 and ratio[0.95] < 0.1 and ratio[0.01] > ratio[0.5] > ratio[0.95]
    assert torch.isfinite(denoised(coarse, 1.0)).all() and torch.isfinite(denoised(coarse, 0.0)).all()


def test_a_change_in_what_is_fine_counts_for_little_amid_noise() -> None:
    """The reason for the rule: the noise of early steps is no change of the video."""
    torch.manual_seed(0)
    coarse = torch.randn(1, 4, 1, 1, 1).expand(1, 4, 3, 16, 16)
    found = {}
    for start in (950.0, 100.0):
        measured = StepChanges()
        for timestep, noise in ((start, 0), (start - 5.0, 1)):
            latents = coarse + 0.5 * tiny.random(1, 4, 3, 16, 16, seed=noise)
            measured.note(timestep, latents, latents, latents)
        found[start] = measured.curves()["spectrum"][-1][1]
    assert found[950.0] < 0.5 * found[100.0]
