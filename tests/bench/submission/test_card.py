"""The card: each rule is broken once, all is listed at once, and the form leaves declarations alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from submission_tree import good_card

from bench.submission.card import MARK, Known, Problem, card_text, check_card, read_card, unfilled
from bench.submission.card_fields import BLOCKS, FIELDS, Field, always, never
from engine.errors import ConfigError

SCORES = {name: value for name, value in good_card()["reported_scores"].items() if isinstance(value, float)}


def check(card: Any, *, num_runs: int = 2, computed: dict[str, float] | None = None) -> list[Problem]:
    return check_card(card, num_runs=num_runs, computed=SCORES if computed is None else computed)


def broken(key: str, value: Any, **others: Any) -> list[Problem]:
    card = good_card()
    for name, other in {key: value, **{k.replace("__", "."): v for k, v in others.items()}}.items():
        block, _, field = name.partition(".")
        card[block][field] = value if name == key else other
    return check(card)


def test_a_good_card_has_no_problem() -> None:
    assert check(good_card()) == []
    assert {block for block in good_card()} == set(BLOCKS)


@pytest.mark.parametrize("field", [f for f in FIELDS if f.needed is always], ids=lambda field: field.key)
@pytest.mark.parametrize("value", [None, "", MARK, "absent", ["a list"]], ids=str)
def test_every_field_that_is_always_needed_is_missed(field: Field, value: Any) -> None:
    card = good_card()
    if value == "absent":
        del card[field.block][field.name]
    else:
        card[field.block][field.name] = value
    (problem,) = check(card)
    assert problem.field == field.key and problem.allowed == field.allowed
    assert problem.fix == f"state {field.meaning}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("public_info.input_type", "video"),
        ("public_info.parameters", -1),
        ("public_info.fps", 0),
        ("public_info.fps", "24"),
        ("public_info.fps", True),
        ("public_info.fps", float("inf")),
        ("public_info.resolution", "1280"),
        ("public_info.resolution", "1280×720"),
        ("public_info.resolution", "853x480"),
        ("public_info.bon_sampling", 0),
        ("public_info.bon_sampling", 1.5),
        ("public_info.prompt_upsampling", "no"),
        ("public_info.descriptions", "original"),
        ("public_info.availability", "open"),
        ("public_info.date", "7 October 2026"),
        ("public_info.date", "2026-13-01"),
        ("public_info.generation_cost", -1),
        ("public_info.generation_cost", "cheap"),
        ("public_info.generation_gpu", 100),
        ("public_info.generation_ngpu", 0),
        ("public_info.generation_time", 0),
        ("public_info.generation_time", "41 s"),
        ("public_info.comments", 5),
        ("reported_scores.physiq_mean", 101),
        ("reported_scores.physiq_mean", float("nan")),
        ("reported_scores.mse_std", -0.1),
        ("terms.terms_version", 1.0),  # YAML's reading of 1.0 without quotes
        ("terms.terms_version", "2.0"),
        ("terms.terms_accepted", "true"),
        ("terms.terms_accepted", False),
        ("terms.accepted_at", "yesterday"),
        ("terms.accepted_at", "2026-10-07"),
        ("warranties.metadata_accurate", False),
        ("warranties.no_ip_infringement", "yes"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(key: str, value: Any) -> None:
    problems = [problem for problem in broken(key, value) if problem.field == key]
    assert problems[0].value == repr(value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("public_info.parameters", 14_000_000_000),
        ("public_info.parameters", "14B"),
        ("public_info.fps", 23.976),
        ("public_info.generation_cost", float("nan")),
        ("public_info.date", yaml.safe_load("2026-10-07")),
        ("terms.accepted_at", yaml.safe_load("2026-10-07T14:00:00Z")),
        ("terms.accepted_at", "2026-10-07 14:00"),
    ],
)
def test_other_values_are_allowed(key: str, value: Any) -> None:
    assert broken(key, value) == []


CONDITIONS = {
    "public_info.bon_sampling_method": ("public_info.bon_sampling", 4),
    "public_info.prompt_upsampling_method": ("public_info.prompt_upsampling", True),
    "public_info.upsample_cost": ("public_info.prompt_upsampling", True),
    "public_info.upsample_gpu": ("public_info.prompt_upsampling", True),
    "public_info.upsample_ngpu": ("public_info.prompt_upsampling", True),
    "public_info.upsample_time": ("public_info.prompt_upsampling", True),
    "public_info.generation_gpu": ("public_info.availability", "research"),
    "public_info.generation_ngpu": ("public_info.availability", "research"),
    "public_info.generation_time": ("public_info.availability", "research"),
}


def test_conditions_are_all_tried() -> None:
    assert CONDITIONS.keys() == {f.key for f in FIELDS if f.needed not in (always, never)}


@pytest.mark.parametrize("key", CONDITIONS)
def test_a_field_is_needed_under_its_condition_only(key: str) -> None:
    trigger, value = CONDITIONS[key]
    card = good_card()
    name = key.partition(".")[2]
    card["public_info"] |= {
        "upsample_cost": 0.1,
        "upsample_gpu": "H100",
        "upsample_ngpu": 1,
        "upsample_time": 2.0,
        "prompt_upsampling_method": "a planner",
        "bon_sampling_method": "consensus",
        trigger.partition(".")[2]: value,
        name: None,
    }
    assert [problem.field for problem in check(card)] == [key]
    card["public_info"] |= {"availability": "api", "prompt_upsampling": False, "bon_sampling": 1}
    assert check(card) == []


def test_an_api_needs_the_cost_of_upsampling_but_no_gpu() -> None:
    api = {"public_info__availability": "api"}
    found = [p.field for p in broken("public_info.prompt_upsampling", True, **api)]
    assert found == ["public_info.prompt_upsampling_method", "public_info.upsample_cost"]


def test_scores_in_fractions_are_told_from_percent() -> None:
    card = good_card()
    card["reported_scores"] = {name: value / 100 for name, value in card["reported_scores"].items()}
    found = check(card, computed={})
    assert [problem.fix for problem in found] == ["multiply them by 100"]
    card["reported_scores"]["physiq_mean"] = 50.0
    assert check(card, computed={}) == []


def test_several_runs_have_a_deviation_and_one_has_none() -> None:
    card = good_card()
    card["reported_scores"] |= {f"{name}_std": float("nan") for name in ("physiq", "mse")}
    found = check(card, num_runs=4, computed={})
    assert [problem.field for problem in found] == ["reported_scores.physiq_std", "reported_scores.mse_std"]
    assert check(card, num_runs=1, computed={}) == []


def test_reported_scores_must_be_the_computed_ones() -> None:
    (problem,) = check(good_card(), computed=SCORES | {"physiq_mean": 49.98})
    assert problem.field == "reported_scores.physiq_mean" and "49.9800 ± 0.01" in problem.allowed
    assert check(good_card(), computed=SCORES | {"physiq_mean": 49.995}) == []


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        (lambda card: card.update(public={}), "public", "public_info"),
        (
            lambda card: card["public_info"].update(organisation="x"),
            "public_info.organisation",
            "organization",
        ),
        (lambda card: card["terms"].update(note=1), "terms.note", "remove or rename it"),
    ],
)
def test_a_field_that_does_not_exist_is_named(
    change: Callable[[dict[str, Any]], None], field: str, says: str
) -> None:
    card = good_card()
    change(card)
    (problem,) = check(card)
    assert problem.field == field and says in problem.fix


def test_all_problems_are_listed_at_once() -> None:
    assert len(check({})) == sum(field.needed({}) for field in FIELDS)
    card = good_card()
    card["public_info"]["fps"] = -1
    card["terms"] = ["none"]
    card["warranties"]["metadata_accurate"] = None
    fields = [problem.field for problem in check(card)]
    assert fields[:2] == ["terms", "public_info.fps"] and "warranties.metadata_accurate" in fields
    assert sum(field.startswith("terms.") for field in fields) == 4


@pytest.mark.parametrize("card", [None, [], "text", 3])
def test_a_card_that_is_no_mapping_is_one_problem(card: Any) -> None:
    (problem,) = check(card)
    assert problem.field == "card"


def test_the_form_is_filled_in_and_refused_until_complete(tmp_path: Path) -> None:
    known = {
        "public_info.fps": Known(value=24, source="of the clips"),
        "public_info.prompt_upsampling": Known(value=False, source="by the run"),
        "reported_scores.physiq_std": Known(value=float("nan"), source="1 run"),
        "terms.terms_accepted": Known(value=True, source="nobody may say so"),
        "warranties.metadata_accurate": Known(value=True, source="nobody may say so"),
    }
    path = tmp_path / "card.yaml"
    path.write_text(card_text(known), encoding="utf-8")
    card = read_card(path)
    assert list(card) == list(BLOCKS) and card["public_info"]["fps"] == 24
    assert card["public_info"]["upsample_gpu"] is None  # no upsampling: does not apply
    assert set(card["terms"].values()) == set(card["warranties"].values()) == {MARK}
    refused = {problem.field for problem in check(card, num_runs=1, computed={})}
    # What was assumed to be needed must also be answered, if only with null.
    assert refused == set(unfilled(known)) and "terms.terms_accepted" in refused
    assert "public_info.fps" not in refused


def test_text_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text("public_info: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        read_card(tmp_path / "card.yaml")
