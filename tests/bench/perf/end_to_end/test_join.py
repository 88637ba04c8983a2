"""Parts are joined only where they fit; ratios and checks are what the parts say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from whole_runs import part, take

from bench.perf.end_to_end.join import join
from engine.errors import ConfigError


def put(folder: Path, *parts: dict[str, Any]) -> list[Path]:
    paths = [folder / f"{i}.json" for i in range(len(parts))]
    for path, document in zip(paths, parts, strict=True):
        path.write_text(json.dumps(document))
    return paths


def check(document: dict[str, Any], start: str) -> dict[str, Any]:
    [found] = [check for check in document["checks"] if check["name"].startswith(start)]
    return found


def silent(name: str, seconds: float) -> dict[str, Any]:
    """A part without a critic's tokens."""
    made = part(name, seconds)
    return made | {"tokens_per_scenario": dict.fromkeys(made["tokens_per_scenario"], 0)}


def test_ratios(tmp_path: Path) -> None:
    first = part("fast", 45.0, done=1, asked=1, warm_up=False, process_to_first_take_s=61.5)
    document = join(
        put(
            tmp_path,
            part("fast", 40.0),
            first,
            part("script", 140.0),
            part("script-best", 100.0),
            part("fastest", 35.0),
            silent("fast-generation-only", 32.0),
        )
    )
    assert document["summary"] == {
        "fast_over_script": 3.5,
        "fast_over_best_stock": 2.5,
        "fastest_over_script": 4.0,
        "fast_makespan_over_generation": 1.25,
        "first_take_s_warm": 61.5,
    }
    assert document["all_checks_hold"]
    names = [(p["variant"], p["warm_up"]) for p in document["parts"]]
    assert names[:2] == [("script", True), ("script-best", True)] and names[-1] == ("fast", False)


def patches(**more: Any) -> dict[str, Any]:
    """A part of critiques that are patches: 400 tokens and twice 340."""
    made = part("fast-patches", 35.0)
    return made | {"tokens_per_scenario": dict.fromkeys(made["tokens_per_scenario"], 1080)} | more


def test_patches_are_compared_by_outcome_and_have_their_own_tokens(tmp_path: Path) -> None:
    document = join(put(tmp_path, part("script", 140.0), part("fast", 40.0), patches()))
    assert document["summary"]["patches_over_script"] == 4.0 and document["all_checks_hold"]
    assert check(document, "every variant decodes")["found"] == {"script": [1200], "fast": [1200]}
    assert check(document, "critiques that are patches")["found"] == {"fast-patches": [1080]}
    other = patches(tokens_per_scenario={"clip0": 1080, "clip1": 1200})
    document = join(put(tmp_path, part("fast", 40.0), other))
    assert not check(document, "critiques that are patches")["holds"]
    for key in ("plan_sha256", "verdict", "video_sha256"):
        other = patches()
        other["scenarios"]["clip1"]["takes"] = [take() | {key: "other"}]
        found = check(join(put(tmp_path, part("fast", 40.0), other)), "takes, verdicts and merged plans")
        assert (found["holds"], found["found"]) == (False, "differ in clip1")


def test_a_missing_part_leaves_its_ratio_out(tmp_path: Path) -> None:
    document = join(put(tmp_path, part("fast", 40.0), part("script", 140.0)))
    assert document["summary"] == {"fast_over_script": 3.5}
    assert join(put(tmp_path, part("script", 140.0)))["summary"] == {}


@pytest.mark.parametrize(
    "more",
    [
        {"scenarios": {"clip0": {"takes": [], "tokens": 0, "failure": "NotFinite: x"}}},
        {"num_done": 0, "complete": False, "scenarios": {}, "seconds_per_scenario": None},
    ],
)
def test_a_failed_or_empty_part_gives_no_ratio(tmp_path: Path, more: dict[str, Any]) -> None:
    document = join(put(tmp_path, part("fast", 40.0) | more, part("script", 140.0)))
    assert document["summary"] == {}
    assert document["all_checks_hold"] is (more.get("num_done") == 0)


def test_a_first_take_counts_only_with_filled_caches(tmp_path: Path) -> None:
    cold = part("fast", 45.0, warm_up=False, process_to_first_take_s=130.0, kernel_cache_filled=False)
    assert "first_take_s_warm" not in join(put(tmp_path, cold))["summary"]


def test_first_scenarios_are_compared_with_first_scenarios(tmp_path: Path) -> None:
    cold = {"done": 1, "asked": 1, "warm_up": False, "process_to_first_take_s": 60.0}
    script, fast = part("script", 168.0, **cold), part("fast", 42.0, **cold)
    summary = join(put(tmp_path, script, fast, part("fast", 34.0)))["summary"]
    assert summary == {"fast_over_script_cold": 4.0, "first_take_s_warm": 60.0}
    more = part("fast", 42.0, **{**cold, "done": 2, "asked": 2})
    assert "fast_over_script_cold" not in join(put(tmp_path, script, more))["summary"]


