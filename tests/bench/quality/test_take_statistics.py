"""Take statistics over takes whose scores are known: truths, frozen frames, and spread between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.quality import take_statistics
from bench.quality.take_score import RealTakes, score_take
from bench.quality.take_statistics import (
    Reference,
    document,
    make_reference,
    score_all,
    tuning_scenes,
)
from engine.demo.scenes.base import NUM_ANSWER_FRAMES, SWITCH
from engine.demo.scenes.seeds import HELD_OUT, TUNING
from engine.errors import ConfigError
from engine.types import Frames


@pytest.fixture(scope="module")
def references() -> list[Reference]:
    return [make_reference(scene) for scene in tuning_scenes("wide", 2)]


def score(tasks: Iterable[tuple[RealTakes, Frames]]) -> list[float]:
    return [score_take(task) for task in tasks]


def test_a_true_take_scores_full_and_a_frozen_one_as_the_baseline(references: list[Reference]) -> None:
    for reference in references:
        clip = reference.scene.render(1, "center")
        frozen = np.repeat(clip[SWITCH - 1 : SWITCH], NUM_ANSWER_FRAMES, axis=0)
        assert score_take((reference.takes, clip[SWITCH:])) == pytest.approx(100.0, abs=0.1)
        assert score_take((reference.takes, frozen)) == reference.baselines["frozen"] < 40.0
        assert 0.0 <= reference.baselines["extrapolated"] <= 100.0


def test_figures_of_takes_that_are_known(references: list[Reference]) -> None:
    """First takes are frozen, second ones true; under the plan all are true."""
    asked: list[tuple[str, int]] = []

    def generate(prefixes: Sequence[Frames], texts: Sequence[str], take: int) -> list[Frames]:
        asked.extend((text, take) for text in texts)
        found = []
        for reference, prefix, text in zip(references, prefixes, texts, strict=True):
            true = take == 1 or text != reference.asked.brief
            clip = reference.scene.render(1, "center")
            found.append(clip[SWITCH:] if true else np.repeat(prefix[-1:], NUM_ANSWER_FRAMES, axis=0))
        return found

    scored = score_all(references, generate, ["brief", "plan"], takes=2, score=score)
    found = document(scored)
    frozen = float(np.mean([reference.baselines["frozen"] for reference in references]))
    brief, plan = found["brief"], found["plan"]
    assert brief["first_take"]["mean"] == pytest.approx(frozen) == found["frozen"]["mean"]
    assert brief["mean"]["mean"] == pytest.approx((100.0 + frozen) / 2, abs=0.1)
    assert brief["oracle_minus_mean"]["mean"] == pytest.approx((100.0 - frozen) / 2, abs=0.1)
    assert brief["spread"]["mean"] == pytest.approx((100.0 - frozen) / np.sqrt(2), abs=0.1)
    assert plan["spread"]["mean"] == pytest.approx(0.0)
    assert plan["minus_brief"]["mean"] == pytest.approx((100.0 - frozen) / 2, abs=0.1)
    assert found["n"] == 2 and len(asked) == 8 and {take for _, take in asked} == {0, 1}
    assert sum(entry["n"] for entry in found["by_category"].values()) == 2
    assert {"by_kind", "by_simple", "by_failure"} < set(found)


def test_only_tuning_scenes_are_ever_looked_at() -> None:
    names = {scene.seed for scene in tuning_scenes("wide", TUNING.count)}
    assert names == set(TUNING.seeds) and not names & set(HELD_OUT.seeds)
    for count in (0, TUNING.count + 1):
        with pytest.raises(ConfigError, match="held-out scenes"):
            tuning_scenes("wide", count)


def test_one_take_has_no_spread(references: list[Reference]) -> None:
    def generate(prefixes: Sequence[Frames], texts: Sequence[str], take: int) -> list[Frames]:
        return [np.repeat(prefix[-1:], NUM_ANSWER_FRAMES, axis=0) for prefix in prefixes]

    scored = score_all(references, generate, ["suffix"], takes=1, score=score)
    figures: dict[str, Any] = document(scored)["suffix"]
    assert figures.keys() == {"first_take", "mean", "oracle_minus_mean"}
    bare = replace(scored, references=[replace(entry, labels=None) for entry in references])
    assert "by_simple" not in document(bare)


def test_a_count_beyond_the_tuning_scenes_is_told_in_a_line(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    status = take_statistics.main(["--count", "999", "--out", str(tmp_path / "x.json")])
    assert status == 2 and "error: --count 999" in capsys.readouterr().err
