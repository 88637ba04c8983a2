"""Measures a generator and a critic at once on one GPU against taking turns on it, in one process.

Models of full size with random weights, made where they are measured unless they are there (28 GB). All ways
run in turn, every second round backwards; the document is written after each round. What shares the GPU how
is in bench/perf/overlap/sharing.py.

    python -m bench.perf.overlap --models /models --out bench/results/overlap_h200.json
    python -m bench.perf.overlap --models /tmp/tiny --size tiny --out x.json    # on a CPU: that it runs
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.console import user_error
from bench.files import write_json
from bench.perf.document import this_machine
from bench.perf.end_to_end.sizes import FULL, SIZES, Size
from bench.perf.overlap import STARTED_S
from engine.errors import RetakeError
from engine.settings.environment import offline
from engine.words import command_line

KIND, SCHEMA = "overlap", 1
NOTES = (
    "random weights: speed and memory only; each reply is one fixed text, written without drafts",
    "in turns: one stream, the next step of one lane behind that of the other, two steps enqueued ahead",
    "hidden: the part of the critic's time alone by which generation and critic together did not take longer",
    "clocks, power and use are means of each run, sampled by NVML",
)


def main(arguments: Sequence[str] | None = None, *, started_s: float = STARTED_S) -> int:
    """Exit status: 0 done; 1 a check does not hold; 2 the user's error."""
    options = _parser().parse_args(arguments)
    offline()  # before the model libraries are imported
    try:
        document = measure(options, started_s + options.budget)
    except RetakeError as error:
        return user_error(error)
    for name, value in document["summary"].items():
        print(f"{name:40s} {value if isinstance(value, str) else f'{value:.3f}'}")
    return 0 if all(check["holds"] for check in document["checks"]) else 1


def measure(options: argparse.Namespace, deadline_s: float) -> dict[str, Any]:
    """The document, also written to --out after the warm-up and each round."""
    from bench.perf.overlap.modes import Mode, all_modes
    from bench.perf.overlap.sharing import SHARINGS, missing
    from bench.perf.overlap.work import Amount, subject_of

    size = SIZES[options.size]
    subject = subject_of(options.models.absolute(), size, steps=options.steps, preset=options.preset)
    subject.show()
    amounts = [
        Amount(takes=options.takes, replies=max(options.replies, count), at_once=count)
        for count in options.at_once
    ]
    modes = all_modes(amounts, [one for one in SHARINGS if _is_wanted(one.name, options.sharings)])
    for mode in modes:
        mode.reason = missing(mode.sharing, subject.device)

    def document() -> dict[str, Any]:
        made = _document(options, size, modes, dict(subject.generator.notes))
        write_json(options.out, made)
        return made

    tried: list[Mode] = [mode for mode in modes if mode.reason is None]
    for mode in tried:
        _prepare(subject, mode)
    _say(f"warm after {time.perf_counter() - deadline_s + options.budget:.0f} s")
    longest_s = 0.0
    for turn in range(options.rounds):
        for mode in tried if turn % 2 == 0 else tried[::-1]:
            if time.perf_counter() + longest_s > deadline_s:
                _say("the budget is spent")
                return document()
            began_s = time.perf_counter()
            _run(subject, mode)
            longest_s = max(longest_s, time.perf_counter() - began_s)
        document()
    return document()


def _prepare(subject: Any, mode: Any) -> None:
    """Whether products are right that way, and a run that does not count where there is something to make."""
    from bench.perf.overlap.sharing import ONE_STREAM, STREAMS, self_test, shared

    if mode.sharing not in (STREAMS, ONE_STREAM):
        with _reason(mode), shared(mode.sharing, subject.lanes) as on_lane:
            mode.reason = self_test(on_lane, subject.device)
    if mode.warms:
        _run(subject, mode, counts=False)


def _run(subject: Any, mode: Any, *, counts: bool = True) -> None:
    """One run of a way that has not failed before."""
    from bench.perf.overlap.modes import SEQUENTIAL
    from bench.perf.overlap.sharing import shared

    if mode.reason is not None:
        return
    with _reason(mode), shared(mode.sharing, subject.lanes) as on_lane:
        ran = subject.run(
            mode.amount,
            on_lane,
            overlap=mode.kind != SEQUENTIAL,
            priority=mode.sharing.critic_priority,
            threads=not mode.sharing.one_stream,
        )
        if counts:
            mode.runs.append(ran)
        _say(f"{mode.name}: {ran.makespan_s:.2f} s{'' if counts else ', warm-up'}")


@contextmanager
def _reason(mode: Any) -> Iterator[None]:
    """What a way raises is its reason: the others go on."""
    try:
        yield
    except (RetakeError, RuntimeError) as error:
        mode.reason = f"{type(error).__name__}: {error}"
        _say(f"{mode.name}: {mode.reason}")


def _document(options: argparse.Namespace, size: Size, modes: Any, notes: dict[str, str]) -> dict[str, Any]:
    from bench.perf.overlap.modes import checks, rows, summary

    return {
        "schema": SCHEMA,
        "kind": KIND,
        "command": command_line(
            *("python", "-m", "bench.perf.overlap", "--size", size.name, "--rounds", options.rounds)
        ),
        "manifest": this_machine(),
        "settings": {
            "size": size.name,
            "steps": options.steps,
            "preset": options.preset,
            "reply_tokens": size.reply_tokens,
            "takes": options.takes,
        },
        "summary": summary(modes),
        "checks": list(checks(modes)),
        "notes": list(NOTES),
        "notes_of_models": notes,
        "ways": rows(modes, options.steps),
    }


def _is_wanted(name: str, texts: Sequence[str]) -> bool:
    return not texts or any(text in name for text in texts)


def _say(text: str) -> None:
    print(text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.perf.overlap",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="made there if need be")
    parser.add_argument("--size", choices=SIZES, default=FULL.name)
    parser.add_argument("--steps", type=int, default=4, help="of denoising; 4 unless given")
    parser.add_argument("--preset", choices=("exact", "fast", "fastest"), default="fast")
    parser.add_argument("--takes", type=int, default=1, help="made in a run")
    parser.add_argument("--replies", type=int, default=2, help="written in a run, at least those at once")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4], help="replies side by side")
    parser.add_argument(
        "--sharings", nargs="*", default=(), metavar="TEXT", help="only those whose name holds one of these"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    parser.add_argument("--budget", type=float, default=560.0, metavar="SECONDS", help="of the process")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
