"""Times whole runs of Retake against the script that a user would write, a variant a process.

  1. make   models of full size with random weights, and clips, where they will be measured (28 GB; on a GPU)
  2. run    one variant: load, warm up, N scenarios of a plan, two takes and two critiques -> a part file
  3. join   the part files -> one document with ratios and checks, which RESULTS.md shows
  all       every part that is not in a folder yet, the most telling first, as far as --budget goes

Each step fits into a few minutes: what is made is kept, a run stops at its --budget with what it has. Of the
script and other variants that do one scenario after the other, one run of two without a warm-up has the cold
first scenario and a warm one.

    python -m bench.perf.end_to_end make --out /models
    python -m bench.perf.end_to_end run --models /models --variant script --scenarios 2 --no-warm-up \\
        --out script.json
    python -m bench.perf.end_to_end run --models /models --variant fast --scenarios 6 --out fast.json
    python -m bench.perf.end_to_end run --models /models --variant fast --scenarios 1 --no-warm-up \\
        --out first.json
    python -m bench.perf.end_to_end all --models /models --parts parts --budget 3600
    python -m bench.perf.end_to_end join parts/*.json --out bench/results/end_to_end_h200.json

--size tiny does the same on a CPU in seconds, to see that everything works; its times mean nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.console import user_error
from bench.files import write_json, write_whole
from bench.perf.document import told
from bench.perf.end_to_end import STARTED_S
from bench.perf.end_to_end.campaign import PARTS, carry_out
from bench.perf.end_to_end.sizes import FULL, SIZES, Size
from bench.perf.end_to_end.variants import VARIANTS
from engine.errors import RetakeError
from engine.settings.config import QUANTIZATIONS
from engine.settings.environment import offline
from engine.words import counted

PROGRAM = "python -m bench.perf.end_to_end"
TIMELINE_PX = 1600


def main(arguments: Sequence[str] | None = None, *, started_s: float = STARTED_S) -> int:
    """Exit status: 0 done; 1 nothing was finished, or a check does not hold; 2 the user's error."""
    options = _parser().parse_args(arguments)
    options.started_s = started_s
    offline()  # before the model libraries are imported
    try:
        status: int = options.work(options)
    except RetakeError as error:
        return user_error(error)
    return status


def _make(options: argparse.Namespace) -> int:
    import torch

    from bench.perf.end_to_end.models import make

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    make(options.out, SIZES[options.size], options.clips, device)
    return 0


def _run(options: argparse.Namespace) -> int:
    from bench.perf.end_to_end.made import read_facts

    size = SIZES[read_facts(options.models)["size"]]
    runs = options.models.absolute() / "runs"
    runs.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{options.variant}-", dir=runs) as folder:
        return _measure(options, size, Path(folder))


def _measure(options: argparse.Namespace, size: Size, runs: Path) -> int:
    import torch

    from bench.perf.end_to_end import part
    from bench.perf.end_to_end.measured import Options
    from engine.runs.timeline import Timeline

    asked = Options(
        models=options.models.absolute(),
        runs=runs,
        variant=VARIANTS[options.variant],
        num_scenarios=options.scenarios,
        num_steps=options.steps or int(size.generator_sidecar["num_inference_steps"]),
        budget_s=options.budget,
        warm_up=options.warm_up,
        quantization=options.quantization or ("nf4" if torch.cuda.is_available() else "none"),
        started_s=options.started_s,
    )
    document, found = part.measure(asked, command=_command(options))
    write_json(options.out, document)
    write_whole(options.out.with_suffix(".svg"), Timeline(found.spans, TIMELINE_PX).svg().encode())
    print(
        f"{asked.variant.name}: {document['num_done']} of {counted(document['num_asked'], 'scenario')}, ",
        end="",
    )
    print(f"{document.get('seconds_per_scenario', float('nan')):.1f} s each -> {options.out}", flush=True)
    return 0 if document["num_done"] else 1


def _all(options: argparse.Namespace) -> int:
    from bench.perf.end_to_end.made import CLIPS, read_facts

    read_facts(options.models)
    told = carry_out(
        options.models.absolute(),
        options.parts.absolute(),
        num_clips=len(list((options.models / CLIPS).glob("*.mp4"))),
        budget_s=options.budget,
        began_s=options.started_s,
        only=frozenset(options.only),
    )
    for line in told:
        print(line, flush=True)
    wanted = [part for part in PARTS if not options.only or part.name in options.only]
    return 0 if all(part.is_done(options.parts) for part in wanted) else 1


def _join(options: argparse.Namespace) -> int:
    from bench.perf.end_to_end.join import join

    document = join(options.parts)
    write_json(options.out, document)
    print(told(document))
    return 0 if document["all_checks_hold"] else 1


def _command(options: argparse.Namespace) -> str:
    """What was asked, without the places of files."""
    given = {"steps": options.steps, "budget": options.budget, "quantization": options.quantization}
    words = [f"{PROGRAM} run --variant {options.variant} --scenarios {options.scenarios}"]
    words += [f"--{name} {value}" for name, value in given.items() if value is not None]
    return " ".join([*words, *["--no-warm-up"] * (not options.warm_up)])


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, formatter_class=plain)
    steps = parser.add_subparsers(required=True, metavar="make|run|all|join")
    make = steps.add_parser("make", help="model folders and clips; what is there is kept")
    make.set_defaults(work=_make)
    make.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make them in")
    make.add_argument("--size", choices=SIZES, default=FULL.name, help="full: needs a GPU and 30 GB of disk")
    make.add_argument("--clips", type=_count, default=6, metavar="N", help="scenarios; 6 unless given")
    listed = "\n".join(f"  {variant.name:22s}{variant.says}" for variant in VARIANTS.values())
    run = steps.add_parser(
        "run", help="measure one variant", formatter_class=plain, epilog=f"variants:\n{listed}"
    )
    run.set_defaults(work=_run)
    run.add_argument("--models", type=Path, required=True, metavar="DIR", help="the folder that make filled")
    run.add_argument("--variant", choices=VARIANTS, required=True, metavar="NAME", help="see below")
    run.add_argument("--scenarios", type=_count, required=True, metavar="N", help="at most as many as clips")
    run.add_argument("--steps", type=_count, help="of denoising; as the model folder says (full: 16)")
    run.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="of the whole process; it ends before, with the scenarios that are done",
    )
    run.add_argument(
        "--no-warm-up",
        dest="warm_up",
        action="store_false",
        help="measure the first scenarios of the process, as `retake run` is started",
    )
    run.add_argument(
        "--quantization",
        choices=QUANTIZATIONS,
        help="of the critic; nf4 on a GPU, else none; script-best may choose",
    )
    run.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="its timeline: FILE.svg")
    everything = steps.add_parser("all", help="every part that is not there yet, as far as the time goes")
    everything.set_defaults(work=_all)
    everything.add_argument("--models", type=Path, required=True, metavar="DIR", help="that make filled")
    everything.add_argument("--parts", type=Path, required=True, metavar="DIR", help="where the parts go")
    everything.add_argument("--budget", type=float, default=3600.0, metavar="SECONDS", help="of all; 3600")
    everything.add_argument(
        "--only",
        nargs="+",
        default=[],
        choices=[part.name for part in PARTS],
        metavar="NAME",
        help="of these parts",
    )
    join = steps.add_parser("join", help="part files to one document with ratios and checks")
    join.set_defaults(work=_join)
    join.add_argument("parts", type=Path, nargs="+", metavar="FILE.json", help="written by run")
    join.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
