"""The batched sampler of training draws the takes that the engine's generator draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_wan import build_folder, build_scenario, edit

from engine.demo.training.batch_sampler import generate_takes, load_generator
from engine.demo.training.train_dit import FLOW_SHIFT, MAX_TOKENS
from engine.generators.wan import generator as wan
from engine.types import Prompt
from engine.video.files import read_frames

torch.set_num_threads(1)

TEXT = "a red ball rolls to the right"
NUM_STEPS, GUIDANCE = 3, 3.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random folder in the shape of the demo: 24 + 40 frames, one token a latent pixel."""
    folder = build_folder(tmp_path_factory.mktemp("models") / "wan", patch_px=1)
    edit(folder, "retake.json", prefix_frames=24, num_frames=40, negative_prompt="")
    edit(folder, "retake.json", num_inference_steps=NUM_STEPS, guidance_scale=GUIDANCE)
    edit(folder / "scheduler", "scheduler_config.json", flow_shift=FLOW_SHIFT)
    edit(folder / "tokenizer", "tokenizer_config.json", model_max_length=MAX_TOKENS)
    return folder


def test_takes_equal_those_of_the_engine(folder: Path, tmp_path: Path) -> None:
    scenario = build_scenario(tmp_path, num_frames=24)
    generator = wan.load(folder, device="cpu", dtype="fp32")
    job = generator.start(scenario, Prompt(text=TEXT, negative="", seed=7, revision=0))
    while job.steps_left:
        job.launch().wait()

    prefix = torch.from_numpy(read_frames(scenario.prefix))
    takes = generate_takes(
        load_generator(folder, "cpu"),
        prefix[None],
        [TEXT],
        num_inference_steps=NUM_STEPS,
        guidance_scale=GUIDANCE,
        generator=torch.Generator("cpu").manual_seed(7),
    )
    take, expected = takes[0].numpy(), job.result().frames
    assert take.shape == expected.shape == (40, 32, 32, 3)
    assert np.abs(take.astype(int) - expected).max() <= 1
    assert expected.std() > 1.0
