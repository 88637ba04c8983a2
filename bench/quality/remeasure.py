"""Measures all that follows from the bundled models again, in one call: the quality that RESULTS.md tells of.

Runs of the loop are made in --engines processes at once, each a shard; what they make is merged, scored and
compared by the programs of this folder. A job that ended well is not repeated: the same command goes on with
what is missing, and what fails holds up only what needs it. Speed is not measured here: the machine is busy.

    OMP_NUM_THREADS=1 python -m bench.quality.remeasure --work W --engines 8 --device cuda
    python -m bench.quality.remeasure --only default,controls --list
    python -m bench.quality.remeasure --work T --engines 2 --count 2 --tuning-count 2 --only default
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench import campaign
from bench.campaign import CORES, Campaign, Step, wanted
from bench.console import user_error
from bench.quality import loop_budget
from bench.quality.budget_phases import paper_arguments
from bench.quality.prompt_kinds import CONTROLS
from engine.demo.scenes.seeds import HELD_OUT, TUNING, SeedSet
from engine.errors import ConfigError
from engine.settings.environment import usable_cores
from engine.words import counted

ENGINE: Final = "engine"
"""A job that loads models; the others are scoring and figures, on host cores."""
PARTS: Final = ("default", "controls", "selectors", "denoiser", "stages", "variants", "budget", "finishes")
BRIEF: Final = ("--first-prompt", "brief")
CHOICES: Final = (*BRIEF, "--loops", "1", "--samples", "4", "--gain", "none")
"""Of the runs that selectors choose from: four takes of the brief, four of the plan, judged one by one."""


SAMPLES: Final = ("--plan-samples", "8")
AGAIN: Final = ("--finish-restarts", "2")
VARIANTS: Final = {"samples": SAMPLES, "again": AGAIN, "both": (*SAMPLES, *AGAIN)}
"""Of the loop that begins with the plan: of eight plans the most agreed, first steps again, and both."""
FINISHES: Final = 36
"""Tuning scenes that show what finishing a scout in another way is worth."""
SCOUTS: Final = ("--seeds", "2", "--choosers", "consensus", "--loops", "1")


def steps(options: argparse.Namespace) -> Iterator[Step]:
    """All of them, the most telling first: where several could start, the first does."""
    work: Path = options.work
    held, out = work / "budget" / "dataset", work / "results"
    device = ("--device", options.device)
    both = (*BRIEF, *device)
    yield _scenes("default/scenes", held, HELD_OUT, options.count)
    yield _scenes("selectors/tuning-scenes", work / "tuning", TUNING, options.tuning_count)
    default = work / "default"
    yield from _run(options, "default/run", held, default, both, after="default/scenes")
    yield from _run(
        options, "selectors/tuning", work / "tuning", work / "choices-tuning",
        (*CHOICES, "--keep-states", *device), after="selectors/tuning-scenes",
    )  # fmt: skip
    yield from _run(
        options, "selectors/held", held, work / "choices", (*CHOICES, *device), after="default/scenes"
    )
    controls = _module("loop_controls", "--run", default, "--work", work / "controls")
    for kind in CONTROLS:
        yield Step(
            name=f"controls/{kind}", kind=ENGINE, after=("default/run",),
            words=(*controls, "--only", kind, "--out", str(work / "controls" / f"{kind}.json")),
        )  # fmt: skip
    quality = ("--run", default, "--work", work / "quality", "--out", out / "demo_quality.json")
    yield Step(
        name="default/quality",
        kind=ENGINE,
        after=("default/run",),
        words=_module("demo_quality", *quality, "--controls", min(60, options.count)),
    )
    yield Step(
        name="controls/figures",
        after=tuple(f"controls/{kind}" for kind in CONTROLS),
        words=(*controls, "--out", str(out / "loop_controls.json")),
    )
    yield from _selectors(options, work, out)
    yield from _denoiser(options, held, work / "denoiser", out)
    given = ("--run", default, "--device", options.device, "--out", out / "critic_stages.json")
    yield Step(
        name="stages/figures", kind=ENGINE, after=("default/run",), words=_module("critic_stages", *given)
    )
    yield from _variants(options, {"tuning": work / "tuning", "held": held}, work / "variants", out)
    yield from _budget(options, work / "budget", out)
    yield from _finishes(options, work, out)


def _selectors(options: argparse.Namespace, work: Path, out: Path) -> Iterator[Step]:
    for name, run in (("tuning", "choices-tuning"), ("held", "choices")):
        yield Step(
            name=f"selectors/{name}-scores",
            after=(f"selectors/{name}",),
            words=_retake("score", work / run, "--all-attempts", "--json", work / run / "scores.json"),
        )
    tuning = ("--run", work / "choices-tuning", "--out", out / "states.probe")
    yield Step(
        name="selectors/states",
        after=("selectors/tuning-scores",),
        words=_module("fit_states", *tuning, "--report", out / "states_fit.json"),
    )
    given = ("--run", work / "choices", "--tune-on", work / "choices-tuning", "--by", options.selectors)
    processes = max(1, usable_cores() // 4)  # engines may run beside them
    how = ("--samples", 4, "--scored", "--untimed", "--processes", processes, "--device", options.device)
    yield Step(
        name="selectors/figures",
        after=("selectors/held-scores", "selectors/tuning-scores"),
        words=_module("selector_quality", *given, *how, "--out", out / "selectors.json"),
    )


def _denoiser(options: argparse.Namespace, held: Path, work: Path, out: Path) -> Iterator[Step]:
    given = ("--dataset", held, "--work", work)
    made = []
    for shard in _shards(options.engines):
        made.append(f"denoiser/make-{shard}")
        make = _module("denoiser_quality", "make", *given, "--shard", shard, "--device", options.device)
        yield Step(name=made[-1], kind=ENGINE, after=("default/scenes",), words=make)
    score = _module("denoiser_quality", "score", *given, "--out", out / "denoiser_quality.json")
    yield Step(name="denoiser/figures", after=tuple(made), words=score)


def _variants(
    options: argparse.Namespace, datasets: Mapping[str, Path], work: Path, out: Path
) -> Iterator[Step]:
    """On tuning scenes, to decide by, and on those held out."""
    begun = {"tuning": "selectors/tuning-scenes", "held": "default/scenes"}
    plan = ("--first-prompt", "plan", "--device", options.device)
    for scenes, dataset in datasets.items():
        runs = {name: work / f"{scenes}-{name}" for name in ("base", *VARIANTS)}
        for name, run in runs.items():
            extra = (*plan, *VARIANTS.get(name, ()))
            yield from _run(options, f"variants/{run.name}", dataset, run, extra, after=begun[scenes])
        given = [word for name in VARIANTS for word in ("--variant", runs[name])]
        file = out / ("loop_variants.json" if scenes == "held" else f"loop_variants_{scenes}.json")
        yield Step(
            name=f"variants/{scenes}",
            after=tuple(f"variants/{run.name}" for run in runs.values()),
            words=_module("loop_variants", "--run", runs["base"], *given, "--out", file),
        )


def _budget(options: argparse.Namespace, work: Path, out: Path) -> Iterator[Step]:
    words = ["--count", str(options.count), "--seeds", str(options.seeds)]
    words += ["--out", str(out / "loop_budget.json"), "--choosers", options.budget_choosers]
    words += [] if options.costs is None else ["--costs", str(options.costs)]
    pools = yield from _candidates(options, "budget", work, words, after="default/scenes")
    given = ("--work", work, "--device", options.device, *words)
    yield Step(name="budget/figures", after=pools, words=_module("loop_budget", *given))


def _finishes(options: argparse.Namespace, work: Path, out: Path) -> Iterator[Step]:
    """Other finishes of scouts, and looks of fewer pixels, which have candidates of their own."""
    count = min(FINISHES, options.tuning_count)
    forms = {
        "finishes": ("--scout-steps", "2", "--kept", "0.25", "0.5", "--again", "2"),
        "small": ("--scout-steps", "2", "4", "--shrink", "2"),
    }
    made: list[str] = []
    for name, form in forms.items():
        place = work / name
        yield _scenes(f"finishes/{name}-scenes", place / "dataset", TUNING, count)
        words = ["--tuning", "--count", str(count), *SCOUTS, *form, "--out", str(place / "budget.json")]
        made += yield from _candidates(
            options, f"finishes/{name}", place, words, after=f"finishes/{name}-scenes"
        )
    given = ("--work", work / "finishes", "--small", work / "small", "--out", out / "scout_finishes.json")
    yield Step(name="finishes/figures", after=tuple(made), words=_module("scout_finishes", *given))


def _candidates(
    options: argparse.Namespace, name: str, work: Path, given: Sequence[str], *, after: str
) -> Generator[Step, None, tuple[str, ...]]:
    """The paper's loop, then its candidates in shards; the names of the steps that make these."""
    words = ["--work", str(work), "--device", options.device, *given]
    extra = paper_arguments(loop_budget.make_parser().parse_args(words))
    yield from _run(options, f"{name}/paper", work / "dataset", work / "paper", extra, after=after)
    pools = []
    for shard in _shards(options.engines):
        pools.append(f"{name}/pool-{shard}")
        pool = _module("loop_budget", *words, "--shard", shard)
        yield Step(name=pools[-1], kind=ENGINE, after=(f"{name}/paper",), words=pool)
    return tuple(pools)


