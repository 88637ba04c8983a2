"""What differs between two manifests, by name; moved folders do not, nor what was never recorded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from engine.runs.changes import changes

THEN: dict[str, Any] = {
    "manifest_version": 2,
    "code": {"commit": "a" * 40, "dirty": False},
    "packages": {"torch": "2.13.0", "av": "19.0.2"},
    "models": {
        "generator": {"folder": "/a", "sha256": {"vae/w.safetensors": "11", "tokenizer.json": "22"}},
        "critic": {"folder": "/b", "sha256": {"model.safetensors": "33"}},
    },
    "loras": {"1 style.safetensors": "77"},
    "prefixes": {"0001": "aa", "0002": "bb"},
    "config": {"out": "/run", "dataset": "/data", "loop": {"seed": 0, "selectors": ["critic_score"]}},
    "resolved": {"device": "cuda", "dtype": "bf16", "spec": {"fps": 8.0}},
}


def with_(**edits: Any) -> dict[str, Any]:
    """THEN with values at dotted places, "." written as "__"."""
    made = copy.deepcopy(THEN)
    for place, value in edits.items():
        *tables, key = place.split("__")
        target = made
        for table in tables:
            target = target[table]
        target[key] = value
    return made


def test_the_same_is_no_change() -> None:
    assert changes(THEN, copy.deepcopy(THEN)) == []
    moved = with_(config__out=Path("/other"), config__dataset="/else", models__critic__folder="/c")
    assert changes(THEN, moved) == []


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (
            with_(models__critic__sha256={"model.safetensors": "99"}),
            "file model.safetensors of the critic: changed",
        ),
        (with_(models__critic__sha256={}), "file model.safetensors of the critic: gone"),
        (
            with_(models__generator__sha256={**THEN["models"]["generator"]["sha256"], "retake.json": "1"}),
            "file retake.json of the generator: new",
        ),
        (with_(loras={"1 style.safetensors": "78"}), "LoRA 1 style.safetensors"),
        (with_(prefixes={"0001": "aa", "0002": "cc"}), "prefix of scenario 0002"),
        (with_(config__loop={"seed": 1, "selectors": ["critic_score"]}), "setting loop.seed: 0, now 1"),
        (with_(packages={"torch": "2.12.0", "av": "19.0.2"}), "package torch: 2.13.0, now 2.12.0"),
        (with_(resolved__dtype="fp32"), "resolved dtype: bf16, now fp32"),
        (with_(code={"commit": "b" * 40}), f"commit of retake: {'a' * 12}, now {'b' * 12}"),
    ],
)
def test_a_change_is_named(now: dict[str, Any], says: str) -> None:
    assert changes(THEN, now) == [says]


def test_of_a_resumed_part_only_its_own_prefixes_are_compared() -> None:
    assert changes(THEN, with_(prefixes={"0002": "bb"})) == []


def test_a_first_manifest_knew_weights_alone() -> None:
    first = with_(manifest_version=1, models__generator__sha256={"vae/w.safetensors": "11"})
    del first["prefixes"]
    assert changes(first, THEN) == []
    assert changes(first, with_(models__generator__sha256={"vae/w.safetensors": "12"})) == [
        "file vae/w.safetensors of the generator: changed"
    ]


def test_what_was_done_before_there_was_a_setting_is_no_change_of_it() -> None:
    loop = THEN["config"]["loop"]
    assert changes(THEN, with_(config__loop={**loop, "first_prompt": "brief"})) == []
    assert changes(THEN, with_(config__loop={**loop, "first_prompt": "plan"})) == [
        "setting loop.first_prompt: None, now 'plan'"
    ]