def test_one_run_of_the_script_is_cold_and_warm(tmp_path: Path) -> None:
    """Its first scenario against the first of another process, its others against those after a warm-up."""
    script = part("script", 150.0, warm_up=False, each_s=[168.0, 132.0])
    best = part("script-best", 110.0, warm_up=False, each_s=[160.0, 60.0])
    first = part("fast", 42.0, done=1, asked=1, warm_up=False, process_to_first_take_s=60.0)
    document = join(put(tmp_path, script, best, part("fast", 30.0), first))
    assert document["summary"] == {
        "fast_over_script": 4.4,
        "fast_over_best_stock": 2.0,
        "fast_over_script_cold": 4.0,
        "first_take_s_warm": 60.0,
    }
    assert any(note.startswith("script: of 2 scenarios of one process") for note in document["notes"])
    tokens = check(document, "every variant decodes")["found"]
    assert tokens == {"script": [1200], "script-best": [1200], "fast": [1200]}
    stopped = part("script", 168.0, done=1, warm_up=False, each_s=[168.0])
    assert join(put(tmp_path, stopped, part("fast", 30.0), first))["summary"] == {
        "fast_over_script_cold": 4.0,
        "first_take_s_warm": 60.0,
    }


def test_a_failed_scenario_of_any_part_is_told(tmp_path: Path) -> None:
    broken = part("fast", 42.0, done=1, asked=1, warm_up=False)
    broken["scenarios"]["clip0"]["failure"] = "NotFinite: x"
    document = join(put(tmp_path, part("fast", 30.0), broken))
    assert check(document, "no scenario failed")["found"] == {"fast without warm-up clip0": "NotFinite: x"}


def test_generation_alone_is_compared_over_as_many_scenarios(tmp_path: Path) -> None:
    fewer = part("fast-generation-only", 32.0, done=1)
    document = join(put(tmp_path, part("fast", 40.0), fewer))
    assert "fast_makespan_over_generation" not in document["summary"]
    assert any("stopped by its budget after 1 of 2" in note for note in document["notes"])


def test_tokens_that_differ_are_said(tmp_path: Path) -> None:
    script = part("script", 140.0, tokens_per_scenario={"clip0": 1203, "clip1": 1203})
    document = join(put(tmp_path, script, part("fast", 40.0)))
    found = check(document, "every variant decodes")
    assert not found["holds"] and found["found"] == {"script": [1203], "fast": [1200]}
    assert not document["all_checks_hold"]


def test_outcomes_of_overlap_and_sequential(tmp_path: Path) -> None:
    alone = part("exact-sequential", 120.0, done=1)
    document = join(put(tmp_path, part("exact", 100.0), alone))
    assert check(document, "outcomes of exact") == {
        "name": "outcomes of exact and exact-sequential are equal",
        "holds": True,
        "found": "equal in 1 scenario",
    }
    assert document["summary"] == {"exact_overlap_over_sequential": 1.2}
    alone["scenarios"]["clip0"]["takes"] = [take(pixels="other")]
    found = check(join(put(tmp_path, part("exact", 100.0), alone)), "outcomes of exact")
    assert (found["holds"], found["found"]) == (False, "differ in clip0")


def test_best_stock_may_choose_the_format_of_its_critic(tmp_path: Path) -> None:
    best = part("script-best", 80.0)
    best["settings"]["quantization"] = "none"
    document = join(put(tmp_path, best, part("fast", 40.0)))
    assert document["summary"] == {"fast_over_best_stock": 2.0}
    assert document["settings"]["quantization"] == "nf4"
    assert "script-best holds the critic in format none" in document["notes"]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    def refused(match: str, *parts: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=match):
            join(put(tmp_path, *parts))

    fast = part("fast", 40.0)
    refused("fast is there more than once", fast, fast)
    other = part("script", 140.0) | {"settings": fast["settings"] | {"steps": 4}}
    refused("differs from the other parts in settings", fast, other)
    plain = fast["settings"] | {"quantization": "none"}
    refused("differs from the other parts in settings", fast, part("script", 140.0) | {"settings": plain})
    patched = part("fast-patches", 38.0)
    patched["settings"]["patch_tokens"] = 200
    assert join(put(tmp_path, fast, patched))["settings"]["patch_tokens"] == 200, "fast writes none"
    machine = fast["manifest"] | {"machine": {"gpus": [], "cpu": "some"}}
    refused("differs from the other parts in GPU", fast, part("script", 140.0) | {"manifest": machine})
    refused("is no part", fast, {"kind": "end_to_end"})
    refused("schema 2", fast | {"schema": 2})
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        join([tmp_path / "x.json"])