def _run(
    options: argparse.Namespace, name: str, dataset: Path, out: Path, extra: Iterable[str], *, after: str
) -> Iterator[Step]:
    """`retake run` in shards, then merged as the step `name`."""
    shards = []
    for shard in _shards(options.engines):
        folder = out.with_name(f"{out.name}.{shard.replace('/', '-of-')}")
        shards.append((f"{name}-{shard}", folder))
        words = _retake("run", dataset, "--out", folder, "--shard", shard, *extra)
        yield Step(name=shards[-1][0], kind=ENGINE, after=(after,), words=words)
    merge = _retake("merge", *(folder for _, folder in shards), "--out", out)
    yield Step(name=name, after=tuple(shard for shard, _ in shards), words=merge)


def _scenes(name: str, out: Path, seeds: SeedSet, count: int) -> Step:
    if not 1 <= count <= seeds.count:
        raise ConfigError(f"{counted(count, 'scene')}", fix=f"there are 1 to {seeds.count} of them ({name})")
    words = _retake("scenes", out, "--seed", seeds.first, "--count", count, "--views", "center")
    return Step(name=name, words=words)


def _shards(parts: int) -> list[str]:
    return [f"{part}/{parts}" for part in range(1, parts + 1)]


def _module(name: str, *words: object) -> tuple[str, ...]:
    return ("-m", f"bench.quality.{name}", *map(str, words))


