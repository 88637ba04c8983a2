"""The policy of a Wan generator: each layer's 8-bit error on real denoise trajectories, and what that admits.

Runs the unmodified transformer over training scenes (no held-out seed), measures its linear layers and
self-attentions at every timestep, writes the policy beside the model, bound to its weights, and the table.

    python -m bench.quality.policy_calibration --scenes 4 --out bench/results/policy_calibration.json
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.console import user_error
from bench.files import write_json
from bench.quality import export_trajectories
from bench.quality.measured_models import manifest_of
from engine.build.model_folders import find_generator
from engine.denoise.guidance import UNCOND
from engine.denoise.step_changes import StepChanges
from engine.errors import RetakeError
from engine.generators.wan import generator as wan
from engine.generators.wan.family import WanFamily
from engine.generators.wan.recipes import read_attention
from engine.machine.device import resolve_device, use_threads
from engine.quant.calibration import Budget, LayerError, Meter, choose
from engine.quant.precision_policy import FILE, Curve, Policy, checkpoint_digest
from engine.quant.recipes import resolve
from engine.settings.config import BUNDLED
from engine.settings.environment import num_threads, offline
from engine.words import counted

COMMAND = "python -m bench.quality.policy_calibration"
NOTES = (
    "A layer's error is norm(difference) / norm(exact) over all scenes when it is given the inputs of the "
    "unmodified module, so that a bad layer shows where it is; errors of layers add up in the velocity.",
    "FP8 layers are summed as Hopper's tensor cores sum, on 64 output features: fp8 with fast accumulation, "
    "which may not make the error a tenth larger, fp8_full_accum without (engine/quant/accumulation.py).",
    "8-bit attention is computed in plain torch as the FP8 and INT8 kernels round it, in another order of "
    "summation; formats are measured on blocks that the policy may make 8-bit.",
    "sparse attention keeps the keys of the prefix and a quarter of the blocks behind it exact, per head and "
    "call, and counts every other block as its mean; sol, comfy-kitchen's, has no exact prefix. No kernel is "
    "both sparse or skipping and 8-bit where a policy decides.",
    "changes: from step to step, behind the prefix, by the rules of step caches; one curve each.",
)


class _Timed:
    """The denoiser of a generator, which tells the meter the timestep of every call, and `changes` what the
    branch with the text sees and says behind the prefix."""

    def __init__(self, inner: Any, module: Any, meter: Meter, changes: StepChanges) -> None:
        self._inner, self._module, self._meter, self._changes = inner, module, meter, changes
        self._block: Any = None

    def prepare(self, text: Any) -> Any:
        return self._inner.prepare(text)

    def __call__(self, latents: Any, timestep: Any, text: Any, *, branch: str) -> Any:
        self._meter.timestep = float(timestep.value)
        self._meter.prefix_tokens = timestep.prefix_tokens
        hook = self._module.blocks[0].register_forward_hook(self._keep, with_kwargs=True)
        try:
            velocity = self._inner(latents, timestep, text, branch=branch)
        finally:
            hook.remove()
        if branch != UNCOND:  # of both rows the last is that of the text
            frames, tokens = timestep.prefix_frames, timestep.prefix_tokens
            self._changes.note(
                float(timestep.value),
                latents[:, :, frames:],
                self._block[-1:, tokens:],
                velocity[-1:, :, frames:],
            )
        return velocity

    def _keep(self, block: Any, args: Any, kwargs: Any, output: Any) -> None:
        self._block = output - (args[0] if args else kwargs["hidden_states"])


def measure(generator: Any, num_scenes: int, num_rows: int) -> tuple[list[LayerError], Mapping[str, Curve]]:
    """The errors of every layer on takes of training scenes, and what those change from step to step; the
    generator is as before afterwards."""
    module = generator.parts.transformer
    family, inner = WanFamily(module), generator.denoiser
    meter = Meter(
        module,
        resolve(family.recipe, module).quantized,
        family.calibrated_attentions,
        read=read_attention,
        num_rows=num_rows,
    )
    changes = StepChanges()
    generator.denoiser = _Timed(inner, module, meter, changes)
    try:
        with tempfile.TemporaryDirectory() as folder, meter:
            for scenario, prompt in export_trajectories.requests(
                Path(folder), num_scenes, held_out=False, negative=generator.negative_prompt
            ):
                changes.begin()
                job = generator.start(scenario, prompt)
                for _ in range(1 + generator.schedule.num_steps):  # what follows is decoding
                    job.launch().wait()
    finally:
        generator.denoiser = inner
    return meter.errors(), changes.curves()


def document(
    errors: Sequence[LayerError], policy: Policy, budget: Budget, num_scenes: int, manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Rows a kind and format, and the whole table for the plots."""
    rows = []
    for kind, format in dict.fromkeys((error.kind, error.format) for error in errors):
        group = [error for error in errors if (error.kind, error.format) == (kind, format)]
        worst = max(group, key=lambda error: error.relative_error)
        refused = sorted({error.layer for error in group if not budget.admits(error)})
        rows.append(
            {
                "name": f"{kind} {format}",
                "num_layers": len({error.layer for error in group}),
                "median_error": sorted(error.relative_error for error in group)[len(group) // 2],
                "worst_error": worst.relative_error,
                "smallest_cosine": min(error.cosine for error in group),
                "worst_layer": worst.layer,
                "worst_timestep": worst.timestep,
                "refused": {
                    layer: [e.timestep for e in group if e.layer == layer and not budget.admits(e)]
                    for layer in refused
                },
            }
        )
    return {
        "schema": 1,
        "kind": "policy",
        "command": f"{COMMAND} --scenes {num_scenes}",
        "num_scenarios": num_scenes,
        "budget": asdict(budget),
        "source": policy.source,
        "rows": rows,
        "errors": [asdict(error) for error in errors],
        "changes": policy.changes,
        "notes": NOTES,
        "manifest": manifest,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--generator", default=BUNDLED, help='"demo" or a folder')
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--rows", type=int, default=128, help="of each layer and call that are compared")
    parser.add_argument("--steps", type=int, help="of the schedule; default: what the folder says")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32", help="fp32 measures 8 bits alone, bf16 what a GPU runs")
    parser.add_argument("--policy", type=Path, help=f"default: {FILE} in the generator's folder")
    parser.add_argument("--out", type=Path, help="the JSON file of all errors")
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    offline()
    use_threads(num_threads())
    try:
        folder = find_generator(options.generator).path
        generator = wan.load(
            folder,
            device=resolve_device(options.device),
            dtype=options.dtype,
            num_inference_steps=options.steps,
        )
        errors, changes = measure(generator, options.scenes, options.rows)
        producer = (
            f"bench.quality.policy_calibration: {counted(options.scenes, 'training scene')}, {options.dtype}"
        )
        budget = Budget()
        policy = choose(errors, budget, source=checkpoint_digest(folder), producer=producer)
        policy = replace(policy, changes=changes)
        path = options.policy or folder / FILE
        policy.save(path)
    except RetakeError as error:
        return user_error(error)
    made = document(errors, policy, budget, options.scenes, manifest_of({"generator": folder}))
    for row in made["rows"]:
        refused = ", ".join(row["refused"]) or "none"
        console.print(
            f"{row['name']}: error {row['median_error']:.4f}, at worst {row['worst_error']:.4f} "
            f"({row['worst_layer']} at {row['worst_timestep']:.0f}); refused: {refused}"
        )
    console.print(f"{path}: {counted(len(policy.entries), 'entry')}")
    if options.out is not None:
        write_json(options.out, made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
