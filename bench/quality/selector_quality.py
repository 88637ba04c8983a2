"""Measures target-free selectors on finished runs over held-out scenes: what does choosing gain, and by whom?

Scores every take against the references, lets each selector choose without them, and compares. The best rank
sum is looked for on other runs (--tune-on), never on those that are measured.

    python -m bench.quality.selector_quality --run RUN --by consensus,vjepa,rank_sum --out selectors.json
    python -m bench.quality.selector_quality --markdown bench/results/selectors.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from bench.analysis.bootstrap import RESAMPLES
from bench.analysis.scored_run import ScoredRun, read_finished, read_run, scored_run
from bench.analysis.take_choice import TakeReader, score_takes
from bench.console import page_console, user_error
from bench.files import write_json
from bench.quality.demo_quality import published_manifest
from bench.quality.scene_parts import is_seen
from bench.quality.selector_figures import (
    Pool,
    best_combination,
    coverage,
    figures,
    name_of,
    rank_correlation,
    reported_combinations,
)
from bench.results_page.selector_tables import ALL_TAKES, markdown, print_tables
from bench.scoring.case_record import record_of
from bench.scoring.physics_iq import score_folder
from engine.build.probing import selector_settings
from engine.errors import ConfigError, RetakeError, ScorerError
from engine.loop.selection import load_selectors
from engine.machine.device import resolve_device, use_threads
from engine.protocols import Selector
from engine.runs.manifest import code_state, cpu_model, gpus, package_versions
from engine.runs.states import with_states
from engine.settings.environment import cache_folder
from engine.types import Attempt, Scenario, SelectorSettings
from engine.words import counted

RANK_SUM = "rank_sum"
"""In --by: also the rank sums of every pair and of all selectors named."""
ALONE = frozenset({"geometry", "vjepa", "critic_score", "static_camera", "states"})
"""Selectors whose score of a take does not depend on the other takes: asked once, not once a set."""
ROUNDS = {"brief_text": (0, 0), "brief_text_compared": (0, 1), "plan_prompt": (1, 1)}
"""Sets of best-of-N by name: the round of the loop that each chooses from, and the last one it sees."""
NOTES = (
    "Scores are Physics-IQ Verified case scores in percent.",
    f"Intervals: 95 %, percentile bootstrap over scenes, {RESAMPLES} resamples; differences are paired.",
    "random: mean over the candidates. oracle: chooses by the benchmark score itself, a bound and no result.",
    "Of a later round a selector sees the takes of the rounds before too, as in the loop, and chooses among "
    "the round's own. brief_text_compared chooses among the first round's once it has seen the second's.",
    "share: (selector - random) / (oracle - random), of the means.",
    "A + B is their rank sum. A tuned one was found on scenes that are not among those measured.",
    "rank_correlation: Spearman, within scenarios of three or more takes. seconds_per_scenario: median, all "
    "takes of a scenario, decoding left out.",
    "scored_takes below 1: the selector left takes without a score, and these are ranked last.",
)


class Asked(NamedTuple):
    """One scenario's takes, below the folder of their run."""

    folder: Path
    scenario: Scenario
    attempts: tuple[Attempt, ...]
    samples: int


