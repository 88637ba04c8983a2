"""What every command has in common, through the command line: help, version, -v, -q, --set, --json, logs."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from evaluators import catch_evaluators
from tiny_run import Folders, make_folders, script_the_critic
from typer.testing import CliRunner, Result

import engine
from engine import cli
from engine.build import doctor
from engine.build.checks import Check
from engine.commands import _app, _output
from engine.commands._output import result_file
from engine.errors import ConfigError
from engine.runs.log_file import LOG, take_over_libraries
from engine.settings.config import RunConfig

HOSTILE = "a\x1b]0;owned\x07\n2026-01-01 INFO forged"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RETAKE_THREADS", "1")
    monkeypatch.chdir(tmp_path)


def call(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == status, f"{result.output}\n{result.exception!r}"
    return result


def process(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`retake` as users start it, with what `code` does first."""
    root = str(Path(engine.__file__).parents[1])
    source = f"import sys\nsys.path.insert(0, {root!r})\n{code}\nfrom engine.cli import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False, env=variables
    )


def leaves(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(leaves(typer.main.get_command(cli.app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_takes_the_common_options(path: tuple[str, ...]) -> None:
    short = call(*path, "-h").output
    assert short == call(*path, "--help").output
    for option in ("-v", "--verbose", "-q", "--quiet"):
        assert option in short.split(), option


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_arguments_are_shown_as_optional_or_repeated_once(path: tuple[str, ...]) -> None:
    """The help puts brackets and dots around names itself."""
    arguments = [one for one in COMMANDS[path].params if one.param_type_name == "argument"]
    names = [one.metavar or one.name for one in arguments]
    assert all(name.isidentifier() for name in names), names


def test_groups_take_short_help() -> None:
    for path in ((), ("dataset",), ("export",)):
        assert "Commands" in call(*path, "-h").output


def test_version() -> None:
    done = process("sys.argv = ['retake', '--version']")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"retake {_output.version()}\n", "")


def test_the_shell_completes_commands_options_and_values() -> None:
    def completed(words: str) -> list[str]:
        done = process(
            "sys.argv = ['retake']",
            _RETAKE_COMPLETE="complete_bash",
            COMP_WORDS=words,
            COMP_CWORD=str(len(words.split()) - (not words.endswith(" "))),
        )
        assert not done.stderr
        return done.stdout.split()

    assert {"--preset", "--set"} <= set(completed("retake run --"))
    assert completed("retake run --preset faste") == ["fastest"]
    assert completed("retake run --set loop.see") == ["loop.seed="]


@pytest.fixture
def speaker(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """A command that prints, warns and logs, as ours and as a library's."""
    made = _output.Commands(cls=_app._Group)

    @made.callback()
    def _root(verbose: _output.Verbose = 0, quiet: _output.Quiet = False) -> None:
        _output.speak(verbose, quiet)

    @made.command()
    def work(json_file: _output.JsonFile = None) -> None:
        _output.print_line("result")
        for name in ("engine.x", "theirs"):
            for level in (logging.DEBUG, logging.INFO, logging.WARNING):
                logger = logging.getLogger(name)
                logger.log(level, "%s says %s", name, logging.getLevelName(level).lower())
        warnings.warn("from python", stacklevel=1)
        _output.write_json({"a": [float("nan"), 1.5], "path": Path("p")}, json_file)

    return made


def said(app: typer.Typer, *arguments: str) -> tuple[str, list[str]]:
    """Stdout, and who said what on stderr."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    lines = [line.partition(": ")[2] for line in result.stderr.splitlines() if " says " in line]
    return result.stdout, lines + [
        "python" for line in result.stderr.splitlines() if "UserWarning: from python" in line
    ]


WARNS = "engine.x says warning"
CHOICES = "engine.x says info"


@pytest.mark.parametrize(
    ("arguments", "stdout", "heard"),
    [
        (["work"], "result\n", [WARNS]),
        (["work", "-v"], "result\n", [CHOICES, WARNS, "theirs says warning", "python"]),
        (["-v", "work"], "result\n", [CHOICES, WARNS, "theirs says warning", "python"]),
        (["work", "--quiet"], "", []),
        (["-q", "work"], "", []),
    ],
    ids=["as it is", "-v", "-v in front", "-q", "-q in front"],
)
def test_how_much_is_said(speaker: typer.Typer, arguments: list[str], stdout: str, heard: list[str]) -> None:
    assert said(speaker, *arguments) == (stdout, heard)


@pytest.mark.parametrize("style", ["red", "yellow"])
def test_what_went_wrong_is_on_stderr_also_where_it_is_quiet(speaker: typer.Typer, style: str) -> None:
    @speaker.command()
    def fail() -> None:
        _output.print_line("it broke", style)

    for arguments in (["fail"], ["fail", "-q"]):
        result = CliRunner().invoke(speaker, arguments)
        assert (result.stdout, result.stderr) == ("", "it broke\n")


def test_twice_verbose_says_every_detail_and_the_next_command_is_as_before(speaker: typer.Typer) -> None:
    assert "engine.x says debug" in said(speaker, "work", "-vv")[1]
    assert said(speaker, "work") == ("result\n", [WARNS])


def test_verbose_and_quiet_contradict_each_other(speaker: typer.Typer) -> None:
    for arguments in (["work", "-v", "-q"], ["-q", "work", "-v"], ["-v", "work", "-q"]):
        result = CliRunner().invoke(speaker, arguments)
        assert result.exit_code == 2 and "contradict" in result.stderr and "Fix:" in result.stderr


def test_json_on_stdout_is_alone_there(speaker: typer.Typer) -> None:
    for more in ([], ["-q"]):
        result = CliRunner().invoke(speaker, ["work", "--json", "-", *more])
        assert json.loads(result.stdout) == {"a": [None, 1.5], "path": "p"}
        assert ("result" in result.stderr) == (not more)
    assert said(speaker, "work", "--json", "out.json")[0].splitlines() == ["result", "written: out.json"]
    assert json.loads(Path("out.json").read_text())["path"] == "p"


def test_a_result_that_cannot_be_written_is_refused_before_the_work(speaker: typer.Typer) -> None:
    Path("a folder").mkdir()
    Path("a file").touch()
    for where, says in (("a folder", "a folder/result.json"), ("a file/x/out.json", "a file is a file")):
        result = CliRunner().invoke(speaker, ["work", "--json", where])
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        assert says in " ".join(result.stderr.replace("│", " ").split())
    assert "written: new/out.json" in said(speaker, "work", "--json", "new/out.json")[0]
    assert said(speaker, "work", "--json", "/dev/null")[0].startswith("result")


def test_one_without_rights_is_refused_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Root has all rights, so the system's answer is given here."""
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(ConfigError, match="is not yours to write in"):
        result_file(tmp_path / "new" / "out.json")
    assert result_file(Path("-")) == Path("-") and result_file(None) is None


def test_records_and_names_in_them_are_shown_as_text(speaker: typer.Typer) -> None:
    @speaker.command()
    def hostile() -> None:
        logging.getLogger("engine.x").warning("clip %s", HOSTILE)

    stderr = CliRunner().invoke(speaker, ["hostile"]).stderr
    assert "\x1b]" not in stderr and "\x07" not in stderr
    assert [line[:4] for line in stderr.splitlines()] == ["WARN", "    "], "no line is forged"


def test_what_libraries_print_themselves_is_taken_over() -> None:
    logger = logging.getLogger("a_library")
    logger.addHandler(logging.StreamHandler(sys.stderr))
    kept = logging.NullHandler()
    logger.addHandler(kept)
    logger.propagate = False
    take_over_libraries()
    assert logger.handlers == [kept] and logger.propagate


def test_evaluators_are_as_quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    catch_evaluators(monkeypatch, status=0)
    outputs: list[int | None] = []
    real = subprocess.Popen

    def start(command: list[str], stdout: int | None = None) -> Any:
        outputs.append(stdout)
        return real(command)

    monkeypatch.setattr(subprocess, "Popen", start)
    call("table", tmp_path)
    call("table", tmp_path, "-q")
    assert outputs == [None, subprocess.DEVNULL]


@pytest.mark.parametrize(
    ("ends", "status", "says"),
    [
        ("print('error: x is not scored', file=sys.stderr); sys.exit(2)", 2, []),
        ("sys.exit(3)", 3, ["bench.table.make ended with status 3"]),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, ["bench.table.make was ended by SIGKILL"]),
    ],
)
def test_only_what_an_evaluator_could_not_say_itself_is_said_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends: str, status: int, says: list[str]
) -> None:
    real = subprocess.Popen

    def start(command: list[str], stdout: int | None = None) -> Any:
        return real([sys.executable, "-c", f"import os, signal, sys; {ends}"])

    monkeypatch.setattr(subprocess, "Popen", start)
    assert call("table", tmp_path, status=status).stderr.splitlines() == says


def test_doctor_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Check(name="b thing", ok=False, detail="absent", required=True, fix="get it")
    monkeypatch.setattr(doctor, "examine", lambda: [missing])
    document = json.loads(call("doctor", "--json", "-", status=1).stdout)
    assert document == {
        "can_run": False,
        "checks": [{"name": "b thing", "ok": False, "detail": "absent", "required": True, "fix": "get it"}],
    }


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("loop.loop=2", "nearest: loop.loops"),
        ("loops", "KEY=VALUE"),
        ("loop.loops=many", "loop.loops is 'many', which is not a whole number"),
        ("loop.loops=65", "out of range"),
        ("schedule.overlap=perhaps", "true or false"),
        ("denoise.preset=quick", "exact, fast, fastest"),
        ("loop.patience=3", "loop.patience is given twice, by --patience and by --set"),
    ],
)
def test_what_set_cannot_mean_is_refused(assignment: str, says: str) -> None:
    output = " ".join(call("run", "scenes", "--patience", 2, "--set", assignment, status=2).output.split())
    assert says in output and "Fix:" in output


