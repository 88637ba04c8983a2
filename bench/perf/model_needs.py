"""What published models need of cards of several sizes, as `retake plan` says it: no weight is needed.

Every generator is planned beside one critic, and one generator beside every critic. With each generator
stands by which measured forward its takes may be reckoned; nothing is timed here.

    python -m bench.perf.model_needs --out bench/results/model_needs.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.files import write_json
from bench.perf.end_to_end.models import make_clip
from bench.perf.end_to_end.sizes import FULL
from bench.perf.hollow import make_critic, make_generator
from bench.perf.published import CRITICS, GENERATORS, HEIGHT, MIDDLE_CRITIC, TI2V, WIDTH, Generator
from engine.build.needs import plan_run
from engine.errors import DoesNotFit
from engine.machine.cards import CARDS
from engine.machine.memory import GIB
from engine.runs.manifest import surroundings
from engine.settings.config import load_config
from engine.settings.environment import offline
from engine.words import command_line

KIND = "model_needs"
PLANNED_CARDS = ("RTX 4080", "RTX 4090", "RTX 5090", "L40S", "H100")
PRESET = "fast"
Row = dict[str, Any]


def pairs() -> list[tuple[str, list[str]]]:
    """Generators by name, each with the critics that it is planned with."""
    return [(name, list(CRITICS) if name == TI2V else [MIDDLE_CRITIC]) for name in GENERATORS]


def rows(folder: Path) -> Iterator[Row]:
    """One a generator, critic and card: GiB planned and what was changed, or why nothing helps."""
    clip = replace(FULL, clip_width=WIDTH, clip_height=HEIGHT)
    make_clip(folder / "clips" / "clip.mp4", 0, clip)
    for name, model in CRITICS.items():
        make_critic(folder / name, model)
    for generator, critics in pairs():
        make_generator(folder / generator, GENERATORS[generator])
        for critic in critics:
            for card in PLANNED_CARDS:
                row = {"generator": generator, "critic": critic, "card": card, "gib": CARDS[card].gib}
                row |= _plan(folder, folder / generator, folder / critic, card)
                print(json.dumps(row), flush=True)
                yield row
        shutil.rmtree(folder / generator)


def take(model: Generator, found: Sequence[Row]) -> Row:
    """What one take of a generator is, of its plans: denoise steps (None: no plan fits), forwards in each,
    and by which measured forward they may be reckoned."""
    steps = {row["steps"] for row in found} - {None}
    assert len(steps) <= 1, f"plans of one generator differ in steps: {steps}"
    return {
        "steps": next(iter(steps), None),
        "forwards_a_step": 2 if model.is_guided else 1,
        "timed": asdict(model.timed) if model.timed else None,
    }


def _plan(folder: Path, generator: Path, critic: Path, card: str) -> Row:
    """With both lanes at once, or where that does not fit with one at a time."""
    found = _planned(folder, generator, critic, card, overlap=True)
    if found["planned_gib"] is None:
        found = _planned(folder, generator, critic, card, overlap=False)
    return found


def _planned(folder: Path, generator: Path, critic: Path, card: str, *, overlap: bool) -> Row:
    settings = {
        "dataset": str(folder / "clips"),
        "out": str(folder / "run"),
        "generator.name": str(generator),
        "critic.name": str(critic),
        "denoise.preset": PRESET,
        "dtype": "bf16",
        "schedule.overlap": overlap,
    }
    none: Row = {"planned_gib": None, "changed": [], "overlap": overlap, "steps": None}
    try:
        needs = plan_run(load_config(None, settings), timed=False, card=CARDS[card])
    except DoesNotFit as error:
        return {**none, "refused": error.fix}
    return {
        "planned_gib": round(needs.memory.required_bytes / GIB, 1),
        "changed": [change.partition(" saves ")[0] for change in needs.changed],
        "overlap": overlap,
        "steps": needs.num_steps,
        "refused": None,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.perf.model_needs", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    offline()
    with tempfile.TemporaryDirectory() as folder:
        found = list(rows(Path(folder)))
    document = {
        "schema": 1,
        "kind": KIND,
        "command": command_line("python", "-m", "bench.perf.model_needs", "--out", options.out),
        "manifest": surroundings(),
        "settings": {"preset": PRESET, "width": WIDTH, "height": HEIGHT},
        "takes": {
            name: take(model, [row for row in found if row["generator"] == name])
            for name, model in GENERATORS.items()
        },
        "needs": found,
    }
    write_json(options.out, document)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
