"""The training code's own arithmetic: schedules, averages, curves, token timesteps, planted physics, rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from engine.critics.qwen_vl.instructions import critique_segments, plan_segments
from engine.critics.qwen_vl.preprocess import PatchGeometry, VideoSegment, build_inputs
from engine.demo.scenes import PLAIN, all_kinds, make_scene
from engine.demo.scenes.base import FPS, SWITCH, Scene
from engine.demo.scenes.broken import Violation
from engine.demo.training import critic_text, prompts
from engine.demo.training.clips import ClipFactory, make_record
from engine.demo.training.critic_data import CriticData, Rows
from engine.demo.training.critic_losses import CriticLosses
from engine.demo.training.critic_model import (
    GROUP_PATCHES,
    build_model,
    build_tokenizer,
    fit_for_training,
    save_critic,
)
from engine.demo.training.critic_rows import (
    PLANTS,
    PREFIX_INDICES,
    TAKE_INDICES,
    Row,
    RowMaker,
    planted_indices,
)
from engine.demo.training.schedule import Average, Budget, Curve, make_optimizer, set_learning_rate
from engine.demo.training.train_critic import tokenizer_texts
from engine.demo.training.train_dit import PREFIX_LATENTS, token_timesteps
from engine.types import Fault, Verdict

torch.set_num_threads(1)


def test_learning_rate_warms_up_and_decays() -> None:
    optimizer = make_optimizer([nn.Linear(2, 2)])
    rates = []
    for step, fraction in ((0, 0.0), (199, 0.0), (500, 0.5), (900, 1.0)):
        set_learning_rate(optimizer, 1.0, step, fraction)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(1 / 200) and rates[1] == pytest.approx(1.0)
    assert rates[2] == pytest.approx(0.51) and rates[3] == pytest.approx(0.02)


def test_budget_ends_and_restarts() -> None:
    budget = Budget(1e-9)
    assert budget.over and budget.fraction == 1.0
    budget = Budget(1e9)
    assert not budget.over


def test_average_follows_the_weights() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = Average(layer, 0.5)
    before = layer.weight.item()
    with torch.no_grad():
        layer.weight.fill_(before + 1.0)
    average.update()
    average.apply()
    assert before < layer.weight.item() < before + 1.0 + 1e-6


def test_curve_writes_means(tmp_path: Path) -> None:
    curve = Curve("loss", every=2)
    for step, value in enumerate((1.0, 3.0)):
        curve.add(step, {"loss": torch.tensor(value)})
    curve.save(tmp_path, {"steps": 2})
    saved = json.loads((tmp_path / "loss.json").read_text())
    assert saved["facts"] == {"steps": 2} and saved["curve"][0]["loss"] == 2.0


def test_prefix_tokens_stay_at_timestep_zero() -> None:
    latents = torch.zeros(2, 4, PREFIX_LATENTS + 3, 2, 2)
    timesteps = token_timesteps(torch.tensor([500.0, 900.0]), latents)
    assert timesteps.shape == (2, (PREFIX_LATENTS + 3) * 4)
    assert (timesteps[:, : PREFIX_LATENTS * 4] == 0).all()
    assert (timesteps[0, PREFIX_LATENTS * 4 :] == 500).all()


@pytest.mark.parametrize("kind", PLANTS)
def test_planted_takes_stay_inside_the_clip(kind: str) -> None:
    indices = planted_indices(kind, np.random.default_rng(3))
    assert indices.shape == (40,) and indices.min() >= 0 and indices.max() < 64
    assert kind == "mirror" or (indices != SWITCH + np.arange(40)).any()


def test_unknown_plant_is_refused() -> None:
    with pytest.raises(AssertionError, match="sideways"):
        planted_indices("sideways", np.random.default_rng(0))


@pytest.fixture(scope="module")
def critic() -> tuple[object, object]:
    tokenizer = build_tokenizer(tokenizer_texts(26))
    torch.manual_seed(0)
    return build_model(tokenizer, hidden=128, layers=2, vision_hidden=64).eval(), tokenizer


def test_rows_are_what_the_engine_asks(critic: tuple[object, object]) -> None:
    """Token ids of a training question equal the engine's, and the losses equal the library's."""
    model, tokenizer = critic
    geometry = PatchGeometry.from_config(model.config, frame_px=128)  # type: ignore[attr-defined]
    scene = make_scene(3, all_kinds())
    frames = scene.render(1, "center")
    record = make_record(scene, frames)
    maker = RowMaker(tokenizer, geometry, 128)
    row = maker.critique_row(record, "A prompt, at 2.5 s.", record.answer_windows, Fault.NONE)
    prefix = VideoSegment(frames=frames[PREFIX_INDICES], times_s=tuple(i / FPS for i in PREFIX_INDICES))
    take = VideoSegment(
        frames=frames[SWITCH + np.array(TAKE_INDICES)], times_s=tuple(i / FPS for i in TAKE_INDICES)
    )
    instruction = critic_text.CRITIQUE_INSTRUCTION
    segments = critique_segments(tokenizer, instruction, prefix, take, "A prompt, at 2.5 s.")
    asked = build_inputs(tokenizer, model.config, segments, geometry=geometry)  # type: ignore[attr-defined]
    assert row.ids[: row.start].tolist() == asked["input_ids"][0].tolist()
    ids = torch.from_numpy(row.ids.astype(np.int64))[None]
    labels = ids.clone()
    labels[:, : row.start] = -100
    shown = torch.from_numpy(np.concatenate([prefix.frames, take.frames]))[None]
    batch = {
        "ids": ids,
        "labels": labels,
        "frames": shown,
        "windows": torch.zeros(1, 14, 3, dtype=torch.long),
    }
    kinds = (ids == model.config.video_token_id).long() * 2  # type: ignore[attr-defined]
    with torch.no_grad():
        logits = model(**{**asked, "input_ids": ids, "mm_token_type_ids": kinds}).logits  # type: ignore[operator]
        wanted = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        losses = CriticLosses(model, geometry)
        fit_for_training(model, GROUP_PATCHES)
        found = losses.reply_losses(*losses.inputs(batch))["reply"]
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_plan_row_asks_the_brief_text(critic: tuple[object, object]) -> None:
    model, tokenizer = critic
    geometry = PatchGeometry.from_config(model.config, frame_px=128)  # type: ignore[attr-defined]
    scene = make_scene(5, all_kinds())
    frames = scene.render(1, "left")
    row = RowMaker(tokenizer, geometry, 128).plan_row(make_record(scene, frames))
    prefix = VideoSegment(frames=frames[PREFIX_INDICES], times_s=tuple(i / FPS for i in PREFIX_INDICES))
    segments = plan_segments(tokenizer, critic_text.PLAN_INSTRUCTION, prefix, scene.brief)
    asked = build_inputs(tokenizer, model.config, segments, geometry=geometry)  # type: ignore[attr-defined]
    assert row.ids[: row.start].tolist() == asked["input_ids"][0].tolist()
    reply = tokenizer.decode(row.ids[row.start :], skip_special_tokens=True)  # type: ignore[attr-defined]
    assert json.loads(reply)["plan"] == critic_text.plan_dict(scene.truth)


def test_replies_follow_the_windows() -> None:
    scene = make_scene(9, all_kinds(PLAIN))
    record = make_record(scene, scene.render(1, "center"))
    windows = record.answer_windows
    good = json.loads(critic_text.critique_reply(windows, windows, record.plan, Fault.MISSING_CLUES))
    assert (good["verdict"], good["fault"], good["score"], good["findings"]) == ("accept", "none", 100, [])
    still = [type(windows[0])(0, -1, -1)] * len(windows)
    bad = json.loads(critic_text.critique_reply(still, windows, record.plan, Fault.WRONG_FACT))
    assert (bad["verdict"], bad["fault"]) == (Verdict.REVISE, "wrong fact") and bad["findings"]


def test_a_case_score_and_a_violation_decide_a_reply_where_they_are_known() -> None:
    scene = make_scene(9, all_kinds())
    record = make_record(scene, scene.render(1, "center"))
    windows, violation = record.answer_windows, Violation(name="vanishes", failure="", t=1.25)
    poor = json.loads(critic_text.critique_reply(windows, windows, record.plan, Fault.MODEL, 41.0, violation))
    assert (poor["verdict"], poor["score"], poor["fault"]) == (Verdict.REVISE, 40, "model")
    assert poor["findings"] == [
        {"t": 1.25, "object": record.plan.motion[0].object, "issue": "a thing vanishes"}
    ]
    accepted = critic_text.ACCEPT_CASE_SCORE
    good = json.loads(
        critic_text.critique_reply(windows, windows, record.plan, Fault.MODEL, accepted, violation)
    )
    assert (good["verdict"], good["findings"]) == (Verdict.ACCEPT, [])


def test_batches_are_balanced_over_scores() -> None:
    """Half of them acceptable, and of each half every bin of scores as often, however rare it is."""
    rows = Rows(1000, 8, "cpu")
    made = [
        Row(np.zeros(4, np.int16), 1, score >= 70.0, score) for score in [10.0] * 900 + [65.0, 75.0, 95.0]
    ]
    rows.add(made, [(0, 0)] * len(made))
    torch.manual_seed(0)
    scores = rows.scores[rows.balanced(4000)]
    for score in (10.0, 65.0, 75.0, 95.0):
        assert float((scores == score).float().mean()) == pytest.approx(0.25, abs=0.04)


def test_poor_prompts_cover_every_fault() -> None:
    scene, rng = make_scene(1, all_kinds()), np.random.default_rng(0)
    faults = {prompts.poor_prompt(scene.brief, scene.truth, scene.truth, rng)[1] for _ in range(200)}
    assert faults == set(Fault) - {Fault.NONE}


def test_data_hands_out_padded_batches(critic: tuple[object, object]) -> None:
    model, tokenizer = critic
    geometry = PatchGeometry.from_config(model.config, frame_px=128)  # type: ignore[attr-defined]
    maker = RowMaker(tokenizer, geometry, 128)
    factory = ClipFactory(num_workers=1, first_seed=40, block=4, num_slots=1, extra=maker)
    data = CriticData(4, "cpu", 128)
    block = factory.take()
    data.add(block)
    factory.release(block)
    factory.close()
    assert data.full and (data.num_clips, data.num_takes) == (4, 12)
    plan, critique = data.plan_batch(2), data.critique_batch(3)
    assert plan["frames"].shape == (2, 12, 128, 128, 3) and critique["frames"].shape == (3, 28, 128, 128, 3)
    assert critique["windows"].shape == (3, 14, 3) and (critique["labels"] != -100).any(dim=1).all()
    rows = data.critique_rows
    good, bad = (rows.accepted[rows.balanced(8)] == verdict for verdict in (True, False))
    assert good.sum() == bad.sum() == 4


def test_a_swapped_take_shows_the_last_scene_of_its_kind(critic: tuple[object, object]) -> None:
    model, tokenizer = critic
    geometry = PatchGeometry.from_config(model.config, frame_px=128)  # type: ignore[attr-defined]
    kind = all_kinds()[0]
    maker = RowMaker(tokenizer, geometry, 128, first_seed=10, block=4)
    made = []
    for seed in (10, 12, 14):  # 14 begins the next block
        scene = Scene(kind, seed, kind.sample(np.random.default_rng(seed)))
        frames = scene.render(1, "center")
        made.append(maker(make_record(scene, frames), frames).takes[2])
    assert [take.offset for take in made] == [0, -2, 0]
    assert made[1].frames.tolist() == [SWITCH + i for i in TAKE_INDICES] and not made[1].row.accepted


def test_render_workers_never_touch_held_out_seeds() -> None:
    with pytest.raises(AssertionError, match="held-out"):
        ClipFactory(num_workers=1, first_seed=999_999, block=4, num_slots=1)


def test_saved_critic_loads_as_a_published_one(critic: tuple[object, object], tmp_path: Path) -> None:
    from engine.critics.qwen_vl import critic as qwen_vl

    model, tokenizer = critic
    save_critic(model, tokenizer, tmp_path, 128)
    loaded = qwen_vl.load(tmp_path, device="cpu", dtype="fp32")
    assert loaded.settings.plan_instruction == critic_text.PLAN_INSTRUCTION
    assert loaded.geometry.tokens_per_group(128, 128) == 16
