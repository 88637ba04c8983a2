"""Measures the speed of everything on this machine's GPU again, in one call, as far as the time goes.

For a card that is lent by the hour: the most telling comes first, nothing begins that could not end, what was
measured is kept, and the same command goes on with the rest. Models of full size with random weights are made
in WORK/models (100 GB with all parts). On several GPUs each step has one to itself, and shares host cores.

    python -m bench.perf.remeasure --work W --minutes 55
    python -m bench.perf.remeasure --work W --minutes 25 --only takes,cosmos3 --taken-up bench/results
    python -m bench.perf.remeasure --only takes,runs --list
    python -m bench.perf.remeasure --work T --tiny    # on a CPU: that everything runs; its times mean nothing
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import campaign
from bench.campaign import GPU, Campaign, Step, wanted
from bench.console import user_error
from bench.perf.end_to_end.campaign import PARTS as RUNS
from bench.perf.end_to_end.made import CLIPS, GENERATOR
from engine.errors import ConfigError
from engine.settings.environment import offline

PARTS: Final = (
    *("scaling", "takes", "runs", "cosmos3", "dense", "vae", "models", "denoiser", "critic", "scouts"),
    *("memory", "overlap", "attention", "others"),
)
HEADLINE: Final = ("fast", "script", "fastest", "first-take", "script-best")
"""Of whole runs: what README tells of."""
DENOISERS: Final = (
    ("denoiser_{card}", "1.3b,draft", "hopper,alone", 10, 300.0),
    ("denoiser_{card}_5b", "5b", "hopper-short", 8, 180.0),
    ("denoiser_{card}_14b", "14b", "hopper-large", 5, 240.0),
    ("denoiser_{card}_cosmos3", "cosmos3-nano", "hopper-short", 4, 240.0),
)
"""File, subjects, variants, rounds, and about what that takes on an H200, in seconds."""
MADE: Final = "runs/make"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Of one card, whose files are named after it: h200, rtx4090, cpu."""

    work: Path
    card: str
    gpus: int = 1
    tiny: bool = False

    @property
    def results(self) -> Path:
        return self.work / "results"

    @property
    def _size(self) -> tuple[str, ...]:
        return ("--size", "tiny") if self.tiny else ()

    def _models(self, name: str) -> Path:
        return self.work / "models" / name

    def _step(
        self,
        name: str,
        *words: object,
        module: str | None = None,
        out: str | None = None,
        after: tuple[str, ...] = (),
        places: int = 1,
        least_s: float = 0.0,
        most_s: float | None = None,
        writes: str = "",
    ) -> Step:
        """Of the module that is called as the part, unless another is named. `out`: its file, with the card's
        place in it, which no other step writes at the same time."""
        given = [str(word) for word in words]
        file = "" if out is None else f"{out.format(card=self.card)}.json"
        return Step(
            name=name,
            words=(
                *("-m", f"bench.perf.{module or name.partition('/')[0]}", *given),
                *(("--out", str(self.results / file)) if file else ()),
            ),
            after=after,
            kind=GPU,
            places=places,
            least_s=0.0 if self.tiny else least_s,
            most_s=most_s,
            writes=writes or file,
        )

    def steps(self) -> Iterator[Step]:
        """The most telling first. What a step needs in seconds is about what it takes on an H200."""
        yield from self._scaling()
        yield self._past_dense("takes", "--only", "takes", least_s=520, most_s=900)
        yield from self._runs("runs", HEADLINE, least_s=200)
        given = ("--models", self._models("cosmos3"), *self._size)
        yield self._step("cosmos3/takes", *given, out="cosmos3_{card}", least_s=200, most_s=1200)
        yield self._past_dense("dense", least_s=60, most_s=1500)
        sizes = "tiny" if self.tiny else "480p,720p"
        yield self._step("vae/decodes", "--sizes", sizes, out="vae_{card}", least_s=60, most_s=600)
        given = ("--models", self._models("video"), *self._size)
        yield self._step("models/rows", *given, out="models_{card}", least_s=120, most_s=1800)
        yield from self._denoisers()
        yield from self._critics()
        yield from self._beside_runs()
        problems = ("--problems", "1x2x256x64", "--rounds", 1) if self.tiny else ("--rounds", 20)
        yield self._step(
            "attention/table", *problems, module="attention_table", out="attention_{card}", least_s=90
        )
        yield from self._runs("others", (), least_s=120)

    def _scaling(self) -> Iterator[Step]:
        """Which makes the models of whole runs."""
        runs, clips = self._models("runs"), 2 if self.tiny else 16
        made = ("make", "--out", runs, "--clips", clips, *self._size)
        yield self._step(MADE, *made, module="end_to_end", least_s=60)
        if self.gpus < 2 and not self.tiny:
            return
        how = ("--workers", 2) if self.tiny else ("--gpus", self.gpus)
        many = ("--scenarios", clips, "--killed-scenarios", 2 if self.tiny else 6)
        given = (*how, *many, *self._size, "--models", runs, "--parts", self.work / "parts" / "scaling")
        yield self._step(
            "scaling/gpus",
            *given,
            out=f"scaling_{{card}}x{self.gpus}",
            places=self.gpus,
            after=(MADE,),
            least_s=420,
        )

    def _past_dense(self, part: str, *words: object, least_s: float, most_s: float) -> Step:
        small = ("--small", "--rounds", 1) if self.tiny else ()
        return self._step(
            f"{part}/past-dense", *words, *small, module="past_dense", out="past_dense_{card}",
            least_s=least_s, most_s=most_s,
        )  # fmt: skip

    def _runs(self, part: str, only: Sequence[str], *, least_s: float) -> Iterator[Step]:
        parts = self.work / "parts" / "runs"
        given = ("all", "--models", self._models("runs"), "--parts", parts)
        chosen = ("--only", *only) if only else ()
        made = self._step(
            f"{part}/made", *given, *chosen, module="end_to_end", after=(MADE,),
            least_s=least_s, most_s=1500, writes="runs",
        )  # fmt: skip
        yield made
        files = [parts / f"{name}.json" for name in only or (one.name for one in RUNS)]
        yield self._step(
            f"{part}/joined", "join", *files, module="end_to_end", out="end_to_end_{card}", after=(made.name,)
        )

    def _denoisers(self) -> Iterator[Step]:
        every = (("denoiser_{card}", "tiny", "everywhere", 1, 0.0),) if self.tiny else DENOISERS
        for file, subjects, variants, rounds, seconds in every:
            given = ("--subjects", subjects, "--variants", variants, "--rounds", rounds)
            yield self._step(f"denoiser/{subjects}", *given, module="denoiser", out=file, least_s=seconds)

    def _critics(self) -> Iterator[Step]:
        for size, file in (("8b", "vlm_decode_{card}"), ("qwen3.5-9b", "vlm_decode_{card}_hybrid"))[
            : 1 if self.tiny else 2
        ]:
            given = ("--size", "tiny" if self.tiny else size)
            yield self._step(f"critic/{size}", *given, module="vlm_decode", out=file, least_s=150)

    def _beside_runs(self) -> Iterator[Step]:
        """What takes the models of whole runs."""
        runs = self._models("runs")
        few = ("--together", 2, "--rounds", 1, "--scout-steps", 1) if self.tiny else ("--together", 2, 4, 8)
        made = ("--generator", runs / GENERATOR, "--dataset", runs / CLIPS)
        yield self._step(
            "scouts/batches", *made, *few, module="scout_batches", out="scout_batches_{card}", after=(MADE,),
            least_s=120,
        )  # fmt: skip
        yield self._step(
            "memory/budgets", "--models", runs, out="memory_{card}", after=(MADE,), least_s=120, most_s=1200
        )
        yield self._step(
            "overlap/ways", "--models", runs, *self._size, out="overlap_{card}", after=(MADE,),
            least_s=120, most_s=900,
        )  # fmt: skip


