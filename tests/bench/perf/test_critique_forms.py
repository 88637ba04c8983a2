"""Real critiques of the bundled critic as patches: merged they are the full reply's plan, in fewer tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from vlm_replies import PLAN, REPLY

from bench.perf.critique_forms import Written, patched, replies_of
from bench.perf.draft_replay import add_to, main, measure
from engine.build.model_folders import find_critic
from engine.critics.qwen_vl.plan_patch import merged, patch_of
from engine.critics.qwen_vl.schema import parse_critique, parse_plan
from engine.errors import ConfigError
from engine.runs.store import RunStore
from engine.settings.config import BUNDLED, CriticConfig, RunConfig, write_config
from engine.types import PhysicsPlan

RECORDED = Path(__file__).parents[2] / "data" / "demo_replies.json"


def recorded() -> list[list[Written]]:
    scenarios = json.loads(RECORDED.read_text(encoding="utf-8"))["scenarios"]
    return [
        [replace(Written(**one), told=one["told"] and PhysicsPlan.from_dict(one["told"])) for one in replies]
        for replies in scenarios
    ]


def test_merged_patches_of_real_critiques_are_the_plans_of_the_full_replies() -> None:
    num_changed = 0
    critiques = [reply for replies in recorded() for reply in replies if reply.is_critique]
    for reply in critiques:
        assert reply.told is not None
        full = parse_critique(reply.text, num_tokens=1, seconds=0.0)
        patch = parse_critique(reply.as_patch().text, num_tokens=1, seconds=0.0, base=reply.told)
        assert full.revised is not None and patch.revised == full.revised
        assert replace(patch, raw=full.raw) == full, "verdict, score, findings and stages are the same too"
        assert merged(reply.told, patch_of(reply.told, full.revised)) == full.revised
        num_changed += full.revised != reply.told
    assert (len(critiques), num_changed) == (16, 5)


def test_tokens_and_steps_of_both_forms() -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(find_critic(BUNDLED).path, local_files_only=True)
    replies = recorded()[3:]
    patches = [[reply.as_patch() for reply in some] for some in replies]
    full, patch = measure(replies, tokenizer), measure(patches, tokenizer)
    for name, saved in (("all", 0.15), ("critiques", 0.2)):
        assert full[name]["replies"] == patch[name]["replies"] > 0
        assert patch[name]["tokens"] < (1 - saved) * full[name]["tokens"]
        assert patch[name]["steps"] < full[name]["steps"] < full[name]["tokens"] / 2
    assert full["all"]["replies"] == full["critiques"]["replies"] + len(replies)
    decoding = {"ms_per_drafted_step": 2.0, "prompt_s": 0.1}
    document: dict[str, Any] = {"variants": {"slots, nf4, 1": decoding}, "summary": {}}
    add_to(document, full, patch)
    seconds = {name: document["summary"][f"critique_{name}_s"] - 0.1 for name in ("full", "patch")}
    assert seconds["full"] == pytest.approx(0.002 * 400 / full["critiques"]["tokens_per_step"])
    ratio = patch["critiques"]["steps"] / full["critiques"]["steps"]
    assert seconds["patch"] / seconds["full"] == pytest.approx(ratio)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_a_patch_keeps_the_way_in_which_a_critic_writes(separators: tuple[str, str]) -> None:
    told = parse_plan(json.dumps({**PLAN, "camera": "turning"}))
    assert told is not None
    text = json.dumps(REPLY, separators=separators)
    expected = json.dumps({**REPLY, "plan": {"camera": "static"}}, separators=separators)
    assert patched(text, told) == expected
    assert patched(f"<think>So.</think>{text}", told) == f"<think>So.</think>{expected}"


def test_what_has_no_plan_stays_as_it_is() -> None:
    told = parse_plan(json.dumps(PLAN))
    assert told is not None
    for text in ("", "no JSON", json.dumps({**REPLY, "plan": None}), json.dumps({**REPLY, "score": None})):
        assert patched(text, told) == text
        assert Written(text=text, is_critique=True).as_patch().text == text


def test_runs_of_patches_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunStore.create(tmp_path / "run", []).close()
    config = RunConfig(dataset=tmp_path, out=tmp_path / "run", critic=CriticConfig(critique_form="patch"))
    write_config(config, tmp_path / "run" / "config.toml")
    with pytest.raises(ConfigError, match="critique_form patch"):
        list(replies_of(tmp_path / "run"))
    assert main([str(tmp_path / "run"), "--critic", str(find_critic(BUNDLED).path)]) == 2
    assert "give runs of full critiques" in capsys.readouterr().err
