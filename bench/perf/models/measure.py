"""The rows of one stage of one model, in this process; the models are loaded once for all of them."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.perf.end_to_end.engine_run import BudgetSpent, replies_forgotten
from bench.perf.end_to_end.made import CLIPS, CRITIC
from bench.perf.memory.document import FAILED, REFUSED, RUN, same_run
from bench.perf.memory.runs import Loaded, empty, loaded_models, measured_run, without_budget
from bench.perf.models.beside import Library
from bench.perf.models.folders import LORA_FILE, make
from bench.perf.models.rows import BESIDE, BUDGETED, DIFFERENCE, ROUNDS, Row
from bench.perf.models.sizes import SIZES, Model
from bench.perf.takes_alone import Timed, denoise_steps_s, latents_of, relative_error, timed_take
from engine.build.prepare import Prepared, load, load_generator, prepare
from engine.denoise.recent import Recent
from engine.denoise.sampler import read_schedule
from engine.errors import DoesNotFit
from engine.generators.wan.generator import REMEMBERED
from engine.settings.config import RunConfig, load_config
from engine.types import Prompt, Scenario

CHECK_STEPS = 2
"""Of takes that are compared or only warm up."""
SPENT = "the budget is spent; the same command goes on from here"

Found = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the rows of this process share. `out` is an empty folder."""

    model: Model
    preset: str
    models: Path
    out: Path
    deadline_s: float

    def config(self, *, vram: str = "", preset: str = "", fit: str = "auto", lora: bool = False) -> RunConfig:
        folder, on_gpu = self.models / self.model.name, torch.cuda.is_available()
        return load_config(
            None,
            {
                "dataset": str(self.models / CLIPS),
                "out": str(self.out / "run"),
                "generator.name": str(folder),
                "generator.steps": self.model.timed_steps,
                "generator.loras": (str(folder / LORA_FILE),) if lora else (),
                "critic.name": str(self.models / CRITIC),
                "critic.quantization": "nf4" if on_gpu else "none",
                "dtype": "bf16" if on_gpu else "fp32",
                "denoise.preset": preset or self.preset,
                "loop.loops": 0,
                "memory.vram": vram,
                "memory.fit": fit,
            },
        )

    def told(self, timed: Timed) -> Found:
        """Of a take of few steps: those, the median one, and what a clip of all its steps takes by it."""
        step_s, model = statistics.median(timed.steps_s), self.model
        missing = model.whole_steps - model.timed_steps
        clip_s = timed.seconds + missing * step_s
        return {**timed.document(), "step_s": step_s, "clip_s": clip_s, "clip_steps": model.whole_steps}