def card() -> str:
    """Of this machine: "h200", "rtx4090", "cpu"."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    words = torch.cuda.get_device_name().lower().replace("geforce", "").split()
    return "".join(word for word in words if word != "nvidia")


def take_up(documents: Path, results: Path, of: str) -> list[str]:
    """Copies what of a card is not in `results` yet; the names. ConfigError for what is no folder."""
    if not documents.is_dir():
        raise ConfigError(f"--taken-up {documents} is no folder", fix="give one of documents: bench/results")
    results.mkdir(parents=True, exist_ok=True)
    found = [path for path in sorted(documents.glob("*.json")) if of in path.stem.split("_")]
    new = [path for path in found if not (results / path.name).exists()]
    for path in new:
        shutil.copy(path, results)
    return [path.name for path in new]


def _parser() -> argparse.ArgumentParser:
    parser = campaign.parser_of("python -m bench.perf.remeasure", __doc__, PARTS, holds="models, logs")
    add = parser.add_argument
    add("--minutes", type=float, help="that all may take; what is not measured then is told")
    add("--gpus", type=int, default=1, help="of this machine, a step on each; from 2 on there is scaling")
    add(
        "--taken-up",
        type=Path,
        metavar="DIR",
        help="documents of this card, of which only the missing rows are measured where a part can go on",
    )
    add("--tiny", action="store_true", help="tiny models, on any machine")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 all that was asked is measured; 1 something is left; 2 the user's error."""
    parser, began_s = _parser(), time.perf_counter()
    options = campaign.parse(parser, arguments)
    if options.gpus < 1 or (options.minutes is not None and not options.minutes > 0):
        parser.error("--gpus and --minutes are above 0")
    try:
        return _work(options, began_s)
    except ConfigError as error:
        return user_error(error)


def _work(options: argparse.Namespace, began_s: float) -> int:
    offline()  # for the steps too, which inherit it
    name = card()
    plan = Plan(work=options.work, card=name, gpus=options.gpus, tiny=options.tiny)
    asked = wanted(plan.steps(), options.only.split(","), PARTS)
    if options.list:
        print(campaign.listed(asked))
        return 0
    if name == "cpu" and not options.tiny:
        raise ConfigError("there is no GPU here that torch can use", fix="--tiny tries everything on a CPU")
    if options.taken_up is not None:
        print(f"taken up: {', '.join(take_up(options.taken_up, plan.results, name)) or 'nothing new'}")
    ends_s = None if options.minutes is None else began_s + 60 * options.minutes
    return campaign.exit_status(Campaign(options.work, {GPU: options.gpus}, ends_s=ends_s), asked)


if __name__ == "__main__":
    sys.exit(main())
