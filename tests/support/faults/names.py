"""Names that users have, and that break programs: of clips, which name folders and files, and of run folders.

Each is refused with a clear error before anything is generated, or used to the end.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from faults.evidence import read_state
from faults.trial import Finding, Trial, message
from faults.workload import Workload

NAMES = (
    *("a b", " leading", "trailing ", "tab\tin it", "line\nin it", "line\r\nin it", "a\u2028b"),
    *("ä ö ü", "名前", "🎾" * 20, "e\u0301", "nul\u202egpj", "\u200bzero", "İ", "ß"),
    *("-rf", "--out", "-", "--", "@file", "~", "~root", "$(id)", "`id`", "${HOME}", "%s%n", "%41", "50%"),
    *("#1", "a?b", "a*b", "a:b", "a|b", "a;b", "a&b", "a\\b", "'; DROP TABLE attempts; --", '"quoted"', "'"),
    *("[red]x", "[bold]", "<img src=x onerror=alert(1)>", "{{ 7*7 }}", "{% raw %}", "\x1b[31mred", "\x07"),
    *(".hidden", "..a", "a..", "a.", "...", "CON", "nul", "run.sqlite", "attempt-0", "manifest.json"),
    *("a" * 200, "a" * 230, "a" * 240, "a" * 251, "é" * 125, "\udcff", "a\udce4b"),
)
OUT_NAMES = ("a b", "ä#?%41&", "[red]", "-out", "line\nin it", "'\"", "a" * 250, "\udcff", "$(id)", "名前")
REFUSED = 2


def named() -> Iterator[Trial]:
    for name in NAMES:
        yield Trial(fault="names of clips", name=ascii(name), run=lambda load, name=name: _clip(load, name))
    for name in OUT_NAMES:
        yield Trial(
            fault="names of run folders", name=ascii(name), run=lambda load, name=name: _out(load, name)
        )


def _clip(shared: Workload, name: str) -> Finding:
    place = shared.folder()
    dataset = place / "dataset"
    dataset.mkdir(parents=True)
    source = next(shared.dataset.glob("*.mp4"))
    try:
        shutil.copyfile(source, dataset / f"{name}.mp4")
        (dataset / f"{name}.txt").write_text("A square slides.")
    except OSError as error:
        shared.remove(place)
        return Finding(skipped=f"this file system has no such name: {error.strerror}")
    found = _to_the_end(replace(shared, dataset=dataset), place / "run")
    shared.remove(place)
    return found


def _out(load: Workload, name: str) -> Finding:
    place = load.folder()
    found = _to_the_end(load, place / name)
    load.remove(place)
    return found


def _to_the_end(load: Workload, out: Path) -> Finding:
    """Run, report and resume; each scenario is done, or it failed, or nothing was begun, before a take."""
    finding = Finding()
    ended = load.run(load.begin(out))
    finding.message = message(ended.output)
    if ended.status == REFUSED and not ended.unclear:
        if out.is_dir() and any(out.rglob("*.mp4")):
            finding.unclear.append(f"refused only after takes were made: {finding.message}")
        return finding
    report, resumed = (load.run([verb, str(out)]) for verb in ("report", "resume"))
    state = read_state(out)
    failed = [row["failure"] for row in state.outcomes.values() if row["failure"] is not None]
    for one, expected in ((ended, int(bool(failed))), (report, 0), (resumed, int(bool(failed)))):
        if one.unclear or one.status != expected:
            finding.unclear.append(f"status {one.status}: {one.output[-400:]}")
    finding.message = finding.message or "".join(failed[:1])[:160]
    finding.damage.corrupt += state.unreadable
    num_done = len(state.outcomes) - len(failed)
    if not state.outcomes or num_done != len(state.chosen) or (failed and state.attempts):
        finding.damage.unequal.append(
            f"{num_done} outcomes, {len(state.chosen)} chosen clips, failed after a take: {failed}"
        )
    return finding
