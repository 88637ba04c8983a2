"""A run as an Inspect log: what stands in it, and, where Inspect is installed, that it reads it back."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from report_run import CHOSEN, CRITIC, SCENES, TRUE, make_run

from engine.errors import ConfigError, StoreError
from engine.report.eval_log import write_eval_log
from engine.runs.choices import choose


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("logged"))


@pytest.fixture(scope="module")
def document(run: Path) -> dict[str, Any]:
    path = write_eval_log(run, run.parent / "log.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


TEXT, COUNT, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "number"}
CONTENT = {
    "oneOf": [
        {"properties": {"type": {"const": "text"}, "text": TEXT}, "required": ["type", "text"]},
        {
            "properties": {
                "type": {"const": "video"},
                "video": TEXT,
                "format": {"enum": ["mp4", "mpeg", "mov"]},
            },
            "required": ["type", "video", "format"],
        },
    ]
}
MESSAGE = {
    "properties": {
        "role": {"enum": ["user", "assistant"]},
        "content": {"anyOf": [TEXT, {"type": "array", "items": CONTENT}]},
    },
    "required": ["role", "content"],
}
SAMPLE = {
    "properties": {
        "id": TEXT,
        "epoch": {"const": 1},
        "input": {"type": "array", "items": MESSAGE},
        "target": TEXT,
        "messages": {"type": "array", "items": MESSAGE},
        "scores": {"additionalProperties": {"properties": {"value": NUMBER}, "required": ["value"]}},
        "error": {
            "type": ["object", "null"],
            "required": ["message", "traceback", "traceback_ansi"],
        },
    },
    "required": ["id", "epoch", "input", "target", "messages", "output", "scores"],
}
METRIC = {"properties": {"name": TEXT, "value": NUMBER}, "required": ["name", "value"]}
RESULT = {
    "properties": {
        "name": TEXT,
        "scored_samples": COUNT,
        "unscored_samples": COUNT,
        "metrics": {"additionalProperties": METRIC},
    },
    "required": ["name", "scorer", "metrics"],
}
LOG = {
    "properties": {
        "version": {"const": 2},
        "status": {"enum": ["started", "success", "cancelled", "error"]},
        "eval": {"type": "object", "required": ["created", "task", "dataset", "model", "config"]},
        "results": {"properties": {"scores": {"type": "array", "items": RESULT}}},
        "samples": {"type": "array", "items": SAMPLE},
    },
    "required": ["version", "status", "eval", "plan", "results", "stats", "samples"],
}
"""What of its version 2 a run is written in; the whole of it is asked of the package, below."""


def test_a_log_has_the_form_of_version_2(document: dict[str, Any]) -> None:
    jsonschema.validate(document, LOG)
    assert document["status"] == "cancelled"  # the sixth scene is unfinished
    assert len({document["eval"][f"{name}_id"] for name in ("eval", "run", "task")}) == 3


def test_scores_are_those_of_the_chosen_takes(document: dict[str, Any]) -> None:
    for sample, chosen, critic, true in zip(document["samples"], CHOSEN, CRITIC, TRUE, strict=False):
        assert sample["scores"]["critic"]["value"] == critic[chosen]
        assert sample["scores"]["physics_iq_verified"]["value"] == true[chosen]
    by_name = {entry["name"]: entry for entry in document["results"]["scores"]}
    verified = by_name["physics_iq_verified"]
    assert (verified["scored_samples"], verified["unscored_samples"]) == (4, 1)
    assert verified["metrics"]["mean"]["value"] == pytest.approx(
        sum(true[chosen] for true, chosen in zip(TRUE, CHOSEN, strict=True)) / 4
    )
    assert document["results"]["completed_samples"] == 4 and document["results"]["total_samples"] == 6


def test_messages_are_the_takes_in_order(run: Path, document: dict[str, Any]) -> None:
    first = document["samples"][0]
    parts = [(message.get("metadata") or {}).get("part") for message in first["messages"]]
    assert parts == [None, "plan", *["take", "critique"] * len(CRITIC[0])]
    assert first["input"][0]["content"][0]["text"].startswith(SCENES[0][2])
    take = first["output"]["choices"][0]["message"]
    assert take["metadata"]["take"] == CHOSEN[0]
    assert take["content"][1]["video"] == str(run / "videos" / SCENES[0][0] / f"attempt-{CHOSEN[0]}.mp4")
    assert take["metadata"]["physics_iq_verified"] == TRUE[0][CHOSEN[0]]


def test_a_failure_is_an_error_and_no_score(document: dict[str, Any]) -> None:
    (failed,) = document["samples"][4:]  # the sixth is unfinished, and no sample yet
    assert failed["error"]["message"] and failed["scores"] == {} and failed["output"]["choices"] == []
    assert failed["metadata"]["unscored"] == "no chosen clip: the scenario failed"


def test_the_zip_holds_the_same(run: Path, document: dict[str, Any], tmp_path: Path) -> None:
    with zipfile.ZipFile(write_eval_log(run, tmp_path / "log.eval")) as archive:
        members = {name: json.loads(archive.read(name)) for name in archive.namelist()}
    samples = [members[f"samples/{scene[0]}_epoch_1.json"] for scene in SCENES[:5]]
    assert {**members["header.json"], "samples": samples} == document
    assert [one["scores"] for one in members["summaries.json"]] == [one["scores"] for one in samples]


def test_equal_runs_give_equal_files(run: Path, tmp_path: Path) -> None:
    for name in ("log.eval", "log.json"):
        one, other = (write_eval_log(run, tmp_path / folder / name) for folder in ("a", "b"))
        assert one.read_bytes() == other.read_bytes()


def test_scores_of_other_takes_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    choose(run, SCENES[0][0], 0)
    document = json.loads(write_eval_log(run, tmp_path / "log.json").read_text(encoding="utf-8"))
    assert [entry["name"] for entry in document["results"]["scores"]] == ["critic"]
    assert document["samples"][0]["metadata"]["chosen_by"] == "user"


def test_what_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"log.txt is not the name.*\n.*\.eval or \.json"):
        write_eval_log(run, tmp_path / "log.txt")
    with pytest.raises(StoreError, match="is not a run folder"):
        write_eval_log(tmp_path, tmp_path / "log.eval")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["log.eval", "log.json"])
def test_inspect_reads_it(name: str, run: Path, tmp_path: Path) -> None:
    """With `pip install inspect_ai`, which no extra of ours brings: it has a hundred packages of its own."""
    log = pytest.importorskip("inspect_ai.log")
    path = str(write_eval_log(run, tmp_path / name))
    read = log.read_eval_log(path)
    assert [sample.id for sample in read.samples] == [scene[0] for scene in SCENES[:5]]
    assert read.samples[0].scores["critic"].value == CRITIC[0][CHOSEN[0]]
    assert read.samples[0].output.completion and read.samples[4].error.message
    head = log.read_eval_log(path, header_only=True)
    assert head.results.scores[0].metrics["mean"].value > 0 and head.samples is None
    summaries = log.read_eval_log_sample_summaries(path)
    assert [bool(one.error) for one in summaries] == [False] * 4 + [True]
    assert log.read_eval_log_sample(path, id=SCENES[1][0]).scores["physics_iq_verified"].value == TRUE[1][1]
    log.write_eval_log(read, str(tmp_path / "again.json"))
    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    jsonschema.validate(again, LOG)
    jsonschema.validate(again, log.EvalLog.model_json_schema())
