"""The rows of one model, in this process; what is loaded for one row is there for the next."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from bench.perf.end_to_end.engine_run import BudgetSpent, replies_forgotten
from bench.perf.memory.document import FAILED, REFUSED, RUN, same_run
from bench.perf.memory.runs import empty, measured_run, without_budget
from bench.perf.models.folders import made
from bench.perf.models.rows import BESIDE, BUDGETED, DIFFERENCE, ROUNDS, Row
from bench.perf.models.sizes import SIZES
from bench.perf.models.subjects import (
    CHECK_STEPS,
    Found,
    Subjects,
    Work,
    latents,
    prompt_of,
    take_of,
)
from bench.perf.takes_alone import Timed, denoise_steps_s, in_so_many_steps, relative_error
from engine.build.prepare import prepare
from engine.errors import DoesNotFit

SPENT = "the budget is spent; the same command goes on from here"


def measure(
    options: argparse.Namespace, wanted: Sequence[Row], rows: Sequence[Found], deadline_s: float
) -> Iterator[Found]:
    """A row for each of `wanted`, all of one model, as far as the time goes; `rows` are there already."""
    name, *others = {row.model for row in wanted}
    assert not others, f"rows of {1 + len(others)} models"
    size, models = SIZES[options.size], options.models.absolute()
    model = size.model(name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with (
        made(models, size, model, device),
        tempfile.TemporaryDirectory(prefix="models-") as out,
        replies_forgotten(),
    ):
        work = Work(model=model, preset=options.preset, models=models, out=Path(out), deadline_s=deadline_s)
        for row, found in _in_time(work, _steps(work, wanted, rows)):
            named = {"name": row.name, "model": row.model, "stage": row.stage}
            yield {"preset": options.preset, "vram": "", **found, **named}


def _steps(
    work: Work, wanted: Sequence[Row], rows: Sequence[Found]
) -> Iterator[tuple[Row, Callable[[], Found]]]:
    """What measures each row, in the order in which models can be kept."""
    subjects, budgeted = (
        Subjects(work),
        [row for row in rows if row["model"] == work.model.name and row["vram"]],
    )
    for row in wanted:
        if row.stage == BUDGETED:
            yield row, partial(_budgeted, work, row, subjects, budgeted)
        elif row.stage != BESIDE:
            yield row, partial(_lora, work, subjects)
        elif row.detail == DIFFERENCE:
            yield row, partial(_difference, subjects)
        else:
            yield row, partial(_round, work, ROUNDS.index(row.detail), subjects)


def _in_time(work: Work, steps: Iterator[tuple[Row, Callable[[], Found]]]) -> Iterator[tuple[Row, Found]]:
    """What the steps give. None begins that would not end in time, by the longest of its stage before it. A
    refusal, want of memory, or an error of a library is a result, after which the next row has its turn."""
    longest_s: dict[str, float] = {}
    for row, step in steps:
        began_s = time.perf_counter()
        if began_s + longest_s.get(row.stage, work.model.row_s) > work.deadline_s:
            print(SPENT, flush=True)
            return
        try:
            found = step()
        except BudgetSpent:
            print(SPENT, flush=True)
            return
        except DoesNotFit as error:
            found = {"state": REFUSED, "why": error.problem.splitlines()[0], "fix": error.fix}
        except (RuntimeError, ValueError) as error:  # torch's, out of memory too
            traceback.print_exc()
            found = {"state": FAILED, "why": (str(error).splitlines() or [type(error).__name__])[0]}
        seconds = time.perf_counter() - began_s
        longest_s[row.stage] = max(longest_s.get(row.stage, 0.0), seconds)
        yield row, {**found, "row_s": seconds, "vram": row.detail if row.stage == BUDGETED else ""}


def _budgeted(work: Work, row: Row, subjects: Subjects, made: list[Found]) -> Found:
    try:
        found = _under(work, row.detail, subjects, made)
    except torch.OutOfMemoryError:  # a plan counts runs, not what loading takes for a moment
        subjects.drop()
        raise
    made.append({**found, "name": row.name, "vram": row.detail})
    return found


def _under(work: Work, vram: str, subjects: Subjects, made: Sequence[Found]) -> Found:
    """A run of the product under a budget: its peak and its plan; then a take alone, the critic beside it.

    The run has few steps: those after them take as much memory.
    """
    empty()
    prepared = prepare(work.config(vram=vram))
    found: Found = {
        "state": RUN,
        "changed": list(prepared.changed),
        "planned_bytes": prepared.memory.peak_bytes,
        "budget_bytes": prepared.memory.budget_bytes,
        "plan": prepared.memory.document()["parts"],
        "config": without_budget(prepared.config),
    }
    if (same := same_run([dict(row) for row in made], found["config"], vram)) is not None:
        return same | found | {"same_run_as": same["name"]}
    began_s = time.perf_counter()
    generator, critic, loaded_bytes, _ = subjects.under(prepared)
    found["load_s"] = time.perf_counter() - began_s
    with in_so_many_steps(generator, CHECK_STEPS):
        for _ in range(1 if subjects.loaded.is_warm else 2):  # compiled at the first run of the process
            empty()
            ran = measured_run(prepared, generator, critic, loaded_bytes, work.deadline_s)
    subjects.loaded.is_warm = True
    found |= {"run_steps": CHECK_STEPS, "run_s": ran.pop("seconds"), **ran}
    empty()
    found |= work.ours(generator, take_of(generator, prepared.usable[0], seed=1))
    if found.get("relieved"):  # it makes takes otherwise from now on
        del generator, critic
        subjects.drop()
    return found


def _difference(subjects: Subjects) -> Found:
    """Of latents after a few steps, relative to the library's (L2)."""
    timed, exact, library = subjects.timed(), subjects.exact(), subjects.library()
    expected = library.latents(prompt_of(timed, subjects.scenario, 0), CHECK_STEPS).cpu()
    return {
        "state": RUN,
        "latent_error": relative_error(latents(exact, subjects.scenario).cpu(), expected),
        "latent_error_of_timed": relative_error(subjects.plain_latents(), expected),
    }


