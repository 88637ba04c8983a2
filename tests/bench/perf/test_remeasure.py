"""The plan of a card: its order, its files, what it asks of the programs; carrying it out is a campaign's."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from bench.campaign import Step
from bench.perf import remeasure
from bench.perf.remeasure import PARTS, Plan, card, main, take_up

ROOT, WORK = Path(__file__).parents[3], Path("W")


def planned(*, gpus: int = 1, tiny: bool = False) -> dict[str, Step]:
    return {step.name: step for step in Plan(work=WORK, card="h200", gpus=gpus, tiny=tiny).steps()}


@pytest.mark.parametrize(("gpus", "tiny"), [(1, False), (2, False), (1, True)])
def test_parts_come_in_their_order_and_wait_for_what_there_is(gpus: int, tiny: bool) -> None:
    found = planned(gpus=gpus, tiny=tiny)
    seen = list(dict.fromkeys(step.part for step in found.values()))
    several = gpus > 1 or tiny
    expected = [part for part in PARTS if several or part != "scaling"]
    assert [part for part in seen if part != "runs"] == [part for part in expected if part != "runs"]
    names = list(found)
    for number, step in enumerate(found.values()):
        assert set(step.after) <= set(names[:number]) and step.places <= gpus
        assert not (tiny and step.least_s)
        assert importlib.util.find_spec(step.words[1]) is not None


def test_documents_are_named_after_the_card() -> None:
    files = {Path(step.words[-1]).name for step in planned(gpus=2).values() if step.words[-2] == "--out"}
    assert {"denoiser_h200_cosmos3.json", "scaling_h200x2.json", "vlm_decode_h200_hybrid.json"} < files
    committed = {path.name for path in (ROOT / "bench" / "results").glob("*h200*.json")}
    assert committed - files == {"aoti_h200.json", "demo_seconds_h200.json", "denoiser_h200_draft.json"}


def test_what_has_a_budget_of_its_own_is_told_it_and_writes_alone() -> None:
    """Asked of the programs themselves: who knows --budget gets it."""
    for step in planned(gpus=2).values():
        file = ROOT.joinpath(*step.words[1].split("."))
        source = (file / "__main__.py" if file.is_dir() else file.with_suffix(".py")).read_text()
        knows = "--budget" in source or "budget_s=" in source
        if step.words[1] == "bench.perf.end_to_end":
            knows = step.words[2] == "all"
        assert (step.most_s is not None) == knows, step.name
    both = [step for step in planned().values() if step.words[1] == "bench.perf.past_dense"]
    assert {step.writes for step in both} == {"past_dense_h200.json"} and len(both) == 2


def test_documents_of_a_card_are_taken_up_once(tmp_path: Path) -> None:
    there, results = tmp_path / "there", tmp_path / "results"
    there.mkdir()
    for name in ("cosmos3_h200", "denoiser_h200_5b", "cosmos3_rtx4090", "scoring"):
        (there / f"{name}.json").write_text("{}")
    results.mkdir()
    (results / "cosmos3_h200.json").write_text(json.dumps({"measured": "since"}))
    assert take_up(there, results, "h200") == ["denoiser_h200_5b.json"]
    assert take_up(there, results, "h200") == []
    assert json.loads((results / "cosmos3_h200.json").read_text()) == {"measured": "since"}


def test_a_card_is_named_in_one_word(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert card() == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    names = {"NVIDIA H200": "h200", "NVIDIA GeForce RTX 4090": "rtx4090", "NVIDIA L40S": "l40s"}
    for told, name in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda told=told: told)
        assert card() == name


def test_what_cannot_be_done_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remeasure, "card", lambda: "cpu")
    assert main(["--list", "--only", "vae"]) == 0
    assert "vae/decodes: python -m bench.perf.vae --sizes 480p,720p" in capsys.readouterr().out
    for words, told in (
        (["--work", "W"], "--tiny tries everything on a CPU"),
        (["--list", "--only", "speed"], "'speed' is no part"),
        (["--work", "W", "--tiny", "--taken-up", "none"], "--taken-up none is no folder"),
    ):
        assert main(words) == 2
        assert told in " ".join(capsys.readouterr().err.split())
    for words in ([], ["--work", "W", "--minutes", "0"], ["--work", "W", "--gpus", "0"]):
        with pytest.raises(SystemExit, match="2"):
            main(words)
    assert list(tmp_path.iterdir()) == []


def test_time_that_is_too_short_begins_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remeasure, "card", lambda: "h200")
    given = ["--work", str(tmp_path), "--only", "attention,takes", "--minutes", "1"]
    assert main(given) == 1
    told = capsys.readouterr()
    assert "takes/past-dense: not begun" in told.out
    assert "not done: attention/table\nthe same command goes on" in told.err
