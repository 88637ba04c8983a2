"""The steps of bench.perf.aoti, each for a fresh process: make a package, compile cold, load, time all forms.

A step writes WORK/NAME.json as it goes and says with the time what it does. Knows nothing of the other steps
but the package that the first leaves in WORK/packages.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import RetakeError
from engine.runs.manifest import write_manifest
from export.artifacts.store import Store
from export.spec import Profile, Subject
from export.targets import aoti
from kernels import reference, timing

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLOSE = {"bf16": 0.05, "fp8": 0.15}
"""Largest relative error against the eager module of the recipe at which a row is timed: other fusions round
elsewhere, in FP8 to the neighbouring step; a wrong forward is near 1."""
LOSS = 0.2
"""The same for the eager FP8 module against the eager bf16 one."""
ACCURACY = {"bf16": "16 bits", "fp8": "8 bits"}
ROUNDS_PER_WRITE = 2
FAILURES = (RetakeError, RuntimeError, AssertionError)

Forward = Callable[[], Tensor]


@dataclass(slots=True, kw_only=True)
class Job:
    """A step and what it has found so far. `spawned_s`: time.time() when its process was started."""

    name: str
    recipe: str
    work: Path
    spawned_s: float
    tiny: bool = False
    rounds: int = 8
    record: dict[str, Any] = field(default_factory=dict)

    def write(self) -> None:
        write_manifest(self.work / f"{self.name}.json", self.record)

    def say(self, text: str) -> None:
        print(f"  [{time.time() - self.spawned_s:6.1f} s] {self.name}: {text}", flush=True)

    @contextlib.contextmanager
    def lap(self, key: str) -> Iterator[None]:
        """Seconds of a part of the step, the device's work included."""
        started = time.perf_counter()
        yield
        wait()
        self.record[key] = time.perf_counter() - started
        self.say(f"{key} {self.record[key]:.1f}")
        self.write()


def run(job: Job, step: Callable[[Job], None]) -> bool:
    """Whether it succeeded; else the record has the reason."""
    job.record["import_s"] = time.time() - job.spawned_s
    job.say("imported")
    try:
        step(job)
        job.record["finished"] = True
    except FAILURES as error:
        job.record["reason"] = f"{type(error).__name__}: {error}"[:2000]
        job.say(job.record["reason"])
    job.write()
    return "reason" not in job.record


def package(job: Job) -> None:
    """Trace and compile to a package, from nothing."""
    with job.lap("module_s"):
        made = module_of(job, job.recipe)
    with job.lap("total_s"):
        artifact = aoti.build(
            made,
            job.recipe,
            Store(job.work / "packages"),
            on_progress=lambda stage, peak: job.say(f"{stage}, {peak / 2**30:.1f} GiB resident"),
        )
    (seconds,) = artifact.details["seconds"].values()
    job.record |= {
        "folder": artifact.folder.name,
        "trace_s": seconds["trace"],
        "compile_s": seconds["compile"],
        "package_bytes": artifact.num_bytes,
        "weights_bytes": artifact.details["weights_bytes"],
        "peak_rss_bytes": artifact.details["peak_rss_bytes"],
    }


def cold(job: Job) -> None:
    """The first call of the compiled module, with an empty cache."""
    with job.lap("module_s"):
        made = module_of(job, job.recipe)
        inputs = example(made.spec.inputs, made.spec.profiles[0].sizes)
    with torch.inference_mode(), job.lap("first_call_s"):
        compiled(made)(*inputs.values())
    job.record |= cache_use()


def load(job: Job) -> None:
    """A process without the model and without a compiler: to the first forward of the package."""
    folder = package_folder(job, job.recipe)
    with job.lap("load_s"):
        made = aoti.load_module(folder, DEVICE)
    inputs = example(made.spec.inputs, made.spec.profiles[0].sizes)
    wait()
    with torch.inference_mode(), job.lap("first_call_s"):
        made(inputs)


def measure(job: Job) -> None:
    """Every form of every recipe in turn, those that are right. Compiles with the cache of the cold steps."""
    rows: list[dict[str, Any]] = []
    job.record["rows"] = rows
    forwards: dict[str, Forward] = {}
    with torch.inference_mode():
        above: Tensor | None = None  # what the next eager module is compared with
        for recipe in job.recipe.split(","):
            made = module_of(job, recipe)
            inputs = example(made.spec.inputs, made.spec.profiles[0].sizes)
            above = library(job, inputs) if above is None else above
            base, outputs = above, {"the library": above} if not rows else {}
            for name, prepare in forms_of(job, made, recipe, inputs).items():
                is_eager = name.startswith("eager")
                limit = LOSS if is_eager and rows else CLOSE[recipe]
                row, forward, velocity = first_call(job, name, prepare, base, limit)
                row |= {"stock": not name.startswith("AOTI"), "accuracy": ACCURACY[recipe]}
                rows.append(row)
                if velocity is not None:
                    row["equal_to"] = [known for known in outputs if torch.equal(outputs[known], velocity)]
                    outputs[name] = velocity
                if forward is not None:
                    forwards[name] = forward
                if is_eager and velocity is not None:
                    above = base = velocity
                job.write()
        _time(job, rows, forwards)


