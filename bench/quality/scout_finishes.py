"""What takes are worth that do not begin at their noise, and whether smaller looks say as much as whole ones.

Of candidates that `bench.quality.loop_budget` made with --kept or --again, each such take is set beside the
plain one of the same prompt and noise: what it gains whatever was chosen, and whether it follows its look,
which is what keeping a look's motion is for. Of --small, candidates that were made with --shrink, only how
well choosers rank the looks. On tuning scenes: how scouts are finished is not chosen where they are measured.

    python -m bench.quality.loop_budget --work F --tuning --count 36 --seeds 2 --scout-steps 2 \\
        --kept 0.25 0.5 --again 2 --choosers consensus --loops 1 --out F/budget.json
    python -m bench.quality.scout_finishes --work F --out bench/results/scout_finishes.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.analysis.bootstrap import mean_ci95
from bench.console import page_console, user_error
from bench.files import write_json
from bench.quality.budget_arms import Scene
from bench.quality.budget_figures import LEAST_RANKED, mean_of, rank_prediction
from bench.quality.candidate_pool import RECORD, Key, read_pool
from bench.quality.demo_quality import published_manifest
from bench.quality.loop_budget import in_pools, scene_of
from bench.quality.selector_figures import spearman
from engine.build.probing import selector_settings
from engine.errors import ConfigError, RetakeError
from engine.runs.folder import DATABASE
from engine.settings.config import read_config
from engine.settings.environment import offline, usable_cores
from engine.video.files import probe

KIND: Final = "scout_finishes"
NOTES = (
    "Case scores in percent, all candidates of a scene alike, whatever a chooser would say of them. "
    "Intervals: 95 %, percentile bootstrap over scenes; differences are of the same prompt and noise.",
    "follows: Spearman within scenes between the case score of the look and that of the take behind it.",
    "of_best_look: only the candidate of each scene whose look has the highest case score: what a chooser "
    "would have that ranks looks as the benchmark does, which no loop knows.",
    "First steps again: each time as many steps more as loop_budget's --again-steps, 4 by default, less one; "
    "motion kept: as many fewer as the share says.",
)


def finishes(scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    """A row for each way to finish that these scenes have, by look, share kept and times again."""
    ways = sorted({key[2:] for scene in scenes for key in scene.values if key.kept or key.again})
    return [_finish(scenes, way) for way in ways]


def _finish(scenes: Sequence[Scene], way: tuple[Any, ...]) -> dict[str, Any]:
    steps, whole, kept, again = way
    plain, changed, best, names, own = [], [], [], [], []
    orders: dict[str, list[tuple[str, float]]] = {"plain": [], "finish": []}
    for scene in scenes:
        keys = [key for key in scene.values if key[2:] == way]
        if not keys:
            continue
        names += [scene.name] * len(keys)
        plain += [scene.values[key.take] for key in keys]
        changed += [scene.values[key] for key in keys]
        looks = [_of_look(scene, Key(*key[:2], steps, whole)) for key in keys]
        first = keys[int(np.argmax(looks))]
        best.append(scene.values[first] - scene.values[first.take])
        own.append(scene.name)
        for name, values in (("plain", [key.take for key in keys]), ("finish", keys)):
            rho = spearman(np.array(looks), np.array([scene.values[key] for key in values]))
            if rho is not None and len(keys) >= LEAST_RANKED:
                orders[name].append((scene.name, rho))
    return {
        "steps": steps,
        "form": "whole" if whole else "first",
        "kept": kept / 100,
        "again": again,
        "num_takes": len(changed),
        "plain": mean_ci95(plain, names),
        "minus_plain": mean_ci95(np.subtract(changed, plain).tolist(), names),
        "of_best_look": mean_ci95(best, own),
        "follows": {name: mean_of(found) for name, found in orders.items()},
    }


def _of_look(scene: Scene, look: Key) -> float:
    if look not in scene.values:
        raise ConfigError(
            f"looks of {scene.name} have no score",
            fix="make candidates with --decode frames and without --shrink; small looks are those of --small",
        )
    return scene.values[look]


def read_scenes(work: Path, choosers: Sequence[str], jobs: int | None) -> list[Scene]:
    """Of the candidates that lie in `work`, scored. ConfigError where there are none."""
    run = work / "paper"
    if not (run / DATABASE).is_file():
        raise ConfigError(f"{work} has no candidates", fix="make them with bench.quality.loop_budget --work")
    config = read_config(run)
    folders = {path.parent.name: path.parent for path in sorted((work / "pool").glob(f"*/{RECORD}"))}
    settings = selector_settings(run, "cpu", list(choosers), probe=None)
    return [scene_of(one, choosers, settings)[0] for one in in_pools(config, folders, run, jobs)]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    scenes = read_scenes(options.work, options.choosers, options.jobs)
    rows = finishes(scenes)
    if not rows:
        raise ConfigError(f"{options.work} has no takes of another beginning", fix="give --kept or --again")
    looks = {"1": _whole(rank_prediction(scenes, options.choosers))}
    if options.small is not None:
        small = read_scenes(options.small, options.choosers, options.jobs)
        looks[f"1/{_shrink(options.small)}"] = _whole(rank_prediction(small, options.choosers))
    return {
        "schema": 1,
        "kind": KIND,
        "num_scenarios": len(scenes),
        "num_scenes": len({scene.name for scene in scenes}),
        "finishes": rows,
        "looks": looks,
        "manifest": published_manifest(options.work / "paper"),
        "notes": NOTES,
    }


def _whole(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["form"] == "whole" and row["n"]]


def _shrink(work: Path) -> int:
    """What the sides of a take are divided by for its looks."""
    clips = read_pool(next((work / "pool").glob(f"*/{RECORD}")).parent).clips
    look = next(key for key in clips if key.is_look)
    return probe(clips[look.take].path).width // probe(clips[look].path).width


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality.scout_finishes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--work", type=Path, required=True, help="of loop_budget, with --kept or --again")
    add("--small", type=Path, metavar="WORK", help="of loop_budget, with --shrink")
    add("--choosers", type=lambda text: text.split(","), default=["consensus"], metavar="NAME,...")
    add("--jobs", type=int, default=usable_cores(), help="processes that score")
    add("--out", type=Path, required=True, help="the JSON file to write")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done; 2 the user's error."""
    options, console = _parser().parse_args(arguments), page_console()
    offline()
    command = "python -m bench.quality.scout_finishes" + (" --small WORK" if options.small else "")
    try:
        document = measure(options) | {"command": command}
    except RetakeError as error:
        return user_error(error)
    write_json(options.out, document)
    for row in document["finishes"]:
        gain, (low, high) = row["minus_plain"]["mean"], row["minus_plain"]["ci95"]
        way = f"kept {row['kept']:.2f}" if row["kept"] else f"{row['again']}x again"
        console.print(
            f"{row['steps']} {row['form']}, {way}: {gain:+.2f} ({low:+.2f} to {high:+.2f}) points",
            markup=False, highlight=False,
        )  # fmt: skip
    console.print(f"wrote {options.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
