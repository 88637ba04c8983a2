"""Puts faults into real runs of tiny models and counts what they cost: `make faults`.

  python -m faults                          every trial, an hour of soak, the table
  python -m faults trials --only ENOSPC     the trials whose fault holds that text
  python -m faults trials --stride 20       every twentieth file event: some minutes
  python -m faults soak --minutes 10
  python -m faults table                    from what is on record

with PYTHONPATH=.:tests/support. What was found lies in --work, one line a trial; stopped, it goes on there,
as long as the sources of engine, kernels and harness are the same. Exit status 1 where anything was lost,
duplicated, corrupt or unequal.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", RETAKE_THREADS="1")  # before numpy and torch: a fork has one thread

import argparse
import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.files import write_json
from engine.settings.environment import offline
from faults import campaign, syscalls
from faults.soak import read_samples, soak
from faults.workload import MEMORY, quick, real, warm_up

WORK = campaign.ROOT / ".faults"
TABLE = campaign.ROOT / "bench" / "results" / "faults.json"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.fresh:
        shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True, exist_ok=True)
    record, samples = options.work / "trials.jsonl", options.work / "soak.jsonl"
    if options.what in ("all", "trials") and (why := syscalls.unavailable()):
        sys.stderr.write(f"error: {why}\n")
        return 2
    if options.what != "table":
        _measure(options, record, samples)
    made = campaign.document(campaign.read_record(record), read_samples(samples))
    if options.what in ("all", "table"):
        write_json(options.out, made)
    sys.stdout.write("\n".join(_told(made)) + "\n")
    return int(any(made["summary"][cost] for cost in campaign.COSTS))


def _measure(options: argparse.Namespace, record: Path, samples: Path) -> None:
    offline()
    import tqdm

    import engine.critics.qwen_vl.critic
    import engine.generators.wan.generator  # noqa: F401  a fork has then what a command imports

    tqdm.tqdm.monitor_interval = 0  # its monitor is a thread, which a fork would not have
    tqdm.tqdm.set_lock(threading.RLock())  # its own is shared by forks: one killed inside stops all others
    with _progress() as progress, tempfile.TemporaryDirectory(prefix="retake-faults-", dir=MEMORY) as folder:
        root = Path(folder)
        os.environ["XDG_CACHE_HOME"] = str(root / "cache")
        warm_up(quick(root / "warm"))
        if options.what in ("all", "trials"):
            found = list(campaign.parts(root, stride=options.stride))
            campaign.carry_out(found, record, only=options.only, progress=progress)
        if options.what in ("all", "soak"):
            soak(real(root / "soak"), samples, minutes=options.minutes, progress=progress)


def _told(made: dict[str, Any]) -> list[str]:
    """A line for each fault that cost something, with examples, and the sum."""
    lines = []
    for row in made["rows"]:
        if found := [f"{row[cost]} {cost}" for cost in (*campaign.COSTS, "unclear") if row[cost]]:
            lines.append(f"{row['fault']} ({row['tried']} tried): {', '.join(found)}")
            lines += [f"    {example[-300:]}" for example in row["examples"]]
    return [*lines, ", ".join(f"{count} {name}" for name, count in made["summary"].items())]


def _progress() -> Progress:
    """Drawn when told to, never by a thread of its own: this process forks."""
    columns = (TextColumn("{task.description:<48}"), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), auto_refresh=False)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("all", "trials", "soak", "table"), default="all")
    parser.add_argument("--only", default="", metavar="TEXT", help="trials whose fault holds this text")
    parser.add_argument("--stride", type=int, default=1, help="every so many-th file event (default 1)")
    parser.add_argument("--minutes", type=float, default=60, help="of the soak (default 60)")
    parser.add_argument("--work", type=Path, default=WORK, help="where the record lies (default .faults)")
    parser.add_argument("--fresh", action="store_true", help="forget the record")
    parser.add_argument("--out", type=Path, default=TABLE, help="the table to write")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