def test_set_reaches_settings_of_every_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved: list[RunConfig] = []

    def keep(config: RunConfig) -> None:
        resolved.append(config)
        raise ConfigError("far enough", fix="none")

    monkeypatch.setattr("engine.build.run.build_run", keep)
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "a.mp4").touch()
    (tmp_path / "scenes" / "a.txt").write_text("A ball.")
    (tmp_path / "s.toml").write_text("[loop]\nloops = 9\nseed = 5\n")
    given = ("dataset=scenes", "loop.loops=1", "loop.loops=2", "schedule.overlap=false")
    given += (
        "loop.selectors=consensus, critic_score",
        "generator.guidance_scale=2",
        "generator.negative=a=b",
    )
    call("run", "--config", "s.toml", *(part for one in given for part in ("--set", one)), status=2)
    (config,) = resolved
    assert config.dataset == tmp_path / "scenes" and not config.schedule.overlap
    assert (config.loop.loops, config.loop.seed) == (2, 5)
    assert config.loop.selectors == ("consensus", "critic_score")
    assert (config.generator.guidance_scale, config.generator.negative) == (2.0, "a=b")


def run_options(folders: Folders) -> list[object]:
    models = ["--generator", folders.generator, "--critic", folders.critic]
    return [folders.dataset, *models, "--device", "cpu", "--dtype", "fp32"]


