"""The user's script does the work that Retake does: equal prompts and tokens, nearly equal pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from whole_runs import tiny_models

from bench.baselines.script import Script, load_script
from bench.perf.end_to_end import facts
from bench.perf.end_to_end.sizes import TINY
from engine.build.prepare import load, open_dataset
from engine.build.prepare import prepare as prepare_run
from engine.loop.policy import RefinementPolicy, scenario_seed
from engine.runs.trace import HostRecorder
from engine.settings.config import load_config
from engine.types import Prompt, Scenario
from engine.video.prefix import read_prefix

STEPS = 2


def script(*, best_stock: bool = False) -> Script:
    torch.set_num_threads(1)
    models = tiny_models()
    return load_script(
        models / "generator",
        models / "critic",
        device="cpu",
        dtype="fp32",
        quantization="none",
        num_steps=STEPS,
        best_stock=best_stock,
    )


def scenario() -> Scenario:
    return open_dataset(tiny_models() / "clips").scenarios(24.0)[0]


def test_a_scenario_is_a_plan_two_takes_and_two_critiques(tmp_path: Path) -> None:
    made = script().run(scenario(), tmp_path, recorder := HostRecorder(), loops=1)
    one, two = made.takes
    assert made.plan_tokens == one.critique.num_tokens == two.critique.num_tokens == TINY.reply_tokens
    assert (one.prompt.text, one.prompt.plan) == (scenario().text, None)
    assert "At 1.0 s the lamp hits the end stop" in two.prompt.text
    assert one.prompt.seed == two.prompt.seed == scenario_seed(0, "clip00")
    assert [(span.lane, span.name, span.attempt) for span in recorder.spans()] == [
        ("critique", "plan", 0),
        *(
            (lane, name, i)
            for i in range(2)
            for lane, name in (("generate", "generate"), ("encode", "encode"), ("critique", "critique"))
        ),
    ]
    found = facts.of_script(made)
    assert found["tokens"] == 3 * TINY.reply_tokens
    digests = [take["video_sha256"] for take in found["takes"]]
    assert digests[0] != digests[1] and all(take.video_path.is_file() for take in made.takes)


def test_its_take_is_that_of_the_exact_preset(tmp_path: Path) -> None:
    models = tiny_models()
    config = load_config(
        None,
        {
            "dataset": str(models / "clips"),
            "out": str(tmp_path / "run"),
            "generator.name": str(models / "generator"),
            "generator.steps": STEPS,
            "critic.name": str(models / "critic"),
            "device": "cpu",
            "dtype": "fp32",
        },
    )
    generator, _ = load(prepare_run(config))
    torch.set_num_threads(1)
    policy = RefinementPolicy(settings=config.loop, negative=generator.negative_prompt)
    prompt: Prompt = policy.first(scenario())
    job = generator.start(scenario(), prompt)
    while job.steps_left:
        job.launch().wait()
    ours = job.result().frames
    theirs = script().take(read_prefix(scenario().prefix, generator.spec), prompt)
    assert theirs.shape == ours.shape == (20, 64, 96, 3) and ours.std() > 5
    difference = np.abs(theirs.astype(int) - ours.astype(int))
    assert difference.max() <= 1, f"up to {difference.max()} levels, {difference.mean():.3f} in the mean"


@pytest.mark.slow  # Inductor compiles a block
def test_best_stock_writes_the_same(tmp_path: Path) -> None:
    plain, best = (
        script(best_stock=best).run(scenario(), tmp_path / str(best), HostRecorder(), loops=1)
        for best in (False, True)
    )
    assert [t.prompt for t in plain.takes] == [t.prompt for t in best.takes]
    assert [t.critique.raw for t in plain.takes] == [t.critique.raw for t in best.takes]
