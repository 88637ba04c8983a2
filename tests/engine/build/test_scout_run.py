"""Scout runs with real small models: whole, killed while they scout, damaged, merged; by the command line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fake_run import gains
from run_documents import faults, read
from tiny_run import Folders, Silent, make_folders, script_the_critic
from typer.testing import CliRunner, Result

from engine import cli
from engine.build import prepare as preparing
from engine.build.choosing import Choosing
from engine.build.merge import merge
from engine.build.run import build_run, resume_run
from engine.report.write import gather
from engine.runs.store import RunStore
from engine.settings.config import RunConfig, read_config
from engine.types import Scout
from engine.video.files import probe

OPTIONS = (
    *("--loop", "scout", "--scouts", 4, "--scout-steps", 1, "--scout-form", "first", "--loops", 0),
    *("--steps", 3, "--limit", 1, "--device", "cpu", "--dtype", "fp32"),
)


class Watching(Silent):
    """Raises KeyboardInterrupt once scout number `last` is stored."""

    def __init__(self, last: int | None = None) -> None:
        super().__init__()
        self.last = last
        self.scouts: list[tuple[str, int]] = []

    def scout(self, scenario_id: str, scout: Scout) -> None:
        self.scouts.append((scenario_id, scout.number))
        if scout.number == self.last:
            raise KeyboardInterrupt

    def ranked(self, scenario_id: str, scouts: Sequence[Scout]) -> None: ...


@pytest.fixture(scope="module")
def patched() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def scripted(patched: pytest.MonkeyPatch) -> None:
    patched.setenv("RETAKE_THREADS", "1")
    script_the_critic(patched)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("tiny"))


def call(*arguments: object, status: int = 0) -> str:
    done: Result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert done.exit_code == status, done.output
    return done.output


def run(folders: Folders, out: Path, *more: object, status: int = 0) -> str:
    models = ("--generator", folders.generator, "--critic", folders.critic)
    return call("run", folders.dataset, *models, *OPTIONS, *more, "--out", out, status=status)


@pytest.fixture(scope="module")
def whole(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run, and what it said."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, run(folders, out)


def cut(config: RunConfig, display: Watching) -> None:
    with build_run(config) as run, pytest.raises(KeyboardInterrupt):
        run.execute(display)


def resumed(folder: Path) -> list[int]:
    """The scouts that are made, or made again."""
    with resume_run(folder) as rest:
        rest.execute(display := Watching())
    return [number for _, number in display.scouts]


def facts(folder: Path) -> list[object]:
    """All that is stored, but for the time it took: scouts, attempts, outcomes, digests of all videos."""
    with RunStore.open(folder, read_only=True) as store:
        found: list[object] = [store.scouts.digests(), store.video_digests(), store.overview.choices()]
        for one in store.scenarios():
            scouts = [replace(scout, timings={}) for scout in store.scouts.of(one.id)]
            takes = [(a.prompt, a.round, a.selector_scores) for a in store.attempts(one.id)]
            found += [one.id, scouts, takes]
        return found


def test_the_terminal_and_the_report_tell_every_scout(whole: tuple[Path, str]) -> None:
    out, said = whole
    assert "4 scouts of 1 step by consensus:" in said and "2 scouts of 2 steps by consensus:" in said
    assert "; it is scout " in said
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count('data-role="scout"') == 6 and "Take 0 is scout" in page
    again = call("resume", out, "--dry-run")
    assert "1 take is there and 6 scouts" in again
    assert "1 of 6 scouts" in call("runs", "list", out.parent)


def test_what_is_stored_of_scouts(whole: tuple[Path, str]) -> None:
    out, _ = whole
    with RunStore.open(out, read_only=True) as store:
        (one,) = store.scenarios()
        ((take,), looks) = store.attempts(one.id), store.scouts.of(one.id)
    assert [look.form.steps for look in looks] == [1] * 4 + [2] * 2
    assert [look.prompt.revision for look in looks[:4]] == [0, 0, 1, 1]
    assert all(probe(out / look.video_path).num_frames == 40 for look in looks)
    assert [look.prompt for look in looks if look.stage == 1 and look.kept] == [take.prompt]
    assert faults(read(out)) == []


def test_killed_while_it_scouts_nothing_is_lost_and_a_damaged_preview_is_made_again(
    folders: Folders, whole: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    config = replace(read_config(whole[0]), out=out)
    cut(config, Watching(2))
    with RunStore.open(out, read_only=True) as store:
        (one,) = store.scenarios()
        stored = store.scouts.of(one.id)
    assert [scout.place for scout in stored] == [None] * 3
    (out / stored[0].video_path).unlink()
    (out / stored[1].video_path).write_bytes(b"another")
    assert resumed(out) == [0, 1, 3, 4, 5], "scout 2 was stored, and is whole"
    assert facts(out) == facts(whole[0])


def test_a_batch_that_was_cut_is_completed(folders: Folders, tmp_path: Path) -> None:
    """Two of three candidates share a forward; one of them was stored."""
    more = ("--scout-halvings", 0, "--scout-form", "whole", "--scout-shrink", 2)
    run(folders, whole := tmp_path / "whole", "--scouts", 3, "--scout-batch", 2, *more)
    config = replace(read_config(whole), out=tmp_path / "run")
    cut(config, Watching(0))
    assert resumed(config.out) == [1, 2]
    assert facts(config.out) == facts(whole)
    assert "of 1/2 of the sides, up to 2 in one forward" in (whole / "report.html").read_text(
        encoding="utf-8"
    )
    scout, take = (probe(next(whole.rglob(name))) for name in ("scout-0.mp4", "attempt-0.mp4"))
    assert (2 * scout.width, 2 * scout.height) == (take.width, take.height)


def test_killed_before_its_restarts_a_take_is_the_same_also_of_a_lost_preview(
    folders: Folders, tmp_path: Path
) -> None:
    """Where scouts disagree is read from their previews, which were compared and are not asked otherwise."""
    more = ("--scouts", 3, "--scout-halvings", 0, "--finish-restarts", 1, "--restart-steps", 2)
    run(folders, whole := tmp_path / "whole", *more)
    config = replace(read_config(whole), out=tmp_path / "run")

    class UntilCompared(Watching):
        def ranked(self, scenario_id: str, scouts: Sequence[Scout]) -> None:
            raise KeyboardInterrupt

    cut(config, UntilCompared())
    with RunStore.open(config.out, read_only=True) as store:
        (one,) = store.scenarios()
        stored = store.scouts.of(one.id)
    assert [scout.place is None for scout in stored] == [False] * 3
    (config.out / stored[1].video_path).write_bytes(b"another")
    assert resumed(config.out) == [1] and facts(config.out) == facts(whole)
    assert takes(whole) == takes(config.out) != takes(run_without(folders, tmp_path, more[:4]))
    said = " ".join((whole / "report.html").read_text(encoding="utf-8").split())
    assert "; step 2 taken once more from fresh noise in 25 % of it" in said


def takes(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("attempt-*.mp4"))]


def run_without(folders: Folders, parent: Path, more: Sequence[object]) -> Path:
    run(folders, out := parent / "plain", *more)
    return out


def test_merging_keeps_scouts_also_of_a_lost_preview(whole: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path / "run")
    next((tmp_path / "run").rglob("scout-0.mp4")).unlink()
    merge([tmp_path / "run"], tmp_path / "merged")
    assert facts(tmp_path / "merged") == facts(whole[0])
    (record, *_) = gather(tmp_path / "merged").records
    assert len(record.scouts) == 6


def test_what_cannot_be_scouted_is_refused_before_a_folder_is_made(folders: Folders, tmp_path: Path) -> None:
    said = run(folders, tmp_path / "run", "--scout-steps", 3, status=2)
    assert "no cheaper than a take" in " ".join(said.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("last", [1, 4, 7, 10])
def test_killed_in_any_round_and_in_any_order_the_run_is_the_same(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    chosen_by = Choosing(gain=gains(5.0), why="as the test says")
    monkeypatch.setattr(preparing, "choosing", lambda *arguments, **options: chosen_by)
    settings: dict[str, object] = {
        **{"generator.steps": 3, "loop.method": "scout", "loop.scouts": 4, "loop.scout_steps": 1},
        **{"loop.loops": 1, "loop.scout_form": "first"},
    }
    serial = {**settings, "schedule.overlap": False, "schedule.ahead": 1}
    with build_run(folders.config(tmp_path / "serial", settings=serial)) as one:
        assert [len(outcome.attempts) for outcome in one.execute(Watching()).values()] == [2, 2]
    out = tmp_path / "run"
    cut(folders.config(out, settings=settings), Watching(last))
    resumed(out)
    assert facts(out) == facts(tmp_path / "serial")