def _retake(*words: object) -> tuple[str, ...]:
    return ("-m", "engine.cli", *map(str, words))


def _parser() -> argparse.ArgumentParser:
    parser = campaign.parser_of("python -m bench.quality.remeasure", __doc__, PARTS, holds="runs, logs")
    add = parser.add_argument
    add("--engines", type=int, default=2, help="processes at once that hold models, and shards of each run")
    add("--jobs", type=int, default=2, help="processes at once that score or make figures")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--count", type=int, default=HELD_OUT.count, help="held-out scenes")
    add("--tuning-count", type=int, default=TUNING.count, help="scenes that choosers are tuned on")
    add("--seeds", type=int, default=4, help="of the budget: noises of each prompt")
    add("--costs", type=Path, metavar="JSON", help="of the budget: see bench.quality.loop_budget")
    add("--selectors", default="consensus,geometry,vjepa,critic_score,static_camera,rank_sum")
    add("--budget-choosers", default="consensus,critic_score", help="asked of every look and take there")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 all that was asked is made; 1 something is left; 2 the user's error."""
    options = campaign.parse(_parser(), arguments)
    try:
        asked = wanted(steps(options), options.only.split(","), PARTS)
    except ConfigError as error:
        return user_error(error)
    if options.list:
        print(campaign.listed(asked))
        return 0
    cores = max(1, min(options.jobs, usable_cores()))
    return campaign.exit_status(Campaign(options.work, {ENGINE: options.engines, CORES: cores}), asked)


if __name__ == "__main__":
    sys.exit(main())
