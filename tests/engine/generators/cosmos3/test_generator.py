"""The Cosmos3 generator on tiny random folders: the pipeline, determinism, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_cosmos3_folder as tiny
import torch
from diffusers import Cosmos3OmniPipeline, UniPCMultistepScheduler

from engine.api.takes import finish
from engine.denoise import take as jobs
from engine.denoise.take import pad_first
from engine.errors import ConfigError, ModelError, NotFinite
from engine.generators.cosmos3 import generator as cosmos3
from engine.generators.cosmos3.generator import Cosmos3Generator
from engine.settings.presets import PRESETS, DenoiseSettings
from engine.types import Prompt, Scenario
from engine.video.prefix import read_prefix

torch.set_num_threads(1)

PROMPT = Prompt(text="a red ball rolls to the right.", negative="still", seed=7, revision=0)
FAST = DenoiseSettings(forward="fast", compile="off")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build_folder(tmp_path_factory.mktemp("models") / "cosmos3")


@pytest.fixture(scope="module")
def generator(folder: Path) -> Cosmos3Generator:
    return cosmos3.load(folder, device="cpu", dtype="fp32")


def pipeline_of(folder: Path, shift: float = 5.0) -> Any:
    """The library's pipeline over a folder, with the levels that NVIDIA samples at."""
    made = Cosmos3OmniPipeline.from_pretrained(
        folder, local_files_only=True, enable_safety_checker=False, use_native_flow_schedule=True
    )
    config = made.scheduler.config
    made.scheduler = UniPCMultistepScheduler.from_config(config, use_karras_sigmas=False, flow_shift=shift)
    made.set_progress_bar_config(disable=True)
    return made


def arguments(generator: Cosmos3Generator, scenario: Scenario) -> dict[str, Any]:
    frames = pad_first(read_prefix(scenario.prefix, generator.spec))
    return {
        "prompt": PROMPT.text,
        "negative_prompt": PROMPT.negative,
        "video": frames.astype(np.float32) / 255.0,
        "condition_frame_indexes_vision": [0, 1, 2],
        "num_frames": 17,
        "height": 48,
        "width": 64,
        "fps": 8.0,
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
        "generator": torch.Generator().manual_seed(PROMPT.seed),
    }


