"""Denoiser calls become the inputs of a profile: padding, masks, timesteps, one or two rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
import torch
from tiny_export import PROFILE, SIZES, subject
from torch import Tensor

from export.model_inputs import MASKED, ExportedDenoiser, named_inputs
from export.spec import ExportError, Profile

PAIR = Profile(name="pair", sizes={**SIZES, "B": 2})


@dataclass(frozen=True)
class Steps:
    """As the sampler hands timesteps over."""

    value: float

    def per_frame(self, device: torch.device) -> Tensor:
        return torch.tensor([[0.0, self.value, self.value]], device=device)


def denoiser(calls: list[tuple[str, Mapping[str, Tensor]]], *profiles: Profile) -> ExportedDenoiser:
    """Answers with the mean of each row's text."""

    def run(profile: Profile, inputs: Mapping[str, Tensor]) -> Tensor:
        calls.append((profile.name, inputs))
        return inputs["latents"] * 0 + inputs["text"].mean(dim=(1, 2)).view(-1, 1, 1, 1, 1)

    return ExportedDenoiser(spec=replace(subject(num_layers=1).spec, profiles=profiles), run=run)


def latents() -> Tensor:
    return torch.randn(1, 4, 3, 4, 6)


def test_short_text_is_padded_and_masked() -> None:
    spec = subject(num_layers=1).spec
    text = torch.randn(1, 5, 16, dtype=torch.float64)
    inputs = named_inputs(spec, PROFILE, latents(), Steps(500.0), text)
    for tensor in spec.inputs:
        assert inputs[tensor.name].shape == tensor.shape(SIZES) and inputs[tensor.name].dtype == torch.float32
    assert torch.equal(inputs["text"][:, :5], text.float()) and not inputs["text"][:, 5:].any()
    assert inputs["text_mask"].tolist() == [[0.0] * 5 + [MASKED] * 7]
    assert inputs["timestep"].tolist() == [[0.0, 500.0, 500.0]]


def test_timesteps_per_token_or_one_for_all() -> None:
    spec, text = subject(num_layers=1).spec, torch.randn(1, 12, 16)
    tokens = torch.tensor([[0.0, 7.0, 9.0]]).repeat_interleave(6, dim=1)
    assert named_inputs(spec, PROFILE, latents(), tokens, text)["timestep"].tolist() == [[0.0, 7.0, 9.0]]
    one = named_inputs(spec, PROFILE, latents(), torch.tensor([7.0]), text)["timestep"]
    assert one.tolist() == [[7.0, 7.0, 7.0]]


def test_a_model_with_one_timestep_refuses_more() -> None:
    spec, text = subject(num_layers=1, per_frame=False).spec, torch.randn(1, 12, 16)
    assert named_inputs(spec, PROFILE, latents(), torch.tensor([7.0]), text)["timestep"].tolist() == [7.0]
    with pytest.raises(ExportError, match="3 timesteps"):
        named_inputs(spec, PROFILE, latents(), Steps(7.0), text)


def test_both_branches_in_one_run_or_two() -> None:
    text = torch.stack([torch.zeros(12, 16), torch.ones(12, 16)])
    for profiles, names in (((PROFILE, PAIR), ["pair"]), ((PROFILE,), ["tiny", "tiny"])):
        calls: list[tuple[str, Mapping[str, Tensor]]] = []
        run = denoiser(calls, *profiles)
        velocity = run(latents(), Steps(1.0), run.prepare(text), branch="both")
        assert [name for name, _ in calls] == names
        assert velocity.shape == (2, 4, 3, 4, 6) and velocity.mean(dim=(1, 2, 3, 4)).tolist() == [0.0, 1.0]


def test_one_row_takes_the_profile_of_one_row() -> None:
    calls: list[tuple[str, Mapping[str, Tensor]]] = []
    denoiser(calls, PAIR, PROFILE)(latents(), Steps(1.0), torch.randn(1, 12, 16), branch="cond")
    assert [name for name, _ in calls] == ["tiny"]


@pytest.mark.parametrize(
    ("video", "text"),
    [
        ((1, 4, 3, 4, 8), (1, 12, 16)),
        ((1, 4, 4, 4, 6), (1, 12, 16)),
        ((1, 5, 3, 4, 6), (1, 12, 16)),
        ((1, 4, 3, 4, 6), (1, 13, 16)),
        ((1, 4, 3, 4, 6), (1, 12, 17)),
    ],
)
def test_shapes_outside_every_profile(video: tuple[int, ...], text: tuple[int, ...]) -> None:
    with pytest.raises(ExportError, match="tiny: ") as caught:
        denoiser([], PROFILE)(torch.zeros(video), Steps(1.0), torch.zeros(text), branch="cond")
    assert str(video) in str(caught.value)


def test_rows_and_branch_must_agree() -> None:
    with pytest.raises(AssertionError, match="cond"):
        denoiser([], PROFILE)(latents(), Steps(1.0), torch.zeros(2, 12, 16), branch="cond")
