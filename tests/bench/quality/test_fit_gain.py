"""Fitting expected gains: known weights, chosen takes by hand, folds, and from the command to the loop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from critiques import bare_critique
from report_run import make_plan
from scored_runs import Made, make_run

from bench.quality.fit_gain import FOLDS, Scene, acceptable_shares, fit, left_out, main, report
from engine.build.choosing import GAIN_FILE, choosing, document_of, model_of, read_gain
from engine.demo.training.critic_text import ACCEPT_CASE_SCORE
from engine.errors import ConfigError
from engine.loop.expected_gain import GainModel, features
from engine.types import Attempt, Prompt

NAMES = ("critic_score", "told", "rank a")
SAID = (85.0, 80.0, 100.0, None)
"""By the critic, of the takes of a scene."""


def scene(number: int, draw: np.random.Generator, *, noise: float, weights: Sequence[float]) -> Scene:
    """Four takes whose scores are a level of the scene, what the features say, and noise."""
    attempts = tuple(
        Attempt(
            index=index,
            prompt=Prompt(text="", negative="", seed=0, revision=index, plan=make_plan() if index else None),
            video_path=Path("take.mp4"),
            critique=bare_critique(float(draw.uniform(0, 100))),
            round=index,
            selector_scores={"a": float(draw.normal())},
        )
        for index in range(4)
    )
    rows = np.array([[row[name] for name in NAMES] for row in features(attempts, ["a"])])
    scores = draw.uniform(20, 80) + rows @ np.array(weights) + noise * draw.normal(size=4)
    return Scene(name=f"s{number}", attempts=attempts, rows=rows, scores=scores)


def scenes(count: int, noise: float, weights: Sequence[float] = (20.0, 3.0, -6.0)) -> list[Scene]:
    draw = np.random.default_rng(0)
    return [scene(number, draw, noise=noise, weights=weights) for number in range(count)]


def test_weights_that_made_the_scores_are_found_whatever_the_level_of_a_scene() -> None:
    found = fit(scenes(60, 0.0), NAMES)
    assert list(found.weights) == list(NAMES)
    assert list(found.weights.values()) == pytest.approx([20.0, 3.0, -6.0], rel=0.01)
    assert np.sqrt(np.diag(found.covariance)).max() < 0.05


def test_doubt_is_that_of_repeated_fits() -> None:
    """The deviation that a fit states is the one its weights have over many worlds."""
    draw = np.random.default_rng(1)
    fits = [
        fit([scene(n, draw, noise=8.0, weights=(20.0, 3.0, -6.0)) for n in range(40)], NAMES)
        for _ in range(200)
    ]
    spread = np.std([list(one.weights.values()) for one in fits], axis=0)
    stated = np.mean([np.sqrt(np.diag(one.covariance)) for one in fits], axis=0)
    np.testing.assert_allclose(stated, spread, rtol=0.2)


def test_a_scene_is_not_in_the_fit_that_chooses_there() -> None:
    told = scenes(20, 0.0)
    # one scene that says the opposite, far from the others: a fit that saw it would follow it
    odd = Scene(
        name="odd", attempts=told[0].attempts, rows=told[0].rows,
        scores=50.0 - 1000.0 * (told[0].scores - told[0].scores.mean()),
    )  # fmt: skip
    ways = left_out([*told, odd], NAMES)
    assert ways["oracle"][-1] == odd.scores.max() and ways["first"][-1] == odd.scores[0]
    assert ways["plan"][-1] == odd.scores[1] and ways["random"][-1] == pytest.approx(odd.scores.mean())
    fold = sorted([*(s.name for s in told), "odd"]).index("odd") % FOLDS
    others = [
        s for place, s in enumerate(sorted([*told, odd], key=lambda s: s.name)) if place % FOLDS != fold
    ]
    gains = fit(others, NAMES).gains(odd.attempts)
    assert ways["gain"][-1] == odd.scores[int(np.argmax(gains))]


def test_choosing_by_gain_is_worth_what_it_is_and_nothing_of_noise() -> None:
    useful = report(found := scenes(80, 3.0), NAMES, fit(found, NAMES))
    assert useful["differences"]["gain_minus_plan"]["ci95"][0] > 3.0
    assert useful["ways"]["gain"]["mean"] < useful["ways"]["oracle"]["mean"]
    noise = report(found := scenes(80, 8.0, (0.0, 0.0, 0.0)), NAMES, fit(found, NAMES))
    low, high = noise["differences"]["gain_minus_plan"]["ci95"]
    assert low < 0.0 < high or (low, high) == (0.0, 0.0)
    assert set(noise["weights"]) == set(NAMES) and noise["num_takes"] == 320


def models(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("generator", "critic"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(name)
        (tmp_path / name / "config.json").write_text("{}")
    return tmp_path / "generator", tmp_path / "critic"


def digest(path: Path) -> str:
    return path.read_text()


GAIN = GainModel(
    weights={"critic_score": 3.0, "rank a": 1.0}, covariance=((1.0, 0.0), (0.0, 2.0)), deviations=1.0
)


def test_a_run_takes_the_critics_own_where_it_fits_and_says_why_not(tmp_path: Path) -> None:
    generator, critic = models(tmp_path)

    def asked(wanted: str = "", selectors: Sequence[str] = ("critic_score", "a")) -> tuple[bool, str]:
        found = choosing(wanted, generator=generator, critic=critic, selectors=selectors, digest=digest)
        return found.gain == GAIN, found.why

    assert asked() == (False, f"by rules: critic has no {GAIN_FILE}")
    document = document_of(GAIN, generator=generator, critic=critic, fitted_on="40 scenes", digest=digest)
    (critic / GAIN_FILE).write_text(json.dumps(document))
    assert model_of(read_gain(critic / GAIN_FILE)) == GAIN
    assert asked() == (True, "by expected gain, fitted on 40 scenes")
    assert asked("none") == (False, "by rules, as loop.gain says")
    assert asked(selectors=("critic_score",)) == (
        False, "by rules: gain.json of critic reads a, which loop.selectors does not name",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"reads a, which loop\.selectors does not name"):
        asked(str(critic / GAIN_FILE), selectors=("critic_score",))
    with pytest.raises(ConfigError, match="is no file"):
        asked(str(tmp_path / "absent.json"))
    (generator / "model.safetensors").write_text("trained further")
    assert asked() == (False, "by rules: gain.json of critic was fitted with other weights than these")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema": 2}, "no gain model of schema 1"),
        ({"covariance": [[1.0]]}, "no whole gain model"),
        ({"weights": {"critic_score": "much", "rank a": 1.0}}, "no whole gain model"),
        ({"weights": {"critic_score": 1.0, "colour": 1.0}}, "weighs colour, which no take has"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, change: dict[str, object], problem: str) -> None:
    generator, critic = models(tmp_path)
    document = document_of(GAIN, generator=generator, critic=critic, fitted_on="", digest=digest)
    (critic / GAIN_FILE).write_text(json.dumps({**document, **change}))
    with pytest.raises(ConfigError, match=problem):
        read_gain(critic / GAIN_FILE)


def test_shares_are_of_takes_by_tenths_of_the_critics_score() -> None:
    one = scenes(1, 0.0)[0]
    takes = tuple(
        replace(take, critique=bare_critique(score)) for take, score in zip(one.attempts, SAID, strict=True)
    )
    found = acceptable_shares([replace(one, attempts=takes, scores=np.array([80.0, 60.0, 90.0, 75.0]))])
    usual = 2 / 3  # of the three that can be read; of two in one tenth it is one
    assert found[8] == pytest.approx((1 + 20 * usual) / 22)
    assert found[10] == pytest.approx((1 + 20 * usual) / 21)
    assert found[0] == pytest.approx(usual)
    assert acceptable_shares([]) == ()


def usual_share(takes: Sequence[Sequence[Made]]) -> float:
    scores = [made.verified for pair in takes for made in pair]
    return sum(score >= ACCEPT_CASE_SCORE for score in scores) / len(scores)


def test_the_command_fits_scored_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(3)
    takes = []
    for _ in range(40):
        level, critic = draw.uniform(30, 70), draw.uniform(0, 100, size=2)
        takes.append(
            [Made(round, level + 0.2 * float(critic[round]), critic=float(critic[round])) for round in (0, 1)]
        )
    run = make_run(tmp_path / "run", takes)
    out = tmp_path / "gain.json"
    assert main(["--run", str(run), "--out", str(out), "--report", str(tmp_path / "report.json")]) == 0
    assert model_of(read_gain(out)).weights["critic_score"] == pytest.approx(20.0, rel=0.05)
    shares = model_of(read_gain(out)).acceptable
    # the better the critic's score, the more takes are acceptable; nobody was given 100
    assert shares[0] < shares[9] and len(shares) == 11 and shares[10] == pytest.approx(usual_share(takes))
    kept = [*("--run", str(run), "--weights-of", str(out)), *("--out", str(tmp_path / "kept.json"))]
    assert main(kept) == 0
    again = read_gain(tmp_path / "kept.json")
    assert model_of(again) == model_of(read_gain(out))
    assert again["fitted_on"] == "40 scenes, 80 takes; shares on 40 scenes, 80 takes"
    said = capsys.readouterr().out
    assert "gain_minus_plan" in said and "critic_score" in said
    found = json.loads((tmp_path / "report.json").read_text())
    assert (
        found["kind"] == "gain_fit" and found["num_scenes"] == 40 and str(tmp_path) not in json.dumps(found)
    )
    few = make_run(tmp_path / "few", takes[:5])
    assert main(["--run", str(few), "--out", str(out)]) == 2
    assert "30 are needed" in capsys.readouterr().err