@pytest.mark.parametrize("settings", [PRESETS["exact"], FAST], ids=["exact", "fast"])
@pytest.mark.parametrize(
    ("layout", "metadata"), [(None, "same"), (tiny.EDGE, "inverse")], ids=["super", "edge"]
)
def test_a_take_equals_the_pipeline(
    tmp_path: Path,
    scenario: Scenario,
    monkeypatch: pytest.MonkeyPatch,
    settings: DenoiseSettings,
    layout: dict[str, Any] | None,
    metadata: str,
) -> None:
    """Latents within 1e-5: seen were 2.3e-6, of values up to 3.8, after four steps; pixels to one level."""
    folder = tiny.build_folder(
        tmp_path / "model",
        layout=layout,
        num_inference_steps=4,
        structured_prompt=False,
        negative_metadata=metadata,
    )
    generator = cosmos3.load(folder, device="cpu", dtype="fp32", denoise=settings)
    decoded: list[torch.Tensor] = []
    denormalise = jobs.denormalise
    monkeypatch.setattr(jobs, "denormalise", lambda vae, z: decoded.append(z) or denormalise(vae, z))
    video = finish(generator.start(scenario, PROMPT))

    pipeline = pipeline_of(folder)
    if metadata == "same":
        pipeline.inverse_duration_template = pipeline.duration_template
        pipeline.inverse_video_resolution_template = pipeline.video_resolution_template
    seen: list[torch.Tensor] = []

    def keep(pipe: Any, step: int, time: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(given["latents"])
        return given

    given = arguments(generator, scenario)
    pixels = pipeline(**given, output_type="np", callback_on_step_end=keep).video
    latents = seen[-1]
    torch.testing.assert_close(decoded[0], latents, atol=1e-5, rtol=0)
    assert latents[:, :, 3:].std() > 0.1
    assert np.abs(video.frames.astype(int) - (pixels[9:] * 255).round()).max() <= 1  # rounding at .5


def test_the_text_tower_runs_once_a_text(generator: Cosmos3Generator, scenario: Scenario) -> None:
    calls: list[int] = []
    layer = generator.parts.transformer.layers[0].self_attn.to_q
    handle = layer.register_forward_hook(lambda module, args, out: calls.append(len(out)))
    other = replace(PROMPT, text="another text")
    for prompt in (PROMPT, replace(PROMPT, seed=8), other):
        finish(generator.start(scenario, prompt))
    handle.remove()
    assert len(calls) == 3, "the negative prompt, and each of two prompts"


def test_takes_do_not_depend_on_what_ran_before(folder: Path, scenario: Scenario) -> None:
    fresh = cosmos3.load(folder, device="cpu", dtype="fp32")
    first = finish(fresh.start(scenario, PROMPT)).frames
    finish(fresh.start(scenario, replace(PROMPT, seed=9)))
    assert (finish(fresh.start(scenario, PROMPT)).frames == first).all()
    assert (finish(fresh.start(scenario, replace(PROMPT, seed=9))).frames != first).any()


@pytest.mark.parametrize("streamed", [("text_encoder",), ("text_encoder", "blocks")])
def test_towers_that_visit_give_the_same_bits(
    generator: Cosmos3Generator, folder: Path, scenario: Scenario, streamed: tuple[str, ...]
) -> None:
    visiting = cosmos3.load(folder, device="cpu", dtype="fp32", streamed=streamed)
    assert visiting.notes["streamed"] and visiting.reasoner is None
    frames = finish(visiting.start(scenario, PROMPT)).frames
    assert (frames == finish(generator.start(scenario, PROMPT)).frames).all()


def test_what_a_take_never_reads_is_not_kept(folder: Path, generator: Cosmos3Generator) -> None:
    names = {name.split(".")[0] for name, _ in generator.parts.transformer.named_parameters()}
    assert names == {"embed_tokens", "layers", "norm_moe_gen", "proj_in", "proj_out", "time_embedder"}
    lending = cosmos3.load(folder, device="cpu", dtype="fp32", lends=True, with_weights=False)
    assert hasattr(lending.parts.transformer, "lm_head") and lending.reasoner is lending.parts.transformer


def test_a_preset_is_taken(folder: Path, scenario: Scenario, tmp_path: Path) -> None:
    settings = replace(PRESETS["fastest"], compile="off", vae_chunk=1)
    fast = cosmos3.load(folder, device="cpu", dtype="fp32", denoise=settings, cache=tmp_path)
    job = fast.start(scenario, PROMPT)
    assert finish(job).frames.shape == (8, 48, 64, 3)
    assert fast.notes["forward"] == "fast" and fast.notes["vae_chunk"]


def test_a_weight_that_is_no_number_is_named(folder: Path, scenario: Scenario) -> None:
    broken = cosmos3.load(folder, device="cpu", dtype="fp32")
    broken.parts.transformer.layers[1].mlp_moe_gen.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(NotFinite, match=r"layers\.1\.mlp_moe_gen\.down_proj\.weight"):
        finish(broken.start(scenario, PROMPT))


def edited(folder: Path, target: Path, name: str, **changes: Any) -> Path:
    import shutil

    copy = Path(shutil.copytree(folder, target / "copy"))
    path = copy / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return copy


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "distilled"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 500}, "500 training levels"),
        ("retake.json", {"width": 40}, "multiple of 16"),
        ("retake.json", {"num_frames": 6}, "multiple of 4"),
        ("transformer/config.json", {"patch_latent_dim": 8}, "patch_latent_dim|cannot be loaded"),
        ("model_index.json", {"_class_name": "WanPipeline"}, "Cosmos3OmniPipeline"),
        (
            "transformer/config.json",
            {"quantization_config": {"quant_method": "modelopt"}},
            r"quantized already \(modelopt\)",
        ),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_before_a_weight_is_read(
    folder: Path, tmp_path: Path, name: str, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(ModelError, match=text):
        cosmos3.load(
            edited(folder, tmp_path, name, **changes), device="cpu", dtype="fp32", with_weights=False
        )


def test_a_scheduler_of_a_newer_library_is_read(folder: Path, tmp_path: Path) -> None:
    newer = {"_class_name": "Cosmos3EdgeUniPCMultistepScheduler"}
    copy = edited(folder, tmp_path, "scheduler/scheduler_config.json", **newer)
    made = cosmos3.load(copy, device="cpu", dtype="fp32", with_weights=False)
    assert made.schedule == cosmos3.load(folder, device="cpu", dtype="fp32", with_weights=False).schedule


def test_levels_are_nvidias_whatever_the_folder_says(generator: Cosmos3Generator) -> None:
    """Of shift 5 over even levels; Karras' levels of the folder would end at 0.13."""
    even = np.linspace(1 - 1 / 1000, 0, 4)[:-1]
    wanted = 5 * even / (1 + 4 * even)
    found = [generator.schedule.noise_share(step) for step in range(1, 3)]
    assert found == pytest.approx(wanted[1:].tolist(), abs=1e-4)


def test_refusals(folder: Path, generator: Cosmos3Generator, scenario: Scenario) -> None:
    for options, text in (
        ({"num_inference_steps": 0}, "below 1"),
        ({"guidance_scale": 0.5}, "below 1"),
        ({"streamed": ("blocks",), "denoise": FAST}, "only the library's forward"),
        ({"streamed": ("experts",)}, "Cosmos3 has one transformer"),
        ({"denoise": replace(FAST, graphs="on"), "with_weights": False}, "no CUDA graph"),
        ({"denoise": DenoiseSettings(step_cache=0.2, step_cache_by="spectrum")}, "not measured for Cosmos3"),
        ({"denoise": replace(FAST, policy="table.json"), "with_weights": False}, "no policy is measured"),
    ):
        with pytest.raises(ConfigError, match=text):
            cosmos3.load(folder, device="cpu", dtype="fp32", **options)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="at most 2048"):
        generator.start(scenario, replace(PROMPT, text="word " * 3000))


@pytest.mark.parametrize("settings", [DenoiseSettings(), FAST], ids=["library", "fast"])
def test_hidden_states_are_kept_and_no_pixel_depends_on_them(
    folder: Path, scenario: Scenario, settings: DenoiseSettings
) -> None:
    options: dict[str, Any] = {"device": "cpu", "dtype": "fp32", "denoise": settings}
    without, kept = (cosmos3.load(folder, states=on, **options) for on in (False, True))
    plain, made = (finish(one.start(scenario, PROMPT)) for one in (without, kept))
    assert np.array_equal(plain.frames, made.frames)
    assert plain.states is None and made.states is not None and made.states.sites == kept.sites
    assert made.states.values.std() > 0
