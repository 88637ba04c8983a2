"""An hour of runs, interruptions, resumptions and critiques in one process, and whether anything of it grows.

A sample after each round: memory (what is allocated, and with what the allocator keeps), descriptors,
threads, files left in the folder for temporary ones, live objects. What a round needs is there after the
first few; a slope is fitted to what comes after them.

Tokenizers are made once and kept from round to round, as a process of users makes each once: dropped ones
leave memory for every word they met (`findings/tokenizers_drop_keeps_words.sh`), about 0.2 MiB a round here.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from rich.progress import Progress
from transformers import AutoTokenizer

from engine.runs.manifest import code_state
from faults.workload import BEST_OF_TWO, Workload

WARM_UP = 1 / 6
"""Share of the samples before the fit begins: allocators and caches fill there."""
MEASURES = {
    "allocated_kib": "allocated memory, KiB",
    "rss_kib": "resident memory, KiB",
    "descriptors": "open descriptors",
    "threads": "threads",
    "temporary_files": "temporary files",
    "objects": "live objects",
}
MAX_COMMANDS = 8
INTERRUPT_S = 1.5
"""An interrupt comes up to so long after the start of a run."""


def soak(load: Workload, record: Path, *, minutes: float, progress: Progress) -> None:
    """One JSON line a round, to a new `record`."""
    place = Path(tempfile.mkdtemp(prefix="retake-soak-"))
    tempfile.tempdir = str(place)  # of this process from here on: what is left there was forgotten
    record.unlink(missing_ok=True)
    draw = random.Random("soak")
    bar = progress.add_task("soak", total=60 * minutes)
    began, number = time.monotonic(), 0
    kept_tokenizers = mock.patch.object(
        AutoTokenizer, "from_pretrained", functools.cache(AutoTokenizer.from_pretrained)
    )
    commit = code_state(Path(__file__).resolve().parents[3])["commit"]
    try:
        kept_tokenizers.start()
        while time.monotonic() - began < 60 * minutes:
            sample: dict[str, Any] = {"round": number, "commit": commit}
            sample |= {"interrupted": 0, "failed": ""}
            try:
                sample["interrupted"] = one_round(load, number, draw)
            except Exception as error:  # noqa: BLE001 the hour goes on, and the table says so
                sample["failed"] = f"{type(error).__name__}: {error}"[-400:]
            sample |= {"elapsed_s": time.monotonic() - began} | measure(place)
            with record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(sample) + "\n")
            number += 1
            progress.update(bar, completed=time.monotonic() - began, description=f"soak, round {number}")
            progress.refresh()
    finally:
        kept_tokenizers.stop()
        tempfile.tempdir = None
        shutil.rmtree(place)


def one_round(load: Workload, number: int, draw: random.Random) -> int:
    """A run, cut by an interrupt; resumed until it is done; once more when done; its report. The interrupts.

    The tiny critic and the scripted one take turns, and one take a round and two.
    """
    from engine.build import prepare as preparing

    own = preparing.load_critic
    if number % 2:
        load.first()
    options = load.options
    load.options = BEST_OF_TWO if number % 4 >= 2 else options
    out = load.folder()
    num_interrupts = 0
    try:
        arguments = load.begin(out)
        while command(arguments, interrupt_s=draw.uniform(0, INTERRUPT_S) if num_interrupts < 2 else None):
            num_interrupts += 1
            assert num_interrupts < MAX_COMMANDS, f"{out} is not done after {num_interrupts} commands"
            arguments = load.go_on(out)
        for verb in ("resume", "report"):
            assert command([verb, str(out)]) == 0, f"{verb} of a finished run failed"
    finally:
        preparing.load_critic = own
        load.options = options
        load.remove(out)
    return num_interrupts


def command(arguments: Sequence[str], *, interrupt_s: float | None = None) -> int:
    """Exit status of `retake ARGUMENTS` in this process, quietly; an interrupt comes after `interrupt_s`.

    Of one that was not interrupted every error is raised, and AssertionError for a status that is not 0. An
    interrupt may end in any, since here the process goes on: while diffusers loads weights it was seen to
    become an error of the file being read, and while rich starts a display its thread stays behind.
    """
    from engine.cli import main

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    argv, sys.argv = sys.argv, ["retake", *arguments]
    said = io.StringIO()
    gc.collect()  # with what an interrupt left of the last command, such as its lock
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                if interrupt_s is not None:
                    signal.setitimer(signal.ITIMER_REAL, max(interrupt_s, 1e-3))
                main()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else 0
    except BaseException:
        if interrupt_s is None:
            raise
        status = 130
    else:
        status = 0
    finally:
        sys.argv = argv
        signal.signal(signal.SIGALRM, before)
    assert interrupt_s is not None or status == 0, f"status {status}: {said.getvalue()[-800:]}"
    return status


def measure(temporary: Path) -> dict[str, int]:
    """Of this process, after a collection."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "allocated_kib": _allocated() // 1024,
        "rss_kib": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "python_threads": threading.active_count(),
        "temporary_files": sum(1 for _ in temporary.rglob("*")),
        "objects": len(gc.get_objects()),
    }


class _Mallinfo2(ctypes.Structure):
    """Of glibc, malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def _allocated() -> int:
    """Bytes that native code and Python have asked of malloc and not given back, which pages kept are not."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    told = mallinfo2()
    return int(told.uordblks + told.hblkhd)


def read_samples(record: Path) -> list[dict[str, Any]]:
    if not record.is_file():
        return []
    lines = record.read_text(encoding="utf-8").splitlines()
    return list(_whole(lines))


def _whole(lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def summary_of(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Start, middle and end of each measure, and its slope an hour with the standard error of the fit."""
    steady = samples[int(len(samples) * WARM_UP) :]
    hours = np.array([sample["elapsed_s"] for sample in steady]) / 3600
    return {
        "commit": samples[0]["commit"],
        "minutes": samples[-1]["elapsed_s"] / 60,
        "rounds": len(samples),
        "interrupts": sum(sample["interrupted"] for sample in samples),
        "failed": [sample["failed"] for sample in samples if sample["failed"]],
        "fitted_from_minute": steady[0]["elapsed_s"] / 60,
        "measures": [
            {
                "name": label,
                "start": steady[0][name],
                "middle": steady[len(steady) // 2][name],
                "end": steady[-1][name],
                **_slope(hours, np.array([sample[name] for sample in steady], float)),
            }
            for name, label in MEASURES.items()
        ],
    }


def _slope(hours: np.ndarray, values: np.ndarray) -> dict[str, float | None]:
    """Least squares. The error assumes independent samples, and is therefore a lower bound."""
    if len(hours) < 3:
        return {"per_hour": None, "standard_error": None}
    x = hours - hours.mean()
    slope = float((x @ values) / (x @ x))
    residual = values - values.mean() - slope * x
    error = float(np.sqrt((residual @ residual) / (len(x) - 2) / (x @ x)))
    return {"per_hour": slope, "standard_error": error}
