"""Guidance: both branches, the gate, the extrapolated steps, and that no state leaves its job."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import tiny_denoise as tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_denoise import Recording
from torch import Tensor

from engine.denoise.guidance import Guidance, GuidedText, gate_step
from engine.generators.wan.eager import EagerDenoiser
from engine.protocols import Denoiser

torch.set_num_threads(1)

SCALE = 4.0
TIMESTEPS = (990.0, 900.0, 770.0, 500.0, 310.0, 120.0)


def texts(seed: int = 0) -> GuidedText:
    return GuidedText(cond=tiny.text(seed=10 + seed), uncond=tiny.text(seed=20 + seed))


def curved(latents: Tensor, timestep: float, row: Tensor) -> Tensor:
    """A velocity that depends on everything, and on the timestep in a curve."""
    return torch.tanh(latents * row.mean()) * (1 + timestep / 1000) ** 2 + row[0, :1]


def follow(guidance: Guidance, *, seed: int = 1) -> list[Tensor]:
    return [guidance.velocity(tiny.latents(seed + i), tiny.at(t), i) for i, t in enumerate(TIMESTEPS)]


# --- both branches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [EagerDenoiser, tiny.fast], ids=["eager", "fast"])
def test_batched_guidance_equals_two_forwards_and_one_branch_is_plain(
    make: Callable[..., Denoiser],
) -> None:
    denoiser = make(tiny.transformer())
    latents, timestep, text = tiny.latents(), tiny.at(500.0), texts()
    alone = GuidedText(cond=text.cond, uncond=None)
    with torch.no_grad():
        pair = Guidance(denoiser, text, SCALE).velocity(latents, timestep, 0)
        single = Guidance(denoiser, text, SCALE, batched=False).velocity(latents, timestep, 0)
        plain = Guidance(denoiser, alone, 1.0).velocity(latents, timestep, 0)
        cond = denoiser(latents, timestep, denoiser.prepare(text.cond), branch="cond")
        uncond = denoiser(latents, timestep, denoiser.prepare(text.uncond), branch="uncond")
    assert pair.shape == latents.shape and pair.dtype == torch.float32
    assert tiny.largest(pair, single) < 1e-5
    assert tiny.largest(pair, uncond + SCALE * (cond - uncond)) < 1e-5
    assert torch.equal(plain, cond) and (pair - plain).abs().max() > 1e-3


@pytest.mark.parametrize("make", [EagerDenoiser, tiny.fast], ids=["eager", "fast"])
@pytest.mark.parametrize(("branch", "rows"), [("cond", 2), ("both", 1), ("negative", 1)])
def test_branch_and_text_rows_must_agree(make: Callable[..., Denoiser], branch: str, rows: int) -> None:
    denoiser = make(tiny.transformer())
    text = denoiser.prepare(tiny.text(rows))
    with pytest.raises(AssertionError, match=branch):
        denoiser(tiny.latents(), tiny.at(500.0), text, branch=branch)


def test_the_oracle_is_the_library_with_a_timestep_per_token() -> None:
    transformer = tiny.transformer(patch_px=2)
    timestep, latents, text = tiny.at(700.0, patch_px=2), tiny.latents(), tiny.text(2)
    with torch.no_grad():
        expected = transformer(
            hidden_states=latents.repeat(2, 1, 1, 1, 1),
            timestep=torch.tensor([0.0] * 4 + [700.0] * 8).repeat(2, 1),
            encoder_hidden_states=text,
        ).sample
        eager = EagerDenoiser(transformer)
        assert torch.equal(eager(latents, timestep, eager.prepare(text), branch="both"), expected)


def test_the_oracle_takes_its_inputs_in_the_dtype_of_the_weights() -> None:
    eager = EagerDenoiser(tiny.transformer().to(torch.bfloat16))
    assert eager.prepare(tiny.text()).dtype == torch.bfloat16
    with torch.no_grad():
        velocity = eager(tiny.latents(), tiny.at(500.0), eager.prepare(tiny.text()), branch="cond")
    assert velocity.dtype == torch.float32 and velocity.isfinite().all()


def test_guidance_needs_a_negative_text() -> None:
    with pytest.raises(AssertionError, match="negative text"):
        Guidance(Recording(curved), GuidedText(cond=tiny.text(), uncond=None), 2.0)


@pytest.mark.parametrize(("batched", "num_texts"), [(True, 2), (False, 2)])
def test_texts_are_prepared_once_per_job(batched: bool, num_texts: int) -> None:
    denoiser = Recording(curved)
    follow(Guidance(denoiser, texts(), SCALE, batched=batched))
    assert denoiser.num_prepared == num_texts


# --- the gate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batched", "full"), [(True, ["both"]), (False, ["uncond", "cond"])])
@pytest.mark.parametrize("gate", [1, 3, 5])
def test_after_the_gate_only_the_conditional_branch_runs(batched: bool, full: list[str], gate: int) -> None:
    denoiser = Recording(curved)
    follow(Guidance(denoiser, texts(), SCALE, batched=batched, gate_step=gate))
    assert denoiser.branches == full * gate + ["cond"] * (len(TIMESTEPS) - gate)


def test_the_gate_uses_exactly_the_last_difference_again() -> None:
    text, gate = texts(), 2
    assert text.uncond is not None
    velocities = follow(Guidance(Recording(curved), text, SCALE, gate_step=gate))
    ungated = follow(Guidance(Recording(curved), text, SCALE))
    pairs = [
        [curved(tiny.latents(1 + i), t, row[0]) for row in (text.uncond, text.cond)]
        for i, t in enumerate(TIMESTEPS)
    ]
    last = pairs[gate - 1][1] - pairs[gate - 1][0]
    for step, (uncond, cond) in enumerate(pairs):
        expected = uncond + SCALE * (cond - uncond) if step < gate else cond + (SCALE - 1) * last
        assert torch.equal(velocities[step], expected), step
    assert not torch.equal(velocities[gate], ungated[gate]), "the difference would have changed"


def test_a_gate_without_guidance_changes_nothing() -> None:
    alone = GuidedText(cond=tiny.text(), uncond=None)
    denoiser = Recording(curved)
    gated = follow(Guidance(denoiser, alone, 1.0, gate_step=2))
    assert all(map(torch.equal, gated, follow(Guidance(Recording(curved), alone, 1.0))))
    assert denoiser.branches == ["cond"] * len(TIMESTEPS)


# --- extrapolated steps -------------------------------------------------------------------------------------


def linear(latents: Tensor, timestep: float, row: Tensor) -> Tensor:
    """Of the timestep and the text alone, so that following the latents cannot help."""
    return (torch.zeros_like(latents) + row.mean()) * timestep + row.std()


def test_cached_steps_run_nothing_and_are_exact_for_a_velocity_linear_in_the_timestep() -> None:
    denoiser, oracle = Recording(linear), Recording(linear)
    cached = follow(Guidance(denoiser, texts(), SCALE, cached=(2, 4)))
    full = follow(Guidance(oracle, texts(), SCALE))
    assert denoiser.branches == ["both"] * 4 and oracle.branches == ["both"] * 6
    for ours, exact in zip(cached, full, strict=True):
        assert tiny.largest(ours, exact) < 1e-6


def test_extrapolation_starts_at_predicted_steps_only() -> None:
    """Step 4 follows the line through the steps 1 and 3, not through what step 2 was extrapolated to."""
    velocities = follow(Guidance(Recording(curved), texts(), SCALE, cached=(2, 4)))
    t = TIMESTEPS
    for step, newer, older in ((2, 1, 0), (4, 3, 1)):
        slope = (velocities[newer] - velocities[older]) / (t[newer] - t[older])
        torch.testing.assert_close(velocities[step], velocities[newer] + slope * (t[step] - t[newer]))
    exact = follow(Guidance(Recording(curved), texts(), SCALE))
    assert not torch.allclose(velocities[2], exact[2], rtol=1e-3)


def test_with_one_predicted_step_its_velocity_is_used_again_and_with_none_the_step_is_predicted() -> None:
    denoiser = Recording(curved)
    velocities = follow(Guidance(denoiser, texts(), SCALE, cached=(0, 1)))
    assert torch.equal(velocities[0], velocities[1])
    assert len(denoiser.branches) == len(TIMESTEPS) - 1


def test_gate_and_cache_together() -> None:
    denoiser = Recording(curved)
    follow(Guidance(denoiser, texts(), SCALE, gate_step=3, cached=(2, 4)))
    assert denoiser.branches == ["both", "both", "cond", "cond"]


# --- no state leaves its job --------------------------------------------------------------------------------


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("kind", ["recording", "fast"])
def test_interleaved_jobs_equal_jobs_in_sequence(kind: str, batched: bool) -> None:
    denoiser = Recording(curved) if kind == "recording" else tiny.fast(tiny.transformer())

    def job(seed: int) -> Guidance:
        return Guidance(denoiser, texts(seed), SCALE, batched=batched, gate_step=3, cached=(2, 4))

    with torch.no_grad():
        alone = [follow(job(seed), seed=10 * seed) for seed in (1, 2)]
        jobs = {seed: job(seed) for seed in (1, 2)}
        together: list[list[Tensor]] = [[], []]
        for (step, timestep), seed in itertools.product(enumerate(TIMESTEPS), jobs):
            latents = tiny.latents(10 * seed + step)
            together[seed - 1].append(jobs[seed].velocity(latents, tiny.at(timestep), step))
    for first, second in zip(alone, together, strict=True):
        assert all(map(torch.equal, first, second))
    assert not torch.equal(alone[0][-1], alone[1][-1])


# --- which steps --------------------------------------------------------------------------------------------


def test_without_steps_to_leave_out_every_one_is_predicted_and_nothing_is_kept() -> None:
    """Thresholds of 0 still skip in some libraries' caches; here off is no cache at all."""
    denoiser = Recording(curved)
    guidance = Guidance(denoiser, texts(), SCALE, cached=frozenset())
    follow(guidance)
    assert len(denoiser.branches) == len(TIMESTEPS) and not guidance._last


@given(num_steps=st.integers(1, 200), share=st.floats(0, 1))
def test_the_gate_leaves_a_guided_step_and_comes_where_it_should(num_steps: int, share: float) -> None:
    step = gate_step(num_steps, share)
    guided = num_steps if step is None else step
    assert 1 <= guided <= num_steps
    assert guided == max(1, round(share * num_steps))


def test_a_share_of_all_steps_is_no_gate() -> None:
    assert gate_step(50, 1.0) is None and gate_step(50, 0.5) == 25 and gate_step(1, 0.0) is None