def measure(
    options: argparse.Namespace, wanted: Sequence[Row], rows: Sequence[Found], deadline_s: float
) -> Iterator[Found]:
    """A row for each of `wanted`, all of one process, as far as the time goes; `rows` are there already."""
    (name, stage), *others = {row.process for row in wanted}
    assert not others, f"rows of {1 + len(others)} processes"
    size, models = SIZES[options.size], options.models.absolute()
    model = size.model(name)
    make(models, size, model, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    steps = {BUDGETED: _budgeted, BESIDE: _beside}.get(stage, _with_lora)
    with tempfile.TemporaryDirectory(prefix="models-") as out, replies_forgotten():
        work = Work(model=model, preset=options.preset, models=models, out=Path(out), deadline_s=deadline_s)
        for row, found in _in_time(steps(work, wanted, rows), deadline_s):
            named = {"name": row.name, "model": row.model, "stage": row.stage}
            yield {"preset": options.preset, "vram": "", **found, **named}


def _in_time(
    steps: Iterator[tuple[Row | None, Callable[[], Found]]], deadline_s: float
) -> Iterator[tuple[Row, Found]]:
    """What the steps of rows give; those without a row only prepare. None begins that would not end in time,
    by the longest before it, without the first, which loads. A refusal, or want of memory, is a result."""
    longest_s = 0.0
    for index, (row, step) in enumerate(steps):
        began_s = time.perf_counter()
        if began_s + longest_s > deadline_s:
            print(SPENT, flush=True)
            return
        try:
            found = step()
        except BudgetSpent:
            print(SPENT, flush=True)
            return
        except DoesNotFit as error:
            found = _refused(error)
        except torch.OutOfMemoryError as error:
            found = _failed(error)
        if index:
            longest_s = max(longest_s, time.perf_counter() - began_s)
        if row is not None:
            yield row, found


def _refused(error: DoesNotFit) -> Found:
    return {"state": REFUSED, "why": error.problem.splitlines()[0], "fix": error.fix}


def _failed(error: torch.OutOfMemoryError) -> Found:
    return {"state": FAILED, "why": str(error).splitlines()[0]}


def _budgeted(
    work: Work, wanted: Sequence[Row], rows: Sequence[Found]
) -> Iterator[tuple[Row | None, Callable[[], Found]]]:
    loaded, made = Loaded(), [row for row in rows if row["model"] == work.model.name and row["vram"]]

    def one(vram: str) -> Found:
        try:
            found = _under(work, vram, loaded, made) | {"vram": vram}
        except torch.OutOfMemoryError as error:  # a plan counts runs, not what loading takes for a moment
            loaded.models = None
            return _failed(error) | {"vram": vram}
        made.append({"name": f"{work.model.name}/{BUDGETED}/{vram}", **found})
        return found

    for row in wanted:
        yield row, lambda vram=row.detail: one(vram)  # type: ignore[misc]


def _under(work: Work, vram: str, loaded: Loaded, made: Sequence[Found]) -> Found:
    """A run of the product under a budget: its peak and its plan; then a take alone, the critic beside it."""
    try:
        prepared = prepare(work.config(vram=vram))
    except DoesNotFit as error:
        return _refused(error)
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
    began_s, before = time.perf_counter(), loaded.key
    generator, critic, loaded_bytes = loaded_models(prepared, loaded)
    found["load_s"] = time.perf_counter() - began_s
    if loaded.key != before:
        with few_steps(generator):  # compiled at its first run
            measured_run(prepared, generator, critic, loaded_bytes, work.deadline_s)
        empty()
    found |= measured_run(prepared, generator, critic, loaded_bytes, work.deadline_s)
    found["run_s"] = found.pop("seconds")
    empty()
    return found | work.told(_timed(generator, prepared.usable[0], seed=1))


def _beside(
    work: Work, wanted: Sequence[Row], rows: Sequence[Found]
) -> Iterator[tuple[Row | None, Callable[[], Found]]]:
    """Preset exact gives the modules of the pipeline; the timed preset has weights of its own."""
    models: list[tuple[Any, Any, Library, Scenario]] = []

    def loaded() -> tuple[Any, Any, Library, Scenario]:
        if not models:
            prepared, exact, _critic = _loaded(work, "exact")
            kept.append(_critic)
            timed = _again(prepared, work.config(fit="refuse"))
            scenario = prepared.usable[0]
            models.append((exact, timed, Library(work.model.name, exact, scenario), scenario))
        return models[0]

    kept: list[Any] = []  # the critic, resident
    asked = {row.detail: row for row in wanted}
    if DIFFERENCE in asked:
        yield asked[DIFFERENCE], lambda: _difference(*loaded())
    else:
        yield None, lambda: _both_warm(*loaded()[1:])
    for index, name in enumerate(ROUNDS):
        if name in asked:
            yield asked[name], lambda index=index: _round(work, index, *loaded())  # type: ignore[misc]


def _difference(exact: Any, timed: Any, library: Library, scenario: Scenario) -> Found:
    """Of latents after a few steps, relative to the library's (L2); which warms all three up."""
    prompt = prompt_of(timed, scenario, 0)
    expected = library.latents(prompt, CHECK_STEPS).cpu()
    _warm_up(timed, scenario)
    return {
        "state": RUN,
        "latent_error": relative_error(_latents(exact, scenario).cpu(), expected),
        "latent_error_of_timed": relative_error(_latents(timed, scenario).cpu(), expected),
    }


def _both_warm(timed: Any, library: Library, scenario: Scenario) -> Found:
    """What is timed, where the difference is known."""
    library.latents(prompt_of(timed, scenario, 0), CHECK_STEPS)
    _warm_up(timed, scenario)
    return {}


def _round(work: Work, index: int, exact: Any, timed: Any, library: Library, scenario: Scenario) -> Found:
    """A take of each, in turn; who begins changes from round to round."""
    prompt, steps = prompt_of(timed, scenario, 1 + index), work.model.timed_steps
    ways: dict[str, Callable[[], Timed]] = {
        "ours": lambda: _timed(timed, scenario, seed=1 + index),
        "library": lambda: library.take(prompt, steps),
    }
    order = list(ways) if index % 2 == 0 else list(ways)[::-1]
    return {"state": RUN} | {way: work.told(ways[way]()) for way in order}


def _with_lora(
    work: Work, wanted: Sequence[Row], rows: Sequence[Found]
) -> Iterator[tuple[Row | None, Callable[[], Found]]]:
    for row in wanted:
        yield row, lambda: _lora(work)


def _lora(work: Work) -> Found:
    """Denoise steps with and without the file of the folder, in turn, each by weights of its own."""
    prepared, plain, _critic = _loaded(work, work.preset)
    merged = _again(prepared, work.config(fit="refuse", lora=True))
    scenario = prepared.usable[0]
    change = relative_error(_latents(merged, scenario), _latents(plain, scenario))  # which warms both up
    ways, steps_s = {"plain": plain, "merged": merged}, dict[str, list[float]](plain=[], merged=[])
    for index in range(len(ROUNDS)):
        for way in list(ways)[:: 1 if index % 2 == 0 else -1]:
            job = ways[way].start(scenario, prompt_of(plain, scenario, 1 + index))
            steps_s[way] += denoise_steps_s(job)
    step_s = {way: statistics.median(found) for way, found in steps_s.items()}
    ratio = step_s["merged"] / step_s["plain"]
    return {
        "state": RUN,
        "latent_change": change,
        "steps_s": steps_s,
        "step_s": step_s,
        "step_ratio": ratio,
    }


def _loaded(work: Work, preset: str) -> tuple[Prepared, Any, Any]:
    """With generator and critic, as a run has them, or DoesNotFit: nothing is changed for it."""
    prepared = prepare(work.config(preset=preset, fit="refuse"))
    generator, critic = load(prepared)
    return prepared, generator, critic


def _again(prepared: Prepared, config: RunConfig) -> Any:
    """Another generator of the same folder."""
    return load_generator(config, prepared.generator, prepared.device, prepared.dtype, with_weights=True)


def prompt_of(generator: Any, scenario: Scenario, seed: int) -> Prompt:
    return Prompt(text=scenario.text, negative=generator.negative_prompt, seed=seed, revision=0)


def _timed(generator: Any, scenario: Scenario, *, seed: int) -> Timed:
    """A take as of a scenario that is new."""
    generator.prefixes = Recent(REMEMBERED)
    prompt = prompt_of(generator, scenario, seed)
    return timed_take(lambda: generator.start(scenario, prompt))[1]


def _warm_up(generator: Any, scenario: Scenario) -> None:
    with few_steps(generator):
        _timed(generator, scenario, seed=0)


def _latents(generator: Any, scenario: Scenario) -> torch.Tensor:
    """After a few steps, as the autoencoder gets them: its statistics are 0 and 1."""
    with few_steps(generator):
        job = generator.start(scenario, prompt_of(generator, scenario, 0))
        return latents_of(job, generator.parts.vae)


@contextmanager
def few_steps(generator: Any) -> Iterator[None]:
    """Inside, takes have CHECK_STEPS steps."""
    before = generator.schedule
    generator.schedule = read_schedule(generator.parts.scheduler, CHECK_STEPS)
    try:
        yield
    finally:
        generator.schedule = before