Answer = tuple[dict[str, dict[int, dict[str, float]]], dict[str, float]]
Answering = Callable[[Sequence[Asked]], Iterable[Answer]]
"""In the order in which it was asked."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Pools by set, seconds of each selector on all takes of a scenario, and what could not be measured."""

    pools: dict[str, list[Pool]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def measure(
    runs: Sequence[ScoredRun],
    selectors: Mapping[str, Selector],
    *,
    samples: int,
    tune_on: Sequence[ScoredRun] = (),
    rank_sums: bool = True,
    timed: bool = True,
    answer: Answering | None = None,
) -> dict[str, Any]:
    """The JSON document without its manifests. ConfigError when `tune_on` has scenes of `runs`.

    Not `timed` says that the machine was busy: the selectors' seconds are then null. `answer`: as `collect`.
    """
    _check_disjoint(runs, tune_on)
    names = list(selectors)
    tuned: dict[str, Any] | None = None
    combos = reported_combinations(names, rank_sums=rank_sums)
    if tune_on:
        other = collect(tune_on, selectors, samples, answer)
        best, gain = best_combination(other.pools, names)
        combos = list(dict.fromkeys([*combos, best]))
        tuned = {
            "combination": name_of(best),
            "gain_on_tuning_scenes": gain,
            "num_tuning_scenes": len(_scenes(tune_on)),
        }
    found = collect(runs, selectors, samples, answer)
    takes = found.pools[ALL_TAKES]
    return {
        "num_scenarios": len(takes),
        "num_scenes": len({pool.scene for pool in takes}),
        "num_takes": sum(len(pool.values) for pool in takes),
        "num_scenes_trained_on": sum(map(is_seen, _scenes(runs))),
        "samples": samples,
        "sets": {
            name: figures(found.pools[name], combos) for name in (*ROUNDS, ALL_TAKES) if name in found.pools
        },
        "tuned": tuned,
        "selectors": {
            name: {
                "seconds_per_scenario": float(np.median(found.seconds[name])) if timed else None,
                "scored_takes": coverage(takes, name),
                "rank_correlation": rank_correlation(takes, name),
            }
            for name in names
        },
        "left_out": found.left_out,
        "notes": NOTES,
    }


def collect(
    runs: Sequence[ScoredRun],
    selectors: Mapping[str, Selector],
    samples: int,
    answer: Answering | None = None,
) -> Measured:
    """Pools of every scenario: the first `samples` takes of a round, for each of ROUNDS, and all takes.

    A round counts where the scenario has that many samples of it. Each take is decoded once. As in the loop,
    a selector that chooses among a round's takes sees those of the rounds before too. `answer`: asks the
    selectors in other processes.
    """
    found = Measured(pools={ALL_TAKES: []}, seconds={name: [] for name in selectors})
    asked: list[tuple[ScoredRun, Asked]] = []
    work = [(run, scenario_id) for run in runs for scenario_id in run.outcomes]
    for run, scenario_id in work:
        attempts = run.outcomes[scenario_id].attempts
        unscored = [a.index for a in attempts if (scenario_id, a.index) not in run.records]
        if unscored:
            found.left_out[f"{run.folder.name}/{scenario_id}"] = f"takes {unscored} have no score"
            continue
        scenario = run.scenarios[scenario_id]
        asked.append((run, Asked(run.folder, scenario, tuple(attempts), samples)))
    given = [one for _, one in asked]
    answers = (answer_of(one, selectors) for one in given) if answer is None else answer(given)
    shown = track(answers, "choosing", len(given), console=Console(stderr=True), transient=True)
    for (run, one), (scores, seconds) in zip(asked, shown, strict=True):
        for name, (_, chosen_from) in _sets(one.attempts, samples).items():
            pool = _pool(run, one.scenario.id, chosen_from, scores[name])
            found.pools.setdefault(name, []).append(pool)
        for selector, value in seconds.items():
            found.seconds[selector].append(value)
    if not found.pools[ALL_TAKES]:
        raise ScorerError("no scenario of these runs has scored takes", fix="give finished runs with takes")
    return found


def answer_of(asked: Asked, selectors: Mapping[str, Selector]) -> Answer:
    """By set and take number the selectors' scores, and the seconds that each took for all takes."""
    reader = TakeReader()
    found: dict[str, dict[int, dict[str, float]]] = {}
    seconds: dict[str, float] = {}
    for name, (seen, _) in _sets(asked.attempts, asked.samples).items():
        known = found.get(ALL_TAKES, {})
        found[name], took = _scores(asked, seen, selectors, reader, known)
        if name == ALL_TAKES:
            seconds = took
    return found, seconds


_LOADED: dict[str, Selector] = {}
"""Of a process that only answers."""


def _load(names: Sequence[str], settings: SelectorSettings) -> None:
    use_threads(1)
    _LOADED.update(load_selectors(names, settings))


def _answer_here(asked: Asked) -> Answer:
    return answer_of(asked, _LOADED)


def _sets(attempts: Sequence[Attempt], samples: int) -> dict[str, tuple[list[Attempt], list[Attempt]]]:
    """By name: the takes that a selector sees, and those among which it chooses.

    The small sets come last: the first decodes every take and asks every selector of it.
    """
    sets = {ALL_TAKES: (list(attempts), list(attempts))}
    for name, (number, last_seen) in ROUNDS.items():
        seen = [a for a in attempts if a.round <= last_seen and a.sample < samples]
        of_round = [a for a in seen if a.round == number]
        if samples > 1 and len(seen) == samples * (last_seen + 1):
            sets[name] = seen, of_round
    return sets


def _scores(
    asked: Asked,
    seen: Sequence[Attempt],
    selectors: Mapping[str, Selector],
    reader: TakeReader,
    known: Mapping[int, Mapping[str, float]],
) -> tuple[dict[int, dict[str, float]], dict[str, float]]:
    """What the selectors say of each take by its number, and the seconds they took.

    Of `known`, scores by take number too, those hold here that were given to the take alone.
    """
    takes = reader.of([asked.folder / attempt.video_path for attempt in seen])
    for _ in takes:
        pass  # decoded here, so that no selector's time holds it
    still = {name: value for name, value in selectors.items() if not (known and name in ALONE)}
    rows, seconds = score_takes(still, asked.scenario, takes, with_states(asked.folder, seen))
    scores = {attempt.index: row for attempt, row in zip(seen, rows, strict=True)}
    for index, row in scores.items():
        row |= {name: score for name, score in known.get(index, {}).items() if name in ALONE}
    return scores, seconds


def _pool(
    run: ScoredRun,
    scenario_id: str,
    attempts: Sequence[Attempt],
    scores: Mapping[int, dict[str, float]],
) -> Pool:
    values = {a.index: run.records[scenario_id, a.index].score for a in run.outcomes[scenario_id].attempts}
    return Pool(
        scene=run.records[scenario_id, attempts[0].index].scene,
        attempts=tuple(attempts),
        values=tuple(values[attempt.index] for attempt in attempts),
        scores=[scores[attempt.index] for attempt in attempts],
        first=values[min(values)],
        loop=values[run.chosen(scenario_id)],
    )


def score_run(folder: Path, *, jobs: int | None, cache: Path | None = None) -> ScoredRun:
    """A finished run with the score of every take, computed now; its scores.json is left alone."""
    config, outcomes, scenarios = read_finished(folder)
    scores = score_folder(folder, config.dataset, all_attempts=True, jobs=jobs, cache=cache)
    records = {(case.scenario_id, index): record_of(case) for index, case in scores.attempts}
    return scored_run(folder, config, outcomes, scenarios, records, scores.fps)


def _check_disjoint(runs: Sequence[ScoredRun], tune_on: Sequence[ScoredRun]) -> None:
    common = sorted(_scenes(runs) & _scenes(tune_on))
    if common:
        raise ConfigError(
            f"{counted(len(common), 'scene is', 'scenes are')} both in --run and in --tune-on, the first "
            f"{common[0]}",
            fix="tune on a run over other held-out seeds",
        )


def _scenes(runs: Sequence[ScoredRun]) -> set[str]:
    return {record.scene for run in runs for record in run.records.values()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.quality.selector_quality", description=__doc__)
    parser.add_argument("--run", type=Path, action="append", help="a finished run; may be repeated")
    parser.add_argument("--tune-on", type=Path, action="append", help="a run over other held-out seeds")
    parser.add_argument(
        "--by", default="consensus,critic_score,rank_sum", help="selectors; rank_sum adds pairs"
    )
    parser.add_argument("--samples", type=int, default=4, help="candidates of best-of-N in rounds 0 and 1")
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    parser.add_argument("--device", default="auto", help="of the selectors: auto, cpu or cuda")
    parser.add_argument("--jobs", type=int, help="scoring processes; default: every core")
    parser.add_argument(
        "--scored", action="store_true", help="take the scores of each RUN/scores.json as they are"
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="that ask selectors, one thread each; more than 1: --untimed"
    )
    parser.add_argument("--untimed", action="store_true", help="leave out seconds: the machine is busy")
    parser.add_argument(
        "--markdown", type=Path, metavar="JSON", help="print a finished measurement as Markdown"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options = parser.parse_args(given)
    if options.markdown is not None:
        print(markdown(json.loads(options.markdown.read_text(encoding="utf-8"))), end="")
        return 0
    if not options.run or options.out is None:
        parser.error("--run and --out are needed, or --markdown")
    console = page_console()
    try:
        document = _measured(options, given)
    except RetakeError as error:
        return user_error(error)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, document)
    print_tables(document, console)
    console.print(f"wrote {options.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _measured(options: argparse.Namespace, given: Sequence[str]) -> dict[str, Any]:
    names = [name.strip() for name in options.by.split(",") if name.strip()]
    single = [name for name in dict.fromkeys(names) if name != RANK_SUM]
    if not single:
        raise ConfigError("--by names no selector", fix="give --by consensus,critic_score,rank_sum")
    if options.samples < 1:
        raise ConfigError(f"--samples {options.samples} is below 1", fix="give the N of best-of-N")
    manifests = [published_manifest(run) for run in (*options.run, *(options.tune_on or ()))]
    device = resolve_device(options.device)
    settings = selector_settings(options.run[0], device, single)
    selectors = load_selectors(single, settings)
    untimed = options.untimed or options.processes > 1

    def read(folder: Path) -> ScoredRun:
        if options.scored:
            return read_run(folder)
        return score_run(folder, jobs=options.jobs, cache=cache_folder())

    start_s = time.perf_counter()
    runs, tune_on = ([read(folder) for folder in folders or ()] for folders in (options.run, options.tune_on))
    with ExitStack() as stack:
        answer = None
        if options.processes > 1:
            pool = ProcessPoolExecutor(options.processes, get_context("spawn"), _load, (single, settings))
            answer = partial(stack.enter_context(pool).map, _answer_here)
        document = measure(
            runs,
            selectors,
            samples=options.samples,
            tune_on=tune_on,
            rank_sums=RANK_SUM in names,
            timed=not untimed,
            answer=answer,
        )
    return {
        **document,
        "command": " ".join(["python -m bench.quality.selector_quality", *map(_without_place, given)]),
        "seconds": None if untimed else time.perf_counter() - start_s,
        "measured_on": {
            "device": device,
            "cpu": cpu_model(),
            "gpus": gpus(),
            "packages": package_versions(),
            "code": code_state(Path(__file__).resolve().parents[2]),
        },
        "manifests": manifests,
    }


def _without_place(argument: str) -> str:
    """A published command names no folder of the machine that ran it."""
    return Path(argument).name if Path(argument).is_absolute() else argument


if __name__ == "__main__":
    sys.exit(main())
