"""AnyFlow-FAR at tiny size: equality with the library's pipeline, the context of both forwards, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_denoise as tiny
import torch
from diffusers import AnyFlowFARPipeline, FlowMapEulerDiscreteScheduler
from diffusers.pipelines.anyflow import pipeline_anyflow_far
from tiny_wan import LATENT_CHANNELS, copy, edit
from tiny_wan_variants import (
    PROMPT,
    asked,
    build_anyflow,
    build_clip,
    chunked,
    latents_of,
    quiet,
    take,
    without_ftfy,
)

from engine.denoise.family import Parts
from engine.denoise.finite import FiniteWatch
from engine.denoise.sampler import read_schedule
from engine.denoise.take import pad_first
from engine.errors import ConfigError, ModelError
from engine.generators.wan import generator as wan
from engine.generators.wan.far import forward as far
from engine.generators.wan.far.family import FarFamily
from engine.generators.wan.far.forward import FarDenoiser
from engine.generators.wan.far.library import LibraryFar
from engine.generators.wan.far.rollout import ChunkModel, ChunkRollout
from engine.machine.memory import GRAPHS
from engine.settings.presets import PRESETS
from engine.types import Scenario
from engine.video.prefix import read_prefix

torch.set_num_threads(1)
CLOSE = 1e-5
"""Largest difference of latents to the pipeline's, whose deviation is about 2; 2e-6 was seen."""
CHUNKS = (1, 3, 3, 3, 3, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_anyflow(tmp_path_factory.mktemp("models") / "anyflow")


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    return build_clip(tmp_path_factory.mktemp("clips"))


def load(folder: Path, **options: Any) -> wan.WanGenerator:
    return wan.load(folder, **{"device": "cpu", "dtype": "fp32"} | options)


# --- against the library ------------------------------------------------------------------------------------


def test_a_prefix_of_three_seconds_equals_the_pipeline(
    folder: Path, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which fills its cache anew behind each chunk of the prefix; one pass gives the same."""
    without_ftfy(monkeypatch, pipeline_anyflow_far)
    generator = load(folder)
    assert generator.num_steps == 2 * 4
    latents, frames = latents_of(monkeypatch, generator.start(scenario, PROMPT))
    pipeline = quiet(AnyFlowFARPipeline.from_pretrained(folder, local_files_only=True))
    video = torch.from_numpy(pad_first(read_prefix(scenario.prefix, generator.spec)))
    arguments = asked(4) | {"num_frames": 69, "guidance_scale": 1.0, "chunk_partition": [1, 3, 3, 3, 3, 3, 2]}
    del arguments["negative_prompt"]
    expected = pipeline(video=video.permute(0, 3, 1, 2)[None].float() / 255, **arguments).frames
    assert (latents - expected).abs().max() < CLOSE < 1e-5 * expected.std()
    assert frames.shape == (20, 32, 32, 3) and frames.std() > 1
    fast, _ = latents_of(monkeypatch, load(folder, denoise=PRESETS["fast"]).start(scenario, PROMPT))
    assert (fast - expected).abs().max() < CLOSE


def ours(transformer: Any) -> FarDenoiser:
    parts = Parts(
        element_wise=tiny.OURS,
        attention=tiny.bound(),
        quantized_attention=None,
        cross_attention=tiny.bound(),
    )
    family = FarFamily(transformer)
    return family.denoiser(family.fast_forward(parts), None, graphs=False)


def rolled(model: ChunkModel, prefix: int, chunks: tuple[int, ...] = CHUNKS) -> torch.Tensor:
    noise, schedule = tiny.random(1, LATENT_CHANNELS, sum(chunks), 8, 8), read_schedule(EULER, 2)
    clean = tiny.random(1, LATENT_CHANNELS, prefix, 8, 8, seed=5)
    text, watch = tiny.text(), FiniteWatch()
    with torch.inference_mode():
        rollout = ChunkRollout(model, text, noise, clean, watch, schedule=schedule, chunks=chunks)
        left = list(rollout.steps())
    assert left == list(range(len(left)))[::-1]
    assert torch.equal(rollout.latents[:, :, :prefix], clean)
    return rollout.latents


EULER = FlowMapEulerDiscreteScheduler(shift=5.0)


@pytest.mark.parametrize("changes", [{}, {"deltatime_type": "t-r", "full_chunk_limit": 2}], ids=str)
def test_our_context_is_the_library_s_from_the_first_chunk_on(changes: dict[str, Any]) -> None:
    """With none, some and all of the past compressed: what was compressed before is not computed again."""
    transformer = chunked(num_layers=2, **changes)
    expected = rolled(LibraryFar(transformer), 1)
    assert (rolled(ours(transformer), 1) - expected).abs().max() < CLOSE
    assert (expected[:, :, 1:] - rolled(LibraryFar(transformer), 4)[:, :, 1:]).abs().max() > 0.1


def test_keys_of_zeros_that_the_library_adds_are_in_ours_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """48 tokens at work are filled to 128, with nothing that hides the rest (docs/behaviour.md)."""
    transformer = chunked(num_layers=1)
    expected = rolled(LibraryFar(transformer), 4)
    monkeypatch.setattr(far, "QUERY_BLOCK", 1)
    assert (rolled(ours(transformer), 4) - expected).abs().max() > 0.01


def test_a_prefix_is_remembered_once(folder: Path) -> None:
    passes: list[int] = []

    class Noting(LibraryFar):
        def remember(self, latents: Any, chunks: Any, count: int, *others: Any) -> Any:
            passes.append(count)
            return super().remember(latents, chunks, count, *others)

    rolled(Noting(chunked(num_layers=1)), 10)
    assert passes == [4, 5], "four chunks of prefix in one pass, then behind each new chunk but the last"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_says_what_it_leaves_out(folder: Path, scenario: Scenario, preset: str) -> None:
    generator = load(folder, denoise=PRESETS[preset])
    left_out = {name for name, note in generator.notes.items() if note.startswith("off: ")}
    expected = {
        "exact": set(),
        "fast": {"prefix_kept", "quantized_attention"},
        "fastest": {"prefix_kept", "quantized_attention", "cfg_gate", "step_cache"},
    }
    assert left_out == expected[preset]
    if preset == "fastest":
        first, again, other = (
            take(generator.start(scenario, dataclasses.replace(PROMPT, seed=seed))) for seed in (1, 1, 2)
        )
        assert np.array_equal(first, again) and (first != other).any()


def test_inner_blocks_run_with_eight_bit_layers(folder: Path, scenario: Scenario) -> None:
    generator = load(folder, denoise=dataclasses.replace(PRESETS["fast"], linear="fp8"), dtype="bf16")
    assert generator.notes["linear"].startswith("fp8: 8 layers")
    assert take(generator.start(scenario, PROMPT)).std() > 1


def test_the_plan_has_the_context_in_it(folder: Path) -> None:
    """Two of each block: what both forwards keep from chunk to chunk."""
    outline = load(folder, with_weights=False, denoise=PRESETS["fast"])
    spec = outline.spec
    model = ours(chunked())
    with torch.inference_mode():
        latents = tiny.random(1, LATENT_CHANNELS, 16, 4, 4)
        context = model.remember(latents, (1, 3, 3, 3, 3, 3, 2), 6, model.prepare(tiny.text()), None)
        for compressed in (False, True):
            model.far.rotary(latents, (0, 18, 18), compressed=compressed)
    tables = [table for pair in model.far._tables._values.values() for table in pair]
    held = sum(buffer.nbytes for buffer in (*context.keys, *context.values, *tables))
    assert outline.parts.variant.run.kept_bytes(outline.parts, spec) == held
    assert outline.footprint(spec).working["denoise step"] > held
    card = load(
        folder, with_weights=False, denoise=PRESETS["fast"], device="cuda", capability=(9, 0)
    ).footprint(spec)
    assert GRAPHS not in card.held, "short as a forward is, there is no graph of it"


# --- refusals, before a weight is read ----------------------------------------------------------------------


REFUSALS: dict[str, tuple[str, dict[str, Any], str]] = {
    "2 s": ("retake.json", {"prefix_frames": 32}, r"prefix_frames 32 \(2 s\).*needs 48 \(3 s\)\n"),
    "12 fps": ("retake.json", {"fps": 12.0}, "fps 12; .*16, as AnyFlow-FAR was trained"),
    "compressed": ("retake.json", {"width": 48}, "width 48; .* a multiple of 32"),
    "frames": ("retake.json", {"num_frames": 9}, "num_frames 9; .* a multiple of 4"),
    "guided": ("retake.json", {"guidance_scale": 3.0}, "guidance_scale 3, .*have guidance in them"),
    "own": ("retake.json", {"prefix_attention": "own"}, "prefix_attention 'own'"),
    "chunks": (
        "transformer/config.json",
        {"chunk_partition": [1, 5, 5]},
        r"prefix_frames 48, which are 13 latent frames; .*ends with a chunk: 1, 6, 11, 16",
    ),
    "scheduler": (
        "scheduler/scheduler_config.json",
        {"_class_name": "UniPCMultistepScheduler"},
        "UniPCMultistepScheduler; .*FlowMapEulerDiscreteScheduler",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_unfit_folders_are_refused_before_weights_are_read(folder: Path, tmp_path: Path, name: str) -> None:
    spoiled = copy(folder, tmp_path)
    for path in spoiled.rglob("*.safetensors"):
        path.unlink()
    file, changes, message = REFUSALS[name]
    edit(spoiled, file, **changes)
    with pytest.raises((ModelError, ConfigError), match=message):
        load(spoiled, with_weights=False)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"early_stop": 0.1}, "early_stop ends a take by its preview"),
        ({"quantized_attention": ("sdpa_math",), "forward": "fast"}, "8-bit attention has no scales"),
        ({"graphs": "on", "forward": "fast"}, "there is no CUDA graph of AnyFlow-FAR"),
    ],
)
def test_parts_that_it_does_not_have_are_refused_by_name(
    folder: Path, part: dict[str, Any], message: str
) -> None:
    settings = dataclasses.replace(PRESETS["exact"], **part)
    with pytest.raises(ConfigError, match=message):
        load(folder, denoise=settings)
