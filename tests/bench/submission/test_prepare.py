"""A folder of clips to a folder of submissions: failures one by one, resuming, and the command around it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from odd_clips import with_made_up_frame
from submission_tree import numbers, write_clip, write_conditioning, write_tree
from typer.testing import CliRunner, Result

from bench.submission.convert import Settings
from bench.submission.prepare import Result as Prepared
from bench.submission.prepare import prepare, succeeded
from engine import cli
from engine.errors import ConfigError
from engine.video.files import read_frames, read_header

SETTINGS = Settings(fps=8)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", "200")
    names = write_tree(tmp_path / "data", num_scenes=1)
    write_conditioning(tmp_path / "data", names)
    return names


@pytest.fixture
def sources(tmp_path: Path, names: list[str]) -> dict[str, Path]:
    lengths = (64, 40, 30)  # with its prefix, valid, too short
    return {
        name: write_clip(tmp_path / "in" / f"{name[:4]}.mp4", length)
        for name, length in zip(names, lengths, strict=True)
    }


def run(
    names: list[str], sources: dict[str, Path], out: Path, settings: Settings = SETTINGS
) -> list[Prepared]:
    given = write_conditioning(next(iter(sources.values())).parents[1] / "data", names)
    return prepare(sources, names, out, settings, given, workers=2)


def actions(results: list[Prepared]) -> list[str]:
    return [result.action for result in results]


def test_a_bad_clip_costs_that_clip(names: list[str], sources: dict[str, Path], tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in sources.values()}
    results = run(names, sources, tmp_path / "out")
    assert actions(results) == ["re-encoded", "copied", "failed"]
    assert results[2].notes[0].startswith("too short: 3.750 s (30 frames)")
    assert not succeeded(results) and succeeded(results[:2])
    assert {path: path.read_bytes() for path in sources.values()} == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names[:2]


def test_a_case_without_a_file_is_missing(names: list[str], sources: dict[str, Path], tmp_path: Path) -> None:
    results = run(names, {names[1]: sources[names[1]]}, tmp_path / "out")
    assert actions(results) == ["missing", "copied", "missing"] and not succeeded(results)


def test_a_second_call_keeps_what_is_made(names: list[str], sources: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(names, sources, out)
    made = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    write_clip(sources[names[2]], 40)
    assert actions(run(names, sources, out)) == ["kept", "kept", "copied"]
    assert {name: (out / name).stat().st_mtime_ns for name in made} == made


@pytest.mark.parametrize("change", ["input", "settings"])
def test_an_output_of_another_input_or_setting_is_not_taken_for_ours(
    change: str, names: list[str], sources: dict[str, Path], tmp_path: Path
) -> None:
    out, name = tmp_path / "out", names[0]
    run(names, sources, out)
    settings = SETTINGS
    if change == "input":
        write_clip(sources[name], 65)
    else:
        settings = Settings(fps=8, skip_s=1.0)
    result = run(names, sources, out, settings)[0]
    assert result.action == "failed" and "made from another input or with other options" in result.notes[0]
    assert numbers(read_frames(out / name))[0] == 24
    given = write_conditioning(tmp_path / "data", names)
    again = prepare(sources, names, out, settings, given, force=True)[0]
    assert again.action == "re-encoded"
    assert numbers(read_frames(out / name))[0] == (24 if change == "input" else 8)


def test_a_foreign_output_is_kept_if_valid_and_never_overwritten(
    names: list[str], sources: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_clip(out / names[0], 40)
    write_clip(out / names[1], 39)
    bad = (out / names[1]).read_bytes()
    results = run(names, sources, out)
    assert results[0].action == "kept" and "not on record" in results[0].notes[0]
    assert results[1].action == "failed" and "39 frames, not 40" in results[1].notes[0]
    assert (out / names[1]).read_bytes() == bad


def test_an_output_that_was_damaged_since_is_not_kept(
    names: list[str], sources: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(names, sources, out)
    with_made_up_frame(out / names[1])
    result = run(names, sources, out)[1]
    assert result.action == "failed" and "damaged in frame" in result.notes[0]
    assert "--force" in result.notes[1]


def test_the_record_survives_a_line_cut_short(
    names: list[str], sources: dict[str, Path], tmp_path: Path
) -> None:
    run(names, sources, tmp_path / "out")
    record = tmp_path / "out.prepare.jsonl"
    entries = [json.loads(line) for line in record.read_text().splitlines()]
    assert sorted(entry["name"] for entry in entries) == names[:2]
    assert any("first 3 s" in entry["notes"][0] for entry in entries)
    record.write_text(record.read_text() + '{"name": "000')
    write_clip(sources[names[2]], 40)
    for _ in range(2):  # the line that follows the cut one is read again
        results = run(names, sources, tmp_path / "out")
    assert actions(results) == ["kept"] * 3
    assert {result.notes for result in results} == {("made by an earlier call",)}


def test_outputs_never_go_among_the_inputs(
    names: list[str], sources: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="is the folder of the inputs"):
        run(names, sources, tmp_path / "in")


def call(*arguments: object, status: int) -> Result:
    result = CliRunner().invoke(cli.app, ["prepare", *map(str, arguments)])
    assert result.exit_code == status, f"{result.output}\n{result.exception!r}"
    return result


def options(tmp_path: Path) -> list[object]:
    return [tmp_path / "in", "--dataset", tmp_path / "data", "--out", tmp_path / "out"]


def test_the_command_sums_up(names: list[str], sources: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "in" / "notes.txt").touch()
    (tmp_path / "data" / "physics-IQ-benchmark-verified" / "split-videos" / "testing" / "8FPS").mkdir(
        parents=True
    )
    text = call(*options(tmp_path), "--fps", 8, status=1).output
    for part in (
        "left out, as no videos: notes.txt",
        "first 3 s show the conditioning clip",
        "valid as it is, same bytes",
        "failed: 0003.mp4: too short: 3.750 s (30 frames); 5 s are needed; fix: generate longer clips",
        "2 of 3 clips are in",
    ):
        assert part in text
    write_clip(sources[names[2]], 40, size=(64, 16))
    text = call(*options(tmp_path), "--fps", 8, status=0).output
    assert "made by an earlier call" in text and "score them with: retake score" in text
    assert "several sizes (32x16: 2, 64x16: 1)" in text and "frame rate was changed" not in text


def test_the_command_warns_about_a_changed_and_an_unscorable_rate(
    names: list[str], sources: dict[str, Path], tmp_path: Path
) -> None:
    text = call(*options(tmp_path), "--fps", 25, "--size", "64x32", status=1).output
    assert "has no 25 FPS clips (found: none)" in text and "publishes 8, 16, 24, 30 and no other" in text
    assert "the score depends on it" in text
    header = read_header(tmp_path / "out" / names[0])
    assert (header.fps, header.width, header.height, header.container_s) == (25.0, 64, 32, 5.0)


def test_the_command_takes_a_table_of_names(
    names: list[str], sources: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "map.csv").write_text(f"file,generated_video_name\n0002.mp4,{names[0]}\n")
    text = call(*options(tmp_path), "--fps", 8, "--map", tmp_path / "map.csv", status=1).output
    assert "missing: 2 of 3 cases have no file" in text
    assert (tmp_path / "out" / names[0]).read_bytes() == (tmp_path / "in" / "0002.mp4").read_bytes()
