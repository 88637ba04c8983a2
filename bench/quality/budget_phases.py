"""The phases of a budget measurement that make something: scenes, the paper's loop, candidates, their scores.

Each goes on where it was stopped. Chooses nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.analysis.scored_run import require_finished
from bench.quality.budget_arms import BUDGETS, PaperTake
from bench.quality.candidate_pool import RECORD, Key, make_pool, read_pool
from bench.quality.demo_quality import make_dataset, run_loop
from bench.scoring.case_scoring import Scorer, Work, score_works
from bench.scoring.physics_iq import score_folder
from bench.scoring.references import references
from bench.scoring.view_metrics import Case, case_score
from engine.build.model_folders import find_critic, find_generator
from engine.build.prepare import load_critic, load_generator
from engine.datasets.physics_iq import read_descriptions
from engine.demo.layout import write_dataset
from engine.demo.scenes import WIDE, choose_kinds, make_scene
from engine.demo.scenes.base import FPS
from engine.demo.scenes.seeds import TUNING, first_held_out
from engine.errors import ConfigError
from engine.loop.policy import CRITIC_SCORE, RefinementPolicy, choose_take
from engine.loop.scout_policy import ScoutPolicy
from engine.machine.device import resolve_device, resolve_dtype
from engine.runs.folder import DATABASE
from engine.runs.store import RunStore
from engine.settings.config import LoopConfig, RunConfig, read_config
from engine.settings.environment import cache_folder, usable_cores
from engine.types import ScoutForm
from engine.words import counted


def forms_of_pool(options: argparse.Namespace) -> list[ScoutForm]:
    """Every look: of each number of steps and of twice as many, whole and first; small ones are whole."""
    steps = sorted({n for given in options.scout_steps for n in (given, 2 * given)})
    stills = options.decode == "stills"
    if options.shrink > 1:
        return [ScoutForm(steps=n, whole=True, stills=stills, shrink=options.shrink) for n in steps]
    return [ScoutForm(steps=n, whole=whole, stills=stills) for n in steps for whole in (True, False)]


def prepare_dataset(options: argparse.Namespace, dataset: Path) -> None:
    """Held-out scenes, or with --tuning those for choosing among loops."""
    if (dataset / "descriptions.csv").is_file() or any(dataset.rglob("descriptions.csv")):
        return
    views = tuple(options.views.split(","))
    if not options.tuning:
        seed0 = first_held_out(options.world) if options.seed0 is None else options.seed0
        make_dataset(
            dataset,
            seed0=seed0,
            count=options.count,
            views=views,
            workers=usable_cores(),
            world=options.world,
        )
        return
    if options.world != WIDE or options.count > TUNING.count:
        raise ConfigError(
            f"--tuning has {counted(TUNING.count, 'scene')} of the world {WIDE}",
            fix=f"give --world {WIDE} and at most these",
        )
    kinds = choose_kinds([], options.world)
    scenes = [make_scene(seed, kinds) for seed in TUNING.seeds[: options.count]]
    write_dataset(dataset, scenes, fps=FPS, views=views, workers=usable_cores())


def paper_arguments(options: argparse.Namespace) -> list[str]:
    """Of `retake run`, behind dataset and folder."""
    if any(text.startswith("loop.finish_restarts") for text in options.set):
        raise ConfigError(
            "--set loop.finish_restarts would be of the paper's loop alone, not of the candidates",
            fix="give --again, which makes takes with restarts beside those without",
        )
    loops = max(BUDGETS) - 1 if options.loops is None else options.loops
    given = {
        **{"--loop": "paper", "--first-prompt": "brief", "--loops": loops, "--patience": max(loops, 1)},
        **{"--generator": options.generator, "--critic": options.critic, "--device": options.device},
        **{"--seed": options.seed, "--steps": options.steps, "--gain": "none"},
    }
    extra = [str(text) for pair in given.items() for text in pair]
    extra += [text for setting in options.set for text in ("--set", setting)]
    if "states" in options.choosers:
        extra.append("--keep-states")
    if options.states_probe is not None:
        extra += ["--states-probe", str(options.states_probe)]
    return extra


def run_paper(options: argparse.Namespace, dataset: Path, run: Path) -> RunConfig:
    """The paper's loop with room for as many takes as the largest budget; a fitted gain would end it sooner.

    With --shard it must be finished, else ConfigError or ScorerError: only one process may make it, and parts
    of fewer scenarios would be other parts.
    """
    if options.shard is not None:
        if not (run / DATABASE).is_file():
            raise ConfigError(
                f"there is no run in {run} whose candidates could be made",
                fix="give the same command without --shard first, or put a finished run there",
            )
        with RunStore.open(run, read_only=True) as store:
            require_finished(store)
        return read_config(run)
    run_loop(dataset, run, resume=True, extra=paper_arguments(options))
    return read_config(run)


def fill_pool(options: argparse.Namespace, config: RunConfig, run: Path, work: Path) -> dict[str, Path]:
    """By scenario id, the folder of its candidates, of all or of a shard. What is there is not made again.

    With --partial nothing is made: only what is there is told.
    """
    with RunStore.open(run, read_only=True) as store:
        past = {one.id: (one, store.history(one.id)) for one in store.scenarios()}
    planned = {name: (one, history.plan) for name, (one, history) in past.items() if history.plan}
    part, parts = options.shard or (1, 1)
    asked = dict(list(planned.items())[part - 1 :: parts])
    folders = {name: work / "pool" / name for name in asked}
    if options.partial:
        return {name: folder for name, folder in folders.items() if (folder / RECORD).is_file()}
    if all((folder / RECORD).is_file() for folder in folders.values()):
        return folders
    device = resolve_device(config.device)
    place = (device, resolve_dtype(config.dtype, device))
    generator: Any = load_generator(config, find_generator(config.generator.name), *place, with_weights=True)
    critic = None
    if CRITIC_SCORE in options.choosers:
        critic = load_critic(config, find_critic(config.critic.name), *place, with_weights=True)
    forms = forms_of_pool(options)
    for form in forms:
        for share in (0.0, *(options.kept if form.whole else ())):
            generator.check_scouts(replace(form, kept=share))
    if options.again:
        generator.check_restarts(options.again_steps)
    loop = LoopConfig(
        method="scout",
        scouts=max(2 * options.seeds, 3),
        scout_halvings=0,
        seed=options.seed,
        restart_steps=options.again_steps,
        restart_share=options.again_share,
    )
    refinement = RefinementPolicy(settings=loop, negative=generator.negative_prompt)
    for done, (name, (scenario, reply)) in enumerate(asked.items()):
        make_pool(
            scenario, reply, folders[name], generator=generator, forms=forms, critic=critic,
            policy=ScoutPolicy(refinement=refinement), kept=options.kept,
            again=options.again,
        )  # fmt: skip
        print(f"candidates {done + 1}/{len(asked)}", flush=True)
    return folders


def score_pools(
    config: RunConfig, folders: Mapping[str, Path], jobs: int | None
) -> dict[str, dict[Key, Case]]:
    """The case of each clip that can be scored, by scenario; stills cannot."""
    pools = {name: read_pool(folder) for name, folder in folders.items()}
    rows = {row.scenario_id: row for row in read_descriptions(config.dataset)}
    real = references(config.dataset, list(rows.values()), FPS)
    keys = {name: [key for key, clip in pool.clips.items() if clip.is_scored] for name, pool in pools.items()}
    works = [
        Work(
            reference=real[name],
            clips=tuple((place, pool.clips[key].path) for place, key in enumerate(keys[name])),
            fps=FPS,
        )
        for name, pool in pools.items()
    ]
    finished = score_works(Scorer(cache=cache_folder(), threads=1), works, jobs=jobs)
    found: dict[str, dict[Key, Case]] = {}
    for name, work in zip(pools, finished, strict=True):
        cases = [case for _, case in work.results if isinstance(case, Case)]
        if len(cases) == len(keys[name]):
            found[name] = dict(zip(keys[name], cases, strict=True))
    return found


def paper_takes(run: Path, jobs: int | None) -> dict[str, tuple[PaperTake, ...]]:
    """Of each scenario the takes of the paper's loop, and which one it would have chosen after each."""
    config = read_config(run)
    scored = score_folder(run, config.dataset, all_attempts=True, jobs=jobs, cache=cache_folder())
    values = {(case.scenario_id, index): case_score(case.metrics).score for index, case in scored.attempts}
    with RunStore.open(run, read_only=True) as store:
        outcomes = store.outcomes()
    found = {}
    for name, outcome in outcomes.items():
        takes = outcome.attempts
        if takes and all((name, take.index) in values for take in takes):
            found[name] = tuple(
                PaperTake(
                    value=values[name, take.index],
                    chosen=choose_take(takes[: place + 1], config.loop.compared_by),
                )
                for place, take in enumerate(takes)
            )
    return found