def _time(job: Job, rows: list[dict[str, Any]], forwards: Mapping[str, Forward]) -> None:
    times: dict[str, list[float]] = {name: [] for name in forwards}
    for part in range(0, job.rounds, ROUNDS_PER_WRITE):
        found = timing.alternate(forwards, ROUNDS_PER_WRITE, warmup=0 if part else 1)
        for row in rows:
            if row["name"] in found:
                times[row["name"]] += found[row["name"]]
                row["ms"] = times[row["name"]]
                row["summary"] = asdict(timing.summary(row["ms"]))
        job.say(f"{part + ROUNDS_PER_WRITE} of {job.rounds} rounds")
        job.write()


STEPS: dict[str, Callable[[Job], None]] = {"package": package, "cold": cold, "load": load, "measure": measure}


def forms_of(
    job: Job, made: Subject, recipe: str, inputs: Mapping[str, Tensor]
) -> dict[str, Callable[[dict[str, Any]], Forward]]:
    """Name -> what makes a forward, noting in its row how. Eager comes first."""
    ordered = tuple(inputs.values())

    def eager(row: dict[str, Any]) -> Forward:
        return lambda: made.module(*ordered)

    def by_compile(row: dict[str, Any]) -> Forward:
        call = compiled(made)
        return lambda: call(*ordered)

    def packaged(row: dict[str, Any]) -> Forward:
        started = time.perf_counter()
        loaded = aoti.load_module(package_folder(job, recipe), DEVICE)
        row["load_s"] = time.perf_counter() - started
        return lambda: loaded(inputs)["velocity"]

    return {f"eager {recipe}": eager, f"torch.compile {recipe}": by_compile, f"AOTI {recipe}": packaged}


def first_call(
    job: Job,
    name: str,
    prepare: Callable[[dict[str, Any]], Forward],
    base: Tensor,
    limit: float,
) -> tuple[dict[str, Any], Forward | None, Tensor | None]:
    """(row, forward or None, velocity): a form is timed only if it is close to `base`."""
    row: dict[str, Any] = {"name": name}
    before = cache_use()
    try:
        forward = prepare(row)
        started = time.perf_counter()
        velocity = forward().clone()
        wait()
    except FAILURES as error:
        job.say(f"{name}: {type(error).__name__}: {error}"[:1000])
        return row | {"reason": f"{type(error).__name__}: {error}"[:2000]}, None, None
    row["first_call_s"] = time.perf_counter() - started
    row |= {key: value - before[key] for key, value in cache_use().items()}
    errors = reference.compare(velocity, base)
    row |= {"relative_error": errors.relative, "cosine": errors.cosine}
    job.say(f"{name}: first call {row['first_call_s']:.1f} s, error {errors.relative:.2g}")
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        forward()
        wait()
        row["peak_allocated_bytes"] = torch.cuda.max_memory_allocated()
    if not errors.relative <= limit:
        reason = f"relative error {errors.relative:.3g}, allowed {limit}: not timed"
        return row | {"reason": reason}, None, velocity
    return row, forward, velocity


def module_of(job: Job, recipe: str) -> Subject:
    """The subject on the device, quantized: the same weights in every process on one device."""
    from bench.perf.denoisers.wan import TEXT_TOKENS
    from export.subjects import wan_dit

    video = video_of(job)
    _, _, latent_frames, height, width = video.latent_shape
    sizes = {"B": 1, "F": latent_frames, "h": height, "w": width, "L": TEXT_TOKENS}
    profile = Profile(name=f"{height}x{width}x{latent_frames}", sizes=sizes)
    made = wan_dit.prepare(transformer_of(job), profiles=(profile,), per_frame=False)
    return aoti.quantize(made, recipe)


def library(job: Job, inputs: Mapping[str, Tensor]) -> Tensor:
    """The library's own forward of the same weights and inputs; none of its text is padding."""
    transformer: Any = transformer_of(job)
    dtype = transformer.patch_embedding.weight.dtype
    velocity = transformer(
        hidden_states=inputs["latents"].to(dtype),
        timestep=inputs["timestep"],
        encoder_hidden_states=inputs["text"].to(dtype),
        return_dict=False,
    )[0]
    job.say("the library's forward")
    return velocity.float()  # type: ignore[no-any-return]


def transformer_of(job: Job) -> Any:
    return video_of(job).build(torch.device(DEVICE))


def video_of(job: Job) -> Any:
    from bench.perf.denoisers.wan import WanSubject

    if job.tiny:
        return WanSubject(architecture="tiny", width=64, height=64, num_frames=9)
    return WanSubject(architecture="wan2.1-1.3b", width=832, height=480, num_frames=81)


def example(tensors: Any, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Seeded noise; all of the text counts."""
    source = torch.Generator(DEVICE).manual_seed(0)
    made = {
        tensor.name: torch.randn(tensor.shape(sizes), generator=source, device=DEVICE) for tensor in tensors
    }
    made["timestep"].fill_(700.0)
    made["text_mask"].zero_()
    return made


def compiled(made: Subject) -> Callable[..., Tensor]:
    return torch.compile(made.module, fullgraph=True, dynamic=False)


def cache_use() -> dict[str, int]:
    """Graphs that the compile cache had and that it had not, so far in this process."""
    from torch._dynamo.utils import counters

    found = counters["inductor"]
    return {"cache_hits": found["fxgraph_cache_hit"], "cache_misses": found["fxgraph_cache_miss"]}


def package_folder(job: Job, recipe: str) -> Path:
    found = [made.folder for made in Store(job.work / "packages").list() if made.key["recipe"] == recipe]
    assert len(found) == 1, f"{len(found)} packages of {recipe} below {job.work}: empty that folder"
    return found[0]


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
