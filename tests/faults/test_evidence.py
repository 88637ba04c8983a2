"""Each defect that the harness counts, put into a run by hand, is reported as what it is."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from faults.evidence import Damage, announced, compare, read_state
from faults.workload import DrawnGenerator
from scripted_critic import ScriptedCritic

from engine.runs.store import RunStore
from engine.types import Attempt, Clip, Outcome, Prompt, Scenario
from engine.video.files import write_mp4

IDS = ("scene-0", "scene-1")
CLIP = Clip(path=Path("x.mp4"), fps=8.0, num_frames=24, width=32, height=32)
SCENES = [Scenario(id=i, text="A ball.", prefix=CLIP, category="", output_name=f"{i}.mp4") for i in IDS]


def make_run(folder: Path, *, first_seconds: float = 1.0, num_scenes: int = 2, outcome: bool = True) -> None:
    """Two takes a scenario; `first_seconds` is a clock that no two runs have in common."""
    critic, generator = ScriptedCritic(), DrawnGenerator()
    with RunStore.create(folder, SCENES) as store:
        for scene in SCENES[:num_scenes]:
            store.plan(scene.id, replace(critic.plan(scene).value, seconds=first_seconds))
            takes = []
            for index in range(2):
                prompt = Prompt(text=f"A ball {index}.", negative="", seed=index, revision=index)
                video = generator.start(scene, prompt).value
                path = store.video_path(scene.id, index)
                write_mp4(folder / path, video.frames, 8.0)
                critique = critic.start(scene, prompt, video, None).value
                takes.append(
                    Attempt(
                        index=index,
                        prompt=prompt,
                        video_path=path,
                        critique=critique,
                        round=index,
                        timings={"generate": first_seconds},
                    )
                )
                store.attempt(scene.id, takes[-1])
            if outcome:
                store.outcome(Outcome(scenario_id=scene.id, attempts=tuple(takes), chosen=1, stopped="loops"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evidence") / "run"
    make_run(folder)
    return folder


def sql(command: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with closing(sqlite3.connect(folder / "run.sqlite")) as database, database:
            database.execute("PRAGMA foreign_keys = OFF")
            database.execute("PRAGMA ignore_check_constraints = ON")
            database.execute(command)

    return change


def bytes_of(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return damage


def other_clip(folder: Path) -> None:
    """A clip that is whole, of other pictures: nobody sees it who only looks whether it can be read."""
    for name in ("videos/scene-0/attempt-1.mp4", "chosen/scene-0.mp4"):
        write_mp4(folder / name, np.zeros((8, 32, 32, 3), np.uint8), 8.0)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


TAKE = "scenario_id = 'scene-0' AND number = 1"


def copied_take(number: int, round_number: int) -> Callable[[Path], None]:
    """Of take 1, under another number; whatever columns the table has."""

    def change(folder: Path) -> None:
        with closing(sqlite3.connect(folder / "run.sqlite")) as database, database:
            database.execute(f"CREATE TEMP TABLE copy AS SELECT * FROM attempts WHERE {TAKE}")
            database.execute("UPDATE copy SET number = ?, round = ?", (number, round_number))
            database.execute("INSERT INTO attempts SELECT * FROM copy")

    return change


DEFECTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a row is gone": ("lost", sql(f"DELETE FROM attempts WHERE {TAKE}")),
    "a plan is gone": ("lost", sql("DELETE FROM plans WHERE scenario_id = 'scene-1'")),
    "an outcome is gone": ("lost", sql("DELETE FROM outcomes WHERE scenario_id = 'scene-1'")),
    "a take was made again": ("lost", sql(f"UPDATE attempts SET timings = '{{}}' WHERE {TAKE}")),
    "a critique is gone": ("lost", sql(f"UPDATE attempts SET critique = NULL WHERE {TAKE}")),
    "one take too many": ("duplicated", copied_take(2, 2)),
    "two takes of one place": ("duplicated", copied_take(2, 1)),
    "a clip is cut off": ("corrupt", bytes_of("videos/scene-0/attempt-0.mp4", lambda c: c[: len(c) // 2])),
    "a clip is gone": ("corrupt", lambda folder: (folder / "videos/scene-0/attempt-0.mp4").unlink()),
    "a bit of a chosen clip": ("corrupt", bytes_of("chosen/scene-1.mp4", flipped)),
    "a chosen clip is gone": ("corrupt", lambda folder: (folder / "chosen/scene-1.mp4").unlink()),
    "a block of the store": ("corrupt", bytes_of("run.sqlite", lambda c: c[:8192] + bytes(4096) + c[12288:])),
    "a manifest cut off": ("corrupt", lambda folder: (folder / "manifest.json").write_text('{"a": ')),
    "a row without its scenario": ("corrupt", sql("DELETE FROM scenarios WHERE id = 'scene-1'")),
    "another take is chosen": (
        "unequal",
        sql("UPDATE outcomes SET chosen = 0 WHERE scenario_id = 'scene-0'"),
    ),
    "another reason": ("unequal", sql("UPDATE outcomes SET stopped = 'accepted'")),
    "another prompt": ("unequal", sql(f'UPDATE attempts SET prompt = \'{{"text": "x"}}\' WHERE {TAKE}')),
    "other pictures": ("unequal", other_clip),
    "a bit of a take": ("unequal", bytes_of("videos/scene-0/attempt-1.mp4", flipped)),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_reported(run: Path, tmp_path: Path, defect: str) -> None:
    """The state before is that of the sound run: whatever differs happened after it."""
    cost, put_in = DEFECTS[defect]
    reference = read_state(run)
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    assert not compare(reference, [reference], read_state(folder), ["", ""])
    put_in(folder)
    damage = compare(reference, [reference], read_state(folder), ["", ""])
    assert getattr(damage, cost), f"{defect} is not counted as {cost}: {damage}"
    assert damage


def test_two_sound_runs_are_equal(run: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "other", first_seconds=2.0)
    found = compare(read_state(run), [], read_state(tmp_path / "other"), [""])
    assert found == Damage()


def test_an_unfinished_run_that_goes_on_is_equal(run: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "half", num_scenes=1, outcome=False)
    half, whole = read_state(tmp_path / "half"), read_state(run)
    assert not compare(whole, [half], whole, ["", ""]), "one clock: the same work"
    make_run(tmp_path / "again", first_seconds=3.0)
    lost = compare(whole, [half], read_state(tmp_path / "again"), ["", ""]).lost
    assert lost == ["plan of scene-0", "take ('scene-0', 0)", "take ('scene-0', 1)"]


def test_announcements_are_held_against_the_store(run: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "half", num_scenes=1, outcome=False)
    half, whole = read_state(tmp_path / "half"), read_state(run)
    said = "scene-0: take 1: revise, score 1.0\nscene-1: take 0: made\nscene-1: plan read in 0.1 s\n"
    damage = compare(whole, [half], whole, [said, ""])
    assert sorted(damage.lost) == [
        "scene-1: plan was announced and is not stored",
        "scene-1: take 0 was announced and is not stored",
    ]
    twice = compare(whole, [whole], whole, [said, "scene-0: take 1: revise"]).duplicated
    assert twice == ["scene-0: take 1 announced by 2 processes"]


def test_what_a_command_announces() -> None:
    output = (
        "scene-0: plan read in 0.1 s\nscene-0: take 3 (round 1, sample 1): revise\nnoise\n"
        "scene-0: winner of round 1: take 3: revise\nscene-0: chose take 3 of 4 (loops)\nother: take 0\n"
    )
    assert announced(output, ["scene-0"]) == {
        ("scene-0", "plan"),
        ("scene-0", "take 3"),
        ("scene-0", "winner of round 1"),
        ("scene-0", "chose"),
    }


def test_what_is_left_of_unfinished_work_is_no_defect_and_is_listed(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    (folder / "videos/scene-0/.attempt-2.mp4.00ff00ff.partial").write_bytes(b"half")
    (folder / "videos/scene-0/attempt-2.mp4").write_bytes(b"no row")
    reference = read_state(run)
    damage = compare(reference, [reference], read_state(folder), ["", ""])
    assert not damage
    assert sorted(damage.left_over) == [
        "videos/scene-0/.attempt-2.mp4.00ff00ff.partial",
        "videos/scene-0/attempt-2.mp4",
    ]
