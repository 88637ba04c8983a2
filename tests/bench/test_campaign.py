"""The order of a campaign: what waits for what, what is repeated, what a failure holds up, what ends it."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench import campaign
from bench.campaign import CORES, GPU, Campaign, Step
from engine.errors import ConfigError

PLACES = {GPU: 2, CORES: 1}


def writing(name: str, text: str, out: Path, *after: str) -> Step:
    """Appends `text`, so that order and repetition show."""
    code = f"open({str(out)!r}, 'a').write({text!r})"
    return Step(name=name, words=("-c", code), after=after)


def test_steps_run_after_what_they_need_and_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = [
        writing("b", "b", out, "a"),
        writing("c", "c", out, "b"),
        writing("a", "a", out),
    ]
    for _ in range(2):
        assert Campaign(tmp_path, PLACES).carry_out(found) == []
    assert out.read_text() == "abc"


def test_a_failure_holds_up_only_what_needs_it_and_is_tried_again(tmp_path: Path) -> None:
    out, wish = tmp_path / "out", tmp_path / "wish"
    fails = Step(name="part/fails", words=("-c", f"print('why', flush=True); open({str(wish)!r})"))
    found = [fails, writing("needs-it", "n", out, "part/fails"), writing("other", "o", out)]
    assert Campaign(tmp_path, PLACES).carry_out(found) == ["part/fails", "needs-it"]
    assert out.read_text() == "o"
    assert "why" in (tmp_path / "logs" / "part-fails.log").read_text()
    wish.touch()
    assert Campaign(tmp_path, PLACES).carry_out(found) == []
    assert out.read_text() == "on"


def test_a_step_is_told_its_budget_and_not_begun_without_the_time_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No sleep: the clock stands still."""
    out = tmp_path / "out"
    code = f"import sys; open({str(out)!r}, 'a').write(' '.join(sys.argv[1:]) + ';')"
    found = [
        Step(name="own-end", words=("-c", code), most_s=30.0),
        Step(name="shorter", words=("-c", code), most_s=500.0, after=("own-end",)),
        Step(name="no-end", words=("-c", code), least_s=100.0, after=("shorter",)),
        Step(name="too-long", words=("-c", code), least_s=101.0),
        Step(name="behind-it", words=("-c", code), after=("too-long",)),
    ]
    carried = Campaign(tmp_path, PLACES, ends_s=150.0, now=lambda: 50.0).carry_out(found)
    assert carried == ["too-long", "behind-it"]
    assert out.read_text() == "--budget 30;--budget 90;;"
    assert "too-long: not begun: 100 s are left, 101 are needed" in capsys.readouterr().out


def test_what_outlives_the_time_is_stopped_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(campaign, "LOOK_EVERY_S", 0.05)
    child = tmp_path / "child"
    code = (
        "import subprocess, sys; "
        "one = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        f"open({str(child)!r}, 'w').write(str(one.pid)); one.wait()"
    )

    def now() -> float:
        """The time is over when the child is there."""
        return 100.0 if child.is_file() and child.read_text() else 0.0

    found = [Step(name="endless", words=("-c", code)), writing("next", "n", tmp_path / "out", "endless")]
    assert Campaign(tmp_path, PLACES, ends_s=100.0, now=now).carry_out(found) == ["endless", "next"]
    assert "endless: stopped at the end of the time" in capsys.readouterr().out
    assert is_gone(int(child.read_text()))


def test_an_interruption_stops_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(campaign, "LOOK_EVERY_S", 0.05)
    pid = tmp_path / "pid"
    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    wait = campaign.wait

    def interrupted(*given: object, **named: object) -> object:
        while not (pid.is_file() and pid.read_text()):
            threading.Event().wait(0.01)
        monkeypatch.setattr(campaign, "wait", wait)
        raise KeyboardInterrupt

    monkeypatch.setattr(campaign, "wait", interrupted)
    endless = Step(name="endless", words=("-c", code))
    assert campaign.exit_status(Campaign(tmp_path, PLACES), [endless]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert is_gone(int(pid.read_text()))


def is_gone(pid: int) -> bool:
    """Within ten seconds; a zombie that nobody waits for is gone too."""
    end_s = time.monotonic() + 10
    while time.monotonic() < end_s:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_each_step_on_a_gpu_sees_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    meet = "import os, pathlib, sys, time; me, other = map(pathlib.Path, sys.argv[1:]); "
    meet += "me.write_text(os.environ['CUDA_VISIBLE_DEVICES']); "
    meet += "[time.sleep(0.01) for _ in iter(other.exists, True)]"  # both run at once
    a, b, both = (tmp_path / name for name in ("a", "b", "both"))
    found = [
        Step(name="a", kind=GPU, words=("-c", meet, str(a), str(b))),
        Step(name="b", kind=GPU, words=("-c", meet, str(b), str(a))),
        Step(name="both", kind=GPU, places=2, words=("-c", meet, str(both), str(a))),
    ]
    assert Campaign(tmp_path, PLACES).carry_out(found) == []
    assert {a.read_text(), b.read_text()} == {"3", "5"} and both.read_text() == "3,5"
    with pytest.raises(ConfigError, match="both takes 2 places of 'gpu', and there are 1"):
        Campaign(tmp_path, {GPU: 1}).carry_out(found)


def test_what_takes_all_places_is_not_overtaken(tmp_path: Path) -> None:
    """Unless what it waits for has failed."""
    out = tmp_path / "out"
    both = replace(writing("both", "b", out, "first"), kind=GPU, places=2)
    others = [replace(writing(name, name, out), kind=GPU) for name in ("1", "2", "3")]
    found = [replace(writing("first", "f", out), kind=GPU), both, *others]
    assert Campaign(tmp_path / "well", PLACES).carry_out(found) == []
    assert out.read_text()[:2] == "fb" and sorted(out.read_text()[2:]) == ["1", "2", "3"]
    out.unlink()
    found[0] = Step(name="first", kind=GPU, words=("-c", "raise SystemExit(1)"))
    assert Campaign(tmp_path / "failed", PLACES).carry_out(found) == ["first", "both"]
    assert sorted(out.read_text()) == ["1", "2", "3"]


def test_one_gpu_is_left_as_the_user_chose_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,8")
    out = tmp_path / "out"
    code = f"import os; open({str(out)!r}, 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])"
    assert Campaign(tmp_path, {GPU: 1}).carry_out([Step(name="a", kind=GPU, words=("-c", code))]) == []
    assert out.read_text() == os.environ["CUDA_VISIBLE_DEVICES"]


def test_of_those_that_write_one_file_one_runs_at_a_time(tmp_path: Path) -> None:
    """Each fails where the other is at work."""
    held = tmp_path / "held"
    code = f"import os, time; os.mkdir({str(held)!r}); time.sleep(0.2); os.rmdir({str(held)!r})"
    found = [Step(name=name, kind=GPU, words=("-c", code), writes="one.json") for name in "ab"]
    assert Campaign(tmp_path, PLACES).carry_out(found) == []
