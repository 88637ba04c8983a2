"""Trajectories of a tiny generator: shapes of the spec, prompts of the scenes, a forward per call."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_wan import build_folder, edit

from bench.quality import export_trajectories
from engine.generators.wan import generator as wan
from export.subjects import wan_dit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = build_folder(tmp_path_factory.mktemp("wan") / "m")
    edit(made, "retake.json", clip_prompts=True)  # its text encoder reads 24 tokens
    return made


def test_requests_differ_by_split(tmp_path: Path) -> None:
    texts = []
    for held_out in (False, True):
        made = list(
            export_trajectories.requests(tmp_path / str(held_out), 2, held_out=held_out, negative="still")
        )
        assert len(made) == 2 and len({scenario.id for scenario, _ in made}) == 2
        assert all(prompt.negative == "still" and len(prompt.text) > 40 for _, prompt in made)
        texts.append({prompt.text for _, prompt in made})
    assert not texts[0].intersection(texts[1])


def test_profile_is_that_of_the_generator(folder: Path) -> None:
    generator = wan.load(folder, device="cpu", dtype="fp32")
    profile = export_trajectories.bundled_profile(generator)
    # 6 prefix frames are padded to 9, with 8 more: 17 frames are 5 latents
    assert dict(profile.sizes) == {"B": 1, "F": 5, "h": 4, "w": 4, "L": 24}


@pytest.mark.slow
def test_trajectories_of_a_tiny_generator(folder: Path, tmp_path: Path) -> None:
    generator = wan.load(folder, device="cpu", dtype="fp32")
    spec = wan_dit.prepare(
        folder, profiles=(export_trajectories.bundled_profile(generator),), dtype="fp32"
    ).spec
    forwards = list(export_trajectories.collect(spec, generator, 1, held_out=False))
    assert len(forwards) == 2 * 3  # two branches, three steps
    for forward in forwards:
        assert [tuple(t.shape) for t in forward] == [t.shape(spec.profiles[0].sizes) for t in spec.inputs]
        assert forward[1][0, 0] == 0 and forward[1].max() > 0
