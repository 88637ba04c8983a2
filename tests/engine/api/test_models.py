"""Model folders as objects: what is loaded, by which settings, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_run import Folders

import retake

CPU = {"device": "cpu", "dtype": "fp32"}


def test_a_generator_keeps_to_its_settings(folders: Folders) -> None:
    made = retake.load_generator(str(folders.generator), {**CPU, "generator.steps": 3})
    assert made.schedule.num_steps == 3  # type: ignore[attr-defined]
    assert (made.spec.prefix_frames, made.spec.num_frames) == (24, 40)


def test_a_critic_of_a_folder_answers(folders: Folders) -> None:
    critic = retake.load_critic(str(folders.critic), CPU)
    scenario = retake.open_scenarios(folders.dataset, 8.0)[0]
    assert retake.plan(critic, scenario).plan is None  # random weights write no plan


def test_what_cannot_be_loaded_is_refused(tmp_path: Path, folders: Folders) -> None:
    with pytest.raises(retake.ModelError, match=r"model_index\.json"):
        retake.load_generator(str(tmp_path))
    with pytest.raises(retake.ModelError, match=r"config\.json"):
        retake.load_critic(str(tmp_path))
    with pytest.raises(retake.ConfigError, match=r"nearest: generator\.steps"):
        retake.load_generator(str(folders.generator), {"generator.step": 3})
    with pytest.raises(retake.ConfigError, match="1 to 1000"):
        retake.load_generator(str(folders.generator), {"generator.steps": 0})
