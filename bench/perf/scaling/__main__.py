"""Times `retake run --gpus N` against `--gpus 1` on the same scenarios, and kills a worker in a third run.

Models of full size with random weights and the clips are made first where they are not there, as
`python -m bench.perf.end_to_end make` does (28 GB). Each run has its part file, and one that is there is not
repeated: where commands may take minutes only, give one part after the other by --only. When the first two
are there they are joined: scenarios per hour from the moment when all workers are warm, start-up apart, what
was made compared by digest, and of the killed run what was lost or doubled.

    python -m bench.perf.scaling --gpus 2 --models /models --parts parts --out scaling_h200x2.json
    python -m bench.perf.scaling --workers 2 --size tiny --scenarios 4 --models tiny --parts p --out dry.json

The second is a dry run on a CPU, whose times mean nothing: two engines share its cores.
"""

from __future__ import annotations

import argparse
import subprocess  # nosec B404 # this interpreter, on this package
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.console import user_error
from bench.files import write_json
from bench.perf.document import told
from bench.perf.end_to_end.sizes import FULL, SIZES
from bench.perf.scaling.document import join
from bench.perf.scaling.runs import Asked, measure
from engine.cluster.pool import Workers
from engine.errors import RetakeError
from engine.settings.environment import offline
from kernels.files import read_json

PROGRAM = "python -m bench.perf.scaling"
ONE, ALL, KILLED = "one", "all", "killed"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done; 1 a check does not hold, or a part is missing; 2 the user's error."""
    options = _parser().parse_args(arguments)
    offline()
    try:
        return _work(options)
    except RetakeError as error:
        return user_error(error)


def _work(options: argparse.Namespace) -> int:
    make = ["make", "--out", str(options.models), "--size", options.size, "--clips", str(options.scenarios)]
    command = [sys.executable, "-m", "bench.perf.end_to_end", *make]
    if subprocess.run(command, check=False).returncode:  # nosec B603 # a process of its own frees the GPU
        return 2
    number = options.gpus or options.workers
    options.killed_scenarios = min(options.killed_scenarios or options.scenarios, options.scenarios)
    for name in options.only or (ONE, ALL, KILLED):
        path = options.parts / f"{name}.json"
        if path.is_file():
            print(f"{name} is there", flush=True)
            continue
        count = 1 if name == ONE else number
        asked = Asked(
            models=options.models.absolute(),
            workers=Workers(gpus=count) if options.gpus else Workers(cpus=count),
            num_scenarios=options.killed_scenarios if name == KILLED else options.scenarios,
            num_steps=options.steps,
            kills=name == KILLED,
            name=name,
        )
        part = measure(asked)
        options.parts.mkdir(parents=True, exist_ok=True)
        write_json(path, part)
        print(f"{name}: {part['makespan_s']:.1f} s after {part['startup_s']:.1f} s -> {path}", flush=True)
    files = {name: options.parts / f"{name}.json" for name in (ONE, ALL, KILLED)}
    if missing := [name for name, path in files.items() if not path.is_file()]:
        print(f"not joined yet: {', '.join(missing)} missing", flush=True)
        return 0 if options.only else 1
    one, several, killed = (read_json(files[name]) for name in (ONE, ALL, KILLED))
    options.scenarios, options.killed_scenarios = one["num_scenarios"], killed["num_scenarios"]
    document = join(one, several, killed, _said(options))
    write_json(options.out, document)
    print(f"{document['speedup']:.2f} times one -> {options.out}", flush=True)
    print(told(document))
    return 0 if document["all_checks_hold"] else 1


def _said(options: argparse.Namespace) -> str:
    """What was asked, without the places of files."""
    many = f"--gpus {options.gpus}" if options.gpus else f"--workers {options.workers}"
    steps = f" --steps {options.steps}" if options.steps else ""
    fewer = options.killed_scenarios < options.scenarios
    killed = f" --killed-scenarios {options.killed_scenarios}" if fewer else ""
    return f"{PROGRAM} {many} --size {options.size} --scenarios {options.scenarios}{killed}{steps}"


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, formatter_class=plain)
    many = parser.add_mutually_exclusive_group(required=True)
    many.add_argument("--gpus", type=int, metavar="N", help="engines, each on a GPU of its own")
    many.add_argument("--workers", type=int, metavar="N", help="engines that share this CPU: a dry run")
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="made if it is not there")
    parser.add_argument("--size", choices=SIZES, default=FULL.name)
    parser.add_argument("--scenarios", type=int, default=16, metavar="N")
    parser.add_argument(
        "--killed-scenarios",
        type=int,
        metavar="N",
        help="of the third run, the first of them; all unless given",
    )
    parser.add_argument("--steps", type=int, help="of denoising; as the model folder says (full: 16)")
    parser.add_argument("--parts", type=Path, required=True, metavar="DIR", help="where part files go")
    parser.add_argument("--only", nargs="+", choices=(ONE, ALL, KILLED), default=[])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