def test_a_dry_run_checks_all_and_writes_nothing(folders: Folders, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = call("run", *run_options(folders), "--out", out, "--dry-run", "--json", "-")
    document = json.loads(result.stdout)
    assert (document["num_scenarios"], document["num_refused"], document["time"]) == (2, 0, None)
    assert document["memory"]["required_bytes"] > 0 and document["preset"] == "exact"
    assert not out.exists()
    call("run", tmp_path / "absent", *run_options(folders)[1:], "--out", out, "--dry-run", status=2)


def test_a_run_keeps_a_log_and_tells_its_outcomes_as_json(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_the_critic(monkeypatch)
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", False)  # as in a process of ours
    out, document = tmp_path / "run", tmp_path / "run.json"
    quiet = call("run", *run_options(folders), "--loops", 0, "--out", out, "--json", document, "-q")
    assert (quiet.stdout, quiet.stderr) == ("", "")
    found = json.loads(document.read_text())
    assert found["report"] == str(out / "report.html")
    assert [(one["chosen"], one["failure"], len(one["takes"])) for one in found["scenarios"]] == [
        (0, None, 1)
    ] * 2
    assert all((out / one["takes"][0]["video"]).is_file() for one in found["scenarios"])
    lines = (out / LOG).read_text().splitlines()
    ids = [one["id"] for one in found["scenarios"]]
    assert sum("outcome scenario=" in line for line in lines) == 2
    assert all(any(f"take scenario={name} take=0" in line for line in lines) for name in ids)
    again = json.loads(call("resume", out, "--json", "-").stdout)
    assert again["scenarios"] == found["scenarios"]
    assert len((out / LOG).read_text().splitlines()) == len(lines) + 1, "resuming appends"
    chosen = json.loads(call("select", out, "--json", "-").stdout)
    assert [one["chosen"] for one in chosen["scenarios"]] == [0, 0]


def test_a_failed_scenario_is_told_on_stderr_and_its_traceback_logged(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.generators.wan.job import WanJob

    def fail(self: WanJob) -> None:
        raise ValueError(HOSTILE)

    script_the_critic(monkeypatch)
    monkeypatch.setattr(WanJob, "launch", fail)
    result = call("run", *run_options(folders), "--limit", 1, "--out", tmp_path / "run", "-q", status=1)
    assert result.stdout == "" and "failed: ValueError" in result.stderr
    text = (tmp_path / "run" / LOG).read_text()
    assert "Traceback" in text and "in fail" in text and "\x1b" not in text
    assert not any(line.startswith("2026-01-01 INFO forged") for line in text.splitlines())


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_missing_caption_is_told_before_any_model_library_is_imported(verb: str, tmp_path: Path) -> None:
    (tmp_path / "red.mp4").touch()
    code = (
        "import atexit\n"
        "libraries = {'torch', 'transformers', 'diffusers'}\n"
        "atexit.register(lambda: print('imported:', *libraries.intersection(sys.modules)))\n"
        f"sys.argv = ['retake', {verb!r}, {str(tmp_path)!r}]"
    )
    done = process(code)
    assert done.returncode == 2 and "red.mp4" in done.stderr
    assert done.stdout == "imported:\n"
