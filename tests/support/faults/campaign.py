"""Every trial there is, each written down as soon as it is over, and the table of all of them.

A stopped campaign goes on where it was. Invariant: what was found with other sources is not mixed in.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from rich.progress import Progress

from engine.runs.manifest import collect
from faults import damage, hostile, inputs, interruptions, names, races, storage, syscalls
from faults.soak import summary_of
from faults.trial import Trial
from faults.workload import BEST_OF_TWO, Workload, quick, real

ROOT = Path(__file__).resolve().parents[3]
COSTS = ("lost", "duplicated", "corrupt", "unequal")
MAX_EXAMPLES = 3
COMMAND = "make faults"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Trials of one workload."""

    load: Workload
    trials: Sequence[Trial]


def parts(root: Path, *, stride: int = 1) -> Iterator[Part]:
    """The campaign; with a `stride` every so many-th of the trials that are numbered by file event.

    Real models are killed; what does not depend on them is tried with the stand-ins, ten times as often.
    """
    plain, looks = real(root / "real"), real(root / "best-of-two", options=BEST_OF_TWO)
    drawn = quick(root / "quick")
    yield Part(
        load=plain,
        trials=[
            *interruptions.kills_at_events(plain, stride=stride),
            *interruptions.kills_again_and_again(plain, 10 // stride),
            *interruptions.kills_at_moments(2.0, 30 // stride),
        ],
    )
    yield Part(
        load=looks,
        trials=list(interruptions.kills_at_events(looks, stride=4 * stride, what=", best of two")),
    )
    yield Part(
        load=drawn,
        trials=[
            *interruptions.kills_at_events(drawn, stride=stride, what=", stand-ins"),
            *interruptions.kills_again_and_again(drawn, 20 // stride, what=", stand-ins"),
            *interruptions.signals(drawn, stride=10 * stride),
            *storage.injected(drawn, stride=8 * stride),
            *storage.mounted(sizes_kib=range(16, 320, 32 * stride)),
            *inputs.changed(seeds=max(1, 2 // stride)),
            *races.races(count=max(1, 8 // stride), seconds=0.4),
            *damage.damaged(seeds=max(2, 4 // stride)),
            *names.named(),
            *hostile.given(examples=2000 // stride),
        ],
    )


def source_digest() -> str:
    """Of what runs and of what judges it."""
    digest = hashlib.sha256()
    for folder in ("engine", "kernels", "tests/support"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def carry_out(found: Sequence[Part], record: Path, *, only: str = "", progress: Progress) -> None:
    """The trials that `record` does not hold yet; one JSON line each. `only`: whose fault holds this text."""
    digest = source_digest()
    done = {(entry["fault"], entry["name"]) for entry in read_record(record)}
    wanted = [
        (part.load, trial)
        for part in found
        for trial in part.trials
        if only in trial.fault and (trial.fault, trial.name) not in done
    ]
    bar = progress.add_task("trials", total=len(wanted))
    with record.open("a", encoding="utf-8") as file:
        for load, trial in wanted:
            progress.update(bar, description=trial.fault[:48])
            entry = {"sources": digest, "fault": trial.fault, "name": trial.name}
            file.write(json.dumps(entry | trial.run(load).as_json()) + "\n")
            file.flush()
            progress.update(bar, advance=1)
            progress.refresh()


def read_record(record: Path) -> list[dict[str, Any]]:
    """Of the present sources. The line that a kill cut off is left out, and its trial made again."""
    if not record.is_file():
        return []
    digest, found = source_digest(), []
    for line in record.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry["sources"] == digest:
            found.append(entry)
    return found


def document(entries: Sequence[Mapping[str, Any]], soak: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What bench/results/faults.json holds; `soak` may be empty."""
    rows = [row_of(fault, entries) for fault in dict.fromkeys(entry["fault"] for entry in entries)]
    return {
        "schema": 1,
        "kind": "faults",
        "command": COMMAND,
        "summary": {"kills": sum(row["kills"] for row in rows)}
        | {cost: sum(row[cost] for row in rows) for cost in COSTS},
        "rows": rows,
        "soak": summary_of(soak) if soak else None,
        "notes": NOTES,
        "manifest": collect({}, {}, seeds={}, argv=[]),
    }


def row_of(fault: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of one fault, what it was most often answered with, and the first examples of a cost."""
    mine = [entry for entry in entries if entry["fault"] == fault]
    tried = [entry for entry in mine if not entry["skipped"]]
    said = Counter(entry["message"] for entry in tried if entry["message"])
    costs = {cost: [f"{e['name']}: {text}" for e in tried for text in e["damage"][cost]] for cost in COSTS}
    unclear = [f"{entry['name']}: {text}" for entry in tried for text in entry["unclear"]]
    return {
        "fault": fault,
        "tried": sum(entry["tried"] for entry in tried),
        "kills": sum(entry["kills"] for entry in tried),
        **{cost: len(found) for cost, found in costs.items()},
        "unclear": len(unclear),
        "left_over": sum(len(entry["damage"]["left_over"]) for entry in tried),
        "skipped": len(mine) - len(tried),
        "message": _without_places(said.most_common(1)[0][0]) if said else "",
        "examples": [_without_places(text) for text in chain(*costs.values(), unclear)][:MAX_EXAMPLES],
    }


def _without_places(text: str) -> str:
    """Names of files without the folders of this machine."""
    return re.sub(r"(/[^\s/\"']+)+/", "", text)


NOTES = [
    "lost: work that was stored or announced, and is gone or was made again; duplicated: a take too many, or "
    "one announced by two processes; corrupt: a database, JSON file or clip that cannot be read whole, or a "
    "chosen clip that is not its take; unequal: a scenario that is not that of the undisturbed run, compared "
    "by rows and by digests of clips, and a changed input that was not noticed. Each entry counts.",
    "unclear: commands that ended with a traceback, without an answer or with another status than they "
    "should; left over: files of unfinished work in a finished run folder.",
    "A file event is a system call by which the process changes a file, in SQLite and FFmpeg too; the run is "
    "killed in front of each in turn, which covers every state that a killed process leaves. A power cut, "
    "which also loses what was never forced to disk, is not covered.",
    f"Kills that do not say stand-ins are of runs of tiny real models; everything else is tried with "
    f"stand-ins for the two models. System calls: {syscalls.unavailable() or 'handed over by the kernel'}.",
    "The soak loads models anew hundreds of times, as no user's process does. Taken apart, allocated memory "
    "grew by 0.2 MiB with each critic that was loaded and used, by 1 KiB with each answer of one critic, and "
    "by 7 KiB with each run under a scripted one; tokenizers keeps what a dropped instance remembered "
    "(findings/tokenizers_drop_keeps_words.sh). Resident memory grows by more, in the arenas "
    "that glibc keeps for threads; how far was not waited for. Of GPU memory it says nothing.",
]
