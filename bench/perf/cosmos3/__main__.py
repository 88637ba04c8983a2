"""Measures takes of Cosmos3-Nano from end to end, beside diffusers' pipeline, in alternating rounds.

A process for each video size; what was measured is in --out already and is not repeated: the same command
goes on where the time ended. The models (33 GB) are made where they are measured unless they are there.

    python -m bench.perf.cosmos3 --models /tmp/models --out bench/results/cosmos3_h200.json
    python -m bench.perf.cosmos3 --models /tmp/tiny --size tiny --out x.json    # on a CPU: that it runs
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.files import write_json
from bench.perf import resumed
from bench.perf.cosmos3 import STARTED_S
from bench.perf.cosmos3.document import CRITIQUED, KIND, LIBRARY, OURS, joined
from bench.perf.cosmos3.sizes import NANO, SIZES
from bench.perf.document import read_rows, with_row

MODULE = "bench.perf.cosmos3"
PROGRAM = f"python -m {MODULE}"
LEAST_S = 90.0
CLIPS = "cosmos3-clips"
SLOW = "720p"
"""Of which the library takes four minutes a take: it is measured there when asked."""


def main(arguments: Sequence[str] | None = None, *, started_s: float = STARTED_S) -> int:
    """Exit status: 0 all is measured; 1 something is left, or a check does not hold; 2 the user's error."""
    options = _parser().parse_args(arguments)
    work = _all if options.only is None else _measure
    return resumed.exit_status(partial(work, options, started_s + options.budget))


def _all(options: argparse.Namespace, ends_s: float) -> int:
    resumed.measure_parts(MODULE, (_part(options, part) for part in options.parts), ends_s)
    document = joined(_measured(options), _settings(options), _command(options))
    write_json(options.out, document)
    return resumed.finished(document, [name for part in options.parts for name in _left(options, part)])


def _part(options: argparse.Namespace, part: str) -> resumed.Part:
    least_s = LEAST_S if options.size == NANO.name else 0.0
    words = (*_words(options), "--only", part)
    return resumed.Part(name=part, left=tuple(_left(options, part)), least_s=least_s, words=words)


def _measure(options: argparse.Namespace, ends_s: float) -> int:
    """One part, in this process; a row is in the file as soon as it is measured."""
    part, rows, longest_s = options.only, _measured(options), 0.0
    for row in _rows(options, part):
        began_s = time.perf_counter()
        if began_s + longest_s > ends_s - resumed.MARGIN_S:
            print(f"{part}: the budget is spent", flush=True)
            return 0
        made = row()
        longest_s = max(longest_s, time.perf_counter() - began_s)
        if made is not None:
            rows = with_row(rows, {"part": part, **made})
            write_json(options.out, joined(rows, _settings(options), _command(options)))
            told = f"{made['seconds']:.2f} s" if "seconds" in made else ""
            print(f"{made['name']}: {told} {made.get('stages', '')}", flush=True)
    return 0


def _measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    return read_rows(options.out, KIND, _settings(options))


def _rows(options: argparse.Namespace, part: str) -> Iterator[Callable[[], dict[str, Any] | None]]:
    """What is left, in order; None of one that only warms up. Ours comes first, alone, for its memory."""
    import torch

    from bench.perf.cosmos3 import models, takes
    from bench.perf.end_to_end.models import make_clip
    from bench.perf.end_to_end.sizes import FULL, TINY

    size, steps = SIZES[options.size], _steps(options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = models.make(options.models.absolute(), size, device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()  # of the models that were made
    clips = options.models.absolute() / CLIPS
    make_clip(clips / "clip.mp4", 0, FULL if size is NANO else TINY)
    left = _left(options, part)
    pair = takes.pair_of(models.view(model, size, part, steps=steps), clips, preset=options.preset)
    yield lambda: _nothing(pair.warm_up)
    if f"{part} memory" in left:
        yield lambda: {"name": f"{part} memory", "memory": pair.memory()}
    library = any(LIBRARY in name or "error" in name for name in left)
    if library:
        yield lambda: _nothing(pair.load_pipeline)
        if f"{part} error" in left:
            yield lambda: {"name": f"{part} error", "latent_error": pair.error()}
    if any(CRITIQUED in name for name in left):
        yield lambda: _nothing(pair.warm_up_critic)
    ways = {OURS: pair.ours, LIBRARY: pair.library, CRITIQUED: lambda index: pair.with_critique()}
    for turn in range(options.rounds):
        for way, run in ways.items():
            if (name := f"{part} {way} {turn}") in left:
                yield lambda name=name, way=way, run=run, turn=turn: _timed(name, way, run(turn))  # type: ignore[misc]


def _nothing(work: Callable[..., object], *arguments: object) -> None:
    work(*arguments)


def _timed(name: str, way: str, found: tuple[float, dict[str, float]]) -> dict[str, Any]:
    seconds, stages = found
    return {"name": name, "way": way, "seconds": seconds, "stages": stages}


def _left(options: argparse.Namespace, part: str) -> list[str]:
    """Names of the rows of a part that are not measured yet."""
    library = part != SLOW or options.library_at_720p
    ways = [OURS, *([LIBRARY] if library else []), CRITIQUED]
    wanted = [f"{part} memory", *([f"{part} error"] if library else [])]
    wanted += [f"{part} {way} {turn}" for turn in range(options.rounds) for way in ways]
    there = {row["name"] for row in _measured(options)}
    return [name for name in wanted if name not in there]


def _steps(options: argparse.Namespace) -> int:
    return options.steps or SIZES[options.size].steps


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {"size": options.size, "steps": _steps(options), "preset": options.preset}


def _command(options: argparse.Namespace) -> str:
    """What was asked, without the places of files."""
    return f"{PROGRAM} --size {options.size} --rounds {options.rounds}"


def _words(options: argparse.Namespace) -> list[str]:
    words = ["--models", str(options.models), "--out", str(options.out), "--size", options.size]
    words += ["--rounds", str(options.rounds), "--steps", str(_steps(options)), "--preset", options.preset]
    return [*words, *(["--library-at-720p"] if options.library_at_720p else [])]


def _parser() -> argparse.ArgumentParser:
    parser = resumed.parser_of(PROGRAM, __doc__, budget_s=560.0, models=Path("models"))
    parser.add_argument("--size", choices=SIZES, default=NANO.name)
    parser.add_argument("--parts", nargs="+", choices=tuple(NANO.videos), default=list(NANO.videos))
    parser.add_argument("--rounds", type=int, default=2, help="of which the median counts")
    parser.add_argument("--steps", type=int, help="of denoising; those of the size unless given")
    parser.add_argument("--preset", choices=("exact", "fast", "fastest"), default="fast")
    parser.add_argument("--library-at-720p", action="store_true", help="four minutes a take on an H200")
    parser.add_argument("--only", choices=tuple(NANO.videos), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
