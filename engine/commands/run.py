"""The commands that run the loop: demo, run, resume, and plan, which says what a run would need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from engine.commands._app import (
    AllowFallback,
    Attention,
    CfgGate,
    Compile,
    ConfigFile,
    Critic,
    Dataset,
    Denoiser,
    Device,
    Dtype,
    EarlyStop,
    Generator,
    Guidance,
    Limit,
    Linear,
    Loops,
    Negative,
    OnlyIncomplete,
    Out,
    Overlap,
    Policy,
    Preset,
    Quantization,
    QuantizedAttention,
    RunFolder,
    Samples,
    Seed,
    Selectors,
    Shard,
    StepCache,
    Steps,
    app,
    bench,
    console,
    execute,
    finish,
    names,
    new_folder,
)

Moved = Annotated[
    str | None,
    typer.Option(
        "--denoiser", metavar="DIR", help="The present place of the artifact that the run was started with."
    ),
]


@app.command(epilog="Example: [cyan]retake demo[/]   or   [cyan]retake demo --measure --count 120[/]")
def demo(
    out: Out = None,
    loops: Loops = None,
    steps: Steps = None,
    denoiser: Denoiser = None,
    allow_fallback: AllowFallback = None,
    device: Device = None,
    overlap: Overlap = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the bundled models on held-out scenes instead.")
    ] = False,
    count: Annotated[int, typer.Option(help="Held-out scenes of --measure.", min=1)] = 120,
    json_file: Annotated[Path, typer.Option("--json", help="Where --measure writes its figures.")] = Path(
        "runs/demo_quality.json"
    ),
) -> None:
    """Run the whole loop on six simulated scenes with the bundled models and make the report."""
    if measure:
        given = {"--loops": loops, "--steps": steps, "--device": device}
        extra = [text for key, value in given.items() if value is not None for text in (key, str(value))]
        extra += ["--work", str(out or new_folder("measure"))]
        raise typer.Exit(bench("quality.demo_quality", "--out", json_file, "--count", count, *extra))
    from engine.build.run import build_run
    from engine.demo.showcase import write_showcase
    from engine.settings.config import load_config

    out = out or new_folder("demo")
    settings = {
        "loop.loops": loops,
        "generator.steps": steps,
        "denoise.engine": denoiser,
        "denoise.allow_fallback": allow_fallback,
        "device": device,
        "schedule.overlap": overlap,
    }
    config = load_config(None, {"dataset": str(out / "dataset"), "out": str(out), **settings})
    console.print(f"writing six simulated scenes to {config.dataset}", highlight=False)
    write_showcase(config.dataset)
    outcomes = execute(lambda: build_run(config))
    switches = ("--all-attempts", "--allow-incomplete", "--no-cache")  # a failed scenario is reported below
    status = bench("scoring.physics_iq", config.out, "--dataset", config.dataset, *switches)
    finish(config.out, outcomes)
    raise typer.Exit(status)


@app.command(epilog="Example: [cyan]retake run scenes/test --loops 2 --steps 16 --out runs/first[/]")
def run(
    dataset: Dataset = None,
    generator: Generator = None,
    critic: Critic = None,
    quantization: Quantization = None,
    loops: Loops = None,
    samples: Samples = None,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    negative: Negative = None,
    preset: Preset = None,
    attention: Attention = None,
    quantized_attention: QuantizedAttention = None,
    linear: Linear = None,
    policy: Policy = None,
    compile_blocks: Compile = None,
    cfg_gate: CfgGate = None,
    step_cache: StepCache = None,
    early_stop: EarlyStop = None,
    denoiser: Denoiser = None,
    allow_fallback: AllowFallback = None,
    seed: Seed = None,
    only_incomplete: OnlyIncomplete = None,
    selectors: Selectors = None,
    limit: Limit = None,
    shard: Shard = None,
    out: Out = None,
    overlap: Overlap = None,
    device: Device = None,
    dtype: Dtype = None,
    config: ConfigFile = None,
) -> None:
    """Run the refinement loop over a dataset: plan, generate, critique, rewrite, generate again, choose."""
    from engine.build.run import build_run
    from engine.settings.config import load_config

    overrides = {
        "dataset": None if dataset is None else str(dataset),
        "out": None if out is None else str(out),
        "generator.name": generator,
        "generator.steps": steps,
        "generator.guidance_scale": guidance_scale,
        "generator.negative": negative,
        "denoise.preset": preset,
        "denoise.attention": None if attention is None else names(attention),
        "denoise.quantized_attention": None if quantized_attention is None else names(quantized_attention),
        "denoise.linear": linear,
        "denoise.policy": policy,
        "denoise.compile": compile_blocks,
        "denoise.cfg_gate": cfg_gate,
        "denoise.step_cache": step_cache,
        "denoise.early_stop": early_stop,
        "denoise.engine": denoiser,
        "denoise.allow_fallback": allow_fallback,
        "critic.name": critic,
        "critic.quantization": quantization,
        "loop.loops": loops,
        "loop.samples": samples,
        "loop.seed": seed,
        "loop.only_incomplete": only_incomplete,
        "loop.selectors": None if selectors is None else names(selectors),
        "limit": limit,
        "shard": shard,
        "schedule.overlap": overlap,
        "device": device,
        "dtype": dtype,
    }
    loaded = load_config(config, overrides, default_out=new_folder("run"))
    finish(loaded.out, execute(lambda: build_run(loaded)))


@app.command(epilog="Example: [cyan]retake resume runs/first[/]")
def resume(folder: RunFolder, denoiser: Moved = None) -> None:
    """Go on with a run that was stopped or killed; finished attempts are kept, failed scenarios retried."""
    from engine.build.run import resume_run

    finish(folder, execute(lambda: resume_run(folder, denoiser=denoiser)))


@app.command(epilog="Example: [cyan]retake plan physics-IQ-benchmark --generator wan2.2-ti2v --steps 32[/]")
def plan(
    dataset: Dataset = None,
    generator: Generator = None,
    critic: Critic = None,
    quantization: Quantization = None,
    loops: Loops = None,
    samples: Samples = None,
    steps: Steps = None,
    limit: Limit = None,
    overlap: Overlap = None,
    device: Device = None,
    dtype: Dtype = None,
    config: ConfigFile = None,
    timed: Annotated[bool, typer.Option("--time/--no-time", help="Load the models and time them.")] = True,
) -> None:
    """Say what a run would need before it starts: memory part by part, and time at most."""
    from engine.build.needs import plan_run
    from engine.settings.config import load_config

    overrides = {
        "dataset": None if dataset is None else str(dataset),
        "generator.name": generator,
        "generator.steps": steps,
        "critic.name": critic,
        "critic.quantization": quantization,
        "loop.loops": loops,
        "loop.samples": samples,
        "limit": limit,
        "schedule.overlap": overlap,
        "device": device,
        "dtype": dtype,
    }
    needs = plan_run(load_config(config, overrides, default_out=new_folder("run")), timed=timed)
    header, *rows = needs.memory.table()
    table = Table(*header, title="memory")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"{needs.num_scenarios} scenarios, {needs.num_refused} of them unusable", highlight=False)
    if needs.time is not None:
        console.print(needs.time.describe(), highlight=False)