def _round(work: Work, index: int, subjects: Subjects) -> Found:
    """A take of each, in turn; who begins changes from round to round."""
    timed, library, scenario = subjects.timed(), subjects.library(), subjects.scenario
    prompt = prompt_of(timed, scenario, 1 + index)
    if not library.is_warm:
        library.latents(prompt, CHECK_STEPS)
    ways: dict[str, Callable[[], Timed]] = {
        "ours": lambda: take_of(timed, scenario, seed=1 + index),
        "library": lambda: library.take(prompt, work.model.timed_steps),
    }
    order = list(ways) if index % 2 == 0 else list(ways)[::-1]
    found = {way: ways[way]() for way in order}
    return {"state": RUN, "ours": work.ours(timed, found["ours"]), "library": work.library(found["library"])}


def _lora(work: Work, subjects: Subjects) -> Found:
    """Denoise steps with and without the file of the folder, in turn, each by weights of its own."""
    plain, scenario = subjects.timed(), subjects.scenario
    expected, merged = subjects.plain_latents(), subjects.merged()
    change = relative_error(latents(merged, scenario).cpu(), expected)  # which warms it up
    ways, steps_s = {"plain": plain, "merged": merged}, dict[str, list[float]](plain=[], merged=[])
    for index in range(len(ROUNDS)):
        for way in list(ways)[:: 1 if index % 2 == 0 else -1]:
            job = ways[way].start(scenario, prompt_of(plain, scenario, 1 + index))
            steps_s[way] += denoise_steps_s(job)
    # of equal steps, since some are of another kind
    ratios = [with_it / without for without, with_it in zip(*steps_s.values(), strict=True)]
    return {
        "state": RUN,
        "latent_change": change,
        "steps_s": steps_s,
        "step_s": {way: statistics.fmean(found) for way, found in steps_s.items()},
        "step_ratio": statistics.median(ratios),
    }
