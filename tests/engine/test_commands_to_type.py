"""Commands that messages, pages and records show can be pasted into a shell, whatever a folder is called."""

from __future__ import annotations

import ast
import html
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from report_run import SCENES, make_run
from typer.testing import CliRunner

from engine import cli
from engine.errors import RetakeError
from engine.report.write import write_report
from engine.runs.choices import choose
from engine.runs.folder import run_lost
from engine.runs.store import RunStore
from engine.runs.takes import refuse_changed
from engine.words import command_line

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = "|".join(sorted(typer.main.get_command(cli.app).commands))
BY_HAND = re.compile(
    rf"\b(?:retake (?:{COMMANDS})|python -m [\w.]+)\b[^`;,]*\{{|^(?:.*: )?retake (?:{COMMANDS}) ?$"
)
FINISHED, FAILED, UNFINISHED = SCENES[0][0], SCENES[4][0], SCENES[5][0]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("retake", "resume", "runs/first"), "retake resume runs/first"),
        (("retake", "resume", Path("runs/first try")), "retake resume 'runs/first try'"),
        (("retake", "scenes", "OUT", "--seed", 7), "retake scenes OUT --seed 7"),
    ],
)
def test_only_what_needs_it_is_quoted(words: tuple[object, ...], line: str) -> None:
    assert command_line(*words) == line


def by_hand(source: str) -> Iterator[str]:
    """Strings that hold a command and are to be filled in, or continued, without `command_line`."""
    tree = ast.parse(source)
    inner = {id(part) for one in ast.walk(tree) if isinstance(one, ast.JoinedStr) for part in one.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else f"{{{ast.unparse(part)}}}"
                for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            text = node.value
        else:
            continue
        if found := BY_HAND.search(text):
            yield found[0]


@pytest.mark.parametrize(
    "source",
    [
        'f"go on: retake resume {folder}"',
        'f"`retake choose {folder} {scenario} --undo` ends it"',
        'f"retake scenes OUT --seed {seed}"',
        'f"make it: python -m bench.perf.models --out {out}"',
        '"retake score {}".format(folder)',
        '"go on: retake resume " + str(folder)',
        '" ".join(("retake unpause", str(folder)))',
    ],
)
def test_a_command_by_hand_is_found(source: str) -> None:
    assert len(list(by_hand(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "f\"go on: {command_line('retake', 'resume', folder)}\"",
        'f"judged by `retake choose`, of {num}"',
        'f"has version {num}; this retake reads up to {most}"',
    ],
)
def test_other_words_are_not(source: str) -> None:
    assert not list(by_hand(source))


@pytest.mark.parametrize("house", ["engine", "export", "bench"])
def test_no_command_is_put_together_by_hand(house: str) -> None:
    found = {
        f"{path.relative_to(ROOT)}": told
        for path in sorted((ROOT / house).rglob("*.py"))
        if (told := list(by_hand(path.read_text(encoding="utf-8"))))
    }
    assert found == {}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs") / "the cat's first"
    place.mkdir()
    return make_run(place)


def test_lines_of_commands_can_be_pasted(run: Path) -> None:
    said = CliRunner().invoke(cli.app, ["choose", str(run), FINISHED, "0"]).output
    undo, again = (
        next(line for line in said.splitlines() if key in line) for key in ("undo: ", "score again")
    )
    assert shlex.split(undo.partition("undo: ")[2]) == ["retake", "choose", str(run), FINISHED, "--undo"]
    assert shlex.split(again.partition("score again: ")[2]) == ["retake", "score", str(run)]


def test_a_fix_on_a_narrow_terminal_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    said = CliRunner().invoke(cli.app, ["pause", str(run)]).stderr
    (fix,) = (line for line in said.splitlines() if line.startswith("Fix: "))
    assert pasted(fix) == ["retake", "resume", str(run)]


REFUSED: tuple[tuple[Callable[[Path], object], list[str]], ...] = (
    (lambda run: choose(run, UNFINISHED, 0), ["resume"]),
    (lambda run: RunStore.create(run, ()), ["resume"]),
    (lambda run: refuse_changed(run, {(FINISHED, 0): "a.mp4"}), ["resume", "--remake-takes"]),
)


@pytest.mark.parametrize(("refused", "words"), REFUSED)
def test_a_fix_can_be_pasted(run: Path, refused: Callable[[Path], object], words: list[str]) -> None:
    with pytest.raises(RetakeError) as told:
        refused(run)
    assert pasted(told.value.fix) == ["retake", words[0], str(run), *words[1:]]


def test_a_run_that_lost_its_disk_can_be_resumed_by_what_is_told(run: Path) -> None:
    assert pasted(run_lost(run, "No space left on device").fix) == ["retake", "resume", str(run)]


def test_commands_of_the_report_can_be_pasted(run: Path) -> None:
    page = html.unescape(write_report(run).read_text(encoding="utf-8"))
    shown = {tuple(shlex.split(line)) for line in re.findall(r"<code[^>]*>(retake [^<]*)</code>", page)}
    assert ("retake", "resume", str(run)) in shown


def pasted(text: str) -> list[str]:
    """The words of the command in a message: to the closing backtick, or to the end."""
    return shlex.split(re.search(r"retake [^`]*", text)[0])  # type: ignore[index]
