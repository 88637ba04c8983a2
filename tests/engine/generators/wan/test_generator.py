"""The Wan generator on a tiny random folder: equality with the library's pipeline, determinism, refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline
from diffusers.pipelines.wan import pipeline_wan_i2v
from PIL import Image
from tiny_wan import SIDECAR, TEXT_TOKENS, build_folder, build_scenario, copy, edit

from engine.api.takes import finish
from engine.autoencoder.fp8_choice import FILE, Fp8Choice
from engine.denoise import take as taking
from engine.denoise.take import pad_first
from engine.errors import ConfigError, ModelError, NotFinite, VideoError
from engine.generators.wan import generator as wan
from engine.generators.wan.generator import WanGenerator
from engine.generators.wan.settings import WanDefaults
from engine.quant.precision_policy import checkpoint_digest
from engine.quant.recipes import SurgeryError
from engine.settings.presets import DenoiseSettings
from engine.types import Prompt, Scenario
from engine.video.prefix import read_prefix

torch.set_num_threads(1)

PROMPT = Prompt(text="a red ball rolls to the right", negative="still", seed=7, revision=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_folder(tmp_path_factory.mktemp("models") / "wan")


@pytest.fixture(scope="module")
def generator(folder: Path) -> WanGenerator:
    return wan.load(folder, device="cpu", dtype="fp32")


# --- the loop against the library's pipeline ----------------------------------------------------------------


@pytest.mark.parametrize("euler", [False, True], ids=["unipc", "euler"])
def test_one_prefix_frame_equals_the_pipeline(
    tmp_path: Path, scenario: Scenario, monkeypatch: pytest.MonkeyPatch, euler: bool
) -> None:
    # The pipeline cleans texts with ftfy, which is optional and changes nothing in plain ASCII.
    monkeypatch.setattr(pipeline_wan_i2v, "ftfy", SimpleNamespace(fix_text=str), raising=False)
    folder = build_folder(tmp_path / "wan", euler=euler)
    edit(folder, "retake.json", prefix_frames=1, num_inference_steps=5)
    generator = wan.load(folder, device="cpu", dtype="fp32")
    decoded: list[torch.Tensor] = []
    denormalise = taking.denormalise
    monkeypatch.setattr(taking, "denormalise", lambda vae, z: decoded.append(z) or denormalise(vae, z))
    video = finish(generator.start(scenario, PROMPT))

    pipeline = WanImageToVideoPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    frame = read_prefix(scenario.prefix, generator.spec)[0]
    arguments = {
        "image": Image.fromarray(frame),
        "prompt": PROMPT.text,
        "negative_prompt": PROMPT.negative,
        "height": 32,
        "width": 32,
        "num_frames": 9,
        "num_inference_steps": 5,
        "guidance_scale": 3.0,
        "max_sequence_length": TEXT_TOKENS,
    }
    latents = pipeline(**arguments, generator=seeded(), output_type="latent").frames
    pixels = pipeline(**arguments, generator=seeded(), output_type="np").frames[0]

    torch.testing.assert_close(decoded[0], latents, atol=1e-5, rtol=0)
    assert latents[:, :, 1:].std() > 0.1
    expected = (pixels[1:] * 255).round()
    assert np.abs(video.frames.astype(int) - expected).max() <= 1  # rounding at .5


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(PROMPT.seed)


# --- what a job does ----------------------------------------------------------------------------------------


def test_steps_count_down_and_the_result_has_the_promised_shape(
    generator: WanGenerator, scenario: Scenario
) -> None:
    job = generator.start(scenario, PROMPT)
    counted = []
    while job.steps_left:
        counted.append(job.steps_left)
        assert job.launch().done()
    # 6 prefix frames are padded to 9; with the answer 17 frames, 5 latents: decoded as 1 and 4.
    assert counted == list(range(1 + 3 + 2, 0, -1))
    video = job.result()
    assert video.frames.shape == (8, 32, 32, 3) and video.frames.dtype == np.uint8 and video.fps == 8.0
    assert video.frames.std() > 1


def test_result_and_launch_refuse_the_wrong_moment(generator: WanGenerator, scenario: Scenario) -> None:
    job = generator.start(scenario, PROMPT)
    with pytest.raises(AssertionError, match="6 steps left"):
        job.result()
    finish(job)
    with pytest.raises(AssertionError, match="finished"):
        job.launch()


@pytest.mark.parametrize("num_frames", range(1, 10))
def test_padding_repeats_the_first_frame_only(num_frames: int) -> None:
    frames = np.arange(num_frames, dtype=np.uint8)[:, None, None, None]
    padded = pad_first(frames)
    assert len(padded) % 4 == 1 and len(padded) - num_frames < 4
    assert (padded[-num_frames:] == frames).all() and (padded[:-num_frames] == frames[0]).all()


@pytest.mark.parametrize(
    ("change", "matters"),
    [
        ({"text": "the tower falls"}, True),
        ({"negative": "blurred"}, True),
        ({"seed": 8}, True),
        ({"revision": 3}, False),
        ({}, False),
    ],
    ids=lambda value: str(value),
)
def test_each_field_of_the_prompt_decides_what_it_should(
    generator: WanGenerator, scenario: Scenario, change: dict[str, Any], matters: bool
) -> None:
    before = finish(generator.start(scenario, PROMPT)).frames
    after = finish(generator.start(scenario, dataclasses.replace(PROMPT, **change))).frames
    assert np.array_equal(before, after) != matters


def test_the_prefix_decides_the_pixels(generator: WanGenerator, tmp_path: Path) -> None:
    # Same scenario name, other pixels: the cache of prefixes must notice.
    videos = [
        finish(generator.start(build_scenario(tmp_path / str(shade), shade=shade), PROMPT)).frames
        for shade in (0, 60)
    ]
    assert not np.array_equal(*videos)


def test_without_guidance_the_negative_text_is_not_read(folder: Path, scenario: Scenario) -> None:
    plain = wan.load(folder, device="cpu", dtype="fp32", guidance_scale=1.0, num_inference_steps=2)
    first = finish(plain.start(scenario, PROMPT)).frames
    second = finish(plain.start(scenario, dataclasses.replace(PROMPT, negative="blurred"))).frames
    assert np.array_equal(first, second)
    assert plain.schedule.num_steps == 2


def test_order_and_interleaving_change_nothing(folder: Path, generator: WanGenerator, tmp_path: Path) -> None:
    scenarios = [build_scenario(tmp_path, name=f"000{i}_left", shade=20 * i) for i in range(6)]
    prompts = [dataclasses.replace(PROMPT, seed=i, negative=("still", "blurred")[i % 2]) for i in range(6)]
    pairs = list(zip(scenarios, prompts, strict=True))
    alone = [finish(generator.start(*pair)).frames for pair in pairs]

    fresh = wan.load(folder, device="cpu", dtype="fp32")
    jobs = [fresh.start(*pair) for pair in reversed(pairs)]
    while any(job.steps_left for job in jobs):
        for job in jobs:
            if job.steps_left:
                job.launch()
    together = [job.result().frames for job in reversed(jobs)]
    assert all(map(np.array_equal, alone, together))
    again = [finish(fresh.start(*pair)).frames for pair in pairs]  # now partly from the caches
    assert all(map(np.array_equal, alone, again))


def test_bf16_keeps_the_float32_islands_and_runs(folder: Path, scenario: Scenario) -> None:
    generator = wan.load(folder, device="cpu", dtype="bf16")
    transformer = generator.parts.transformer
    assert transformer.proj_out.weight.dtype == generator.parts.vae.dtype == torch.bfloat16
    assert transformer.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
    assert transformer.scale_shift_table.dtype == torch.float32
    assert finish(generator.start(scenario, PROMPT)).frames.std() > 1


def test_wan22_layout_with_unit_patch_runs(tmp_path: Path, scenario: Scenario) -> None:
    folder = build_folder(tmp_path / "wan", patch_px=1, residual=True)
    video = finish(wan.load(folder, device="cpu", dtype="fp32").start(scenario, PROMPT))
    assert video.frames.shape == (8, 32, 32, 3)


# --- what a folder says -------------------------------------------------------------------------------------


def test_defaults_come_from_the_sidecar_or_are_the_published_ones(
    folder: Path, generator: WanGenerator, tmp_path: Path
) -> None:
    untold = {"guidance_scale_2": None, "timesteps": None, "timesteps_are": None, "prefix_attention": "all"}
    assert dataclasses.asdict(generator.defaults) == SIDECAR | untold
    assert (generator.spec.fps, generator.spec.prefix_frames, generator.spec.num_frames) == (8.0, 6, 8)
    published = copy(folder, tmp_path)
    (published / "retake.json").unlink()
    spec = wan.load(published, device="cpu", dtype="fp32").spec
    assert (spec.width, spec.height, spec.fps) == (1280, 704, 24.0)
    assert (spec.prefix_frames, spec.num_frames) == (72, 120)
    assert WanDefaults().num_inference_steps == 50 and WanDefaults().guidance_scale == 5.0


def test_a_job_whose_last_step_is_launched_holds_nothing_of_the_autoencoder(
    generator: WanGenerator, scenario: Scenario
) -> None:
    """The next job begins before its result is fetched."""
    job = generator.start(scenario, PROMPT)
    while job.steps_left:
        assert job._steps.gi_frame is not None
        job.launch()
    assert job._steps.gi_frame is None
    assert len(job.result().frames) == generator.spec.num_frames


def test_footprint_counts_the_weights_and_grows_with_the_video(generator: WanGenerator) -> None:
    parts = generator.parts
    modules = (parts.transformer, parts.vae, parts.text_encoder)
    stored = sum(p.numel() * 4 for module in modules for p in module.parameters())
    small = generator.footprint(generator.spec)
    large = generator.footprint(dataclasses.replace(generator.spec, width=64, height=64))
    longer = generator.footprint(dataclasses.replace(generator.spec, num_frames=80))
    assert stored <= small.held_bytes < 1.2 * stored
    assert small.held_bytes == large.held_bytes
    assert large.working_bytes > 3 * small.working_bytes
    assert longer.working_bytes > small.working_bytes


def enlarged(folder: Path, target: Path) -> Path:
    larger = copy(folder, target)
    edit(larger, "retake.json", width=64, height=64, num_frames=40, num_inference_steps=1)
    return larger


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_footprint_covers_the_cpu_peak(folder: Path, scenario: Scenario, tmp_path: Path, dtype: str) -> None:
    if dtype == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("without bf16 instructions torch unfolds the input of a convolution, which no GPU does")
    generator = wan.load(enlarged(folder, tmp_path), device="cpu", dtype=dtype)
    job = generator.start(scenario, PROMPT)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as trace:
        finish(job)
    trace.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    memory = sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"])
    before = memory[0]["args"]["Total Allocated"] - memory[0]["args"]["Bytes"]
    peak = max(event["args"]["Total Allocated"] for event in memory) - before
    estimate = generator.footprint(generator.spec).working_bytes
    assert peak <= estimate <= 10 * peak, f"peak {peak}, estimate {estimate}"


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float64"}, "not a dtype"),
        ({"num_inference_steps": 0}, "num_inference_steps 0"),
        ({"guidance_scale": 0.5}, "guidance_scale 0.5"),
    ],
)
def test_bad_arguments_are_refused(folder: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        wan.load(folder, **({"device": "cpu", "dtype": "fp32"} | arguments))


def test_a_distilled_model_takes_the_steps_it_was_made_for(
    folder: Path, scenario: Scenario, tmp_path: Path
) -> None:
    distilled = copy(folder, tmp_path)
    grid = {"timesteps": [1000, 750, 500, 250], "timesteps_are": "after shift"}
    edit(distilled, "retake.json", **grid, guidance_scale=1.0)
    generator = wan.load(distilled, device="cpu", dtype="fp32")
    assert generator.schedule.timesteps == (1000.0, 750.0, 500.0, 250.0)
    job = generator.start(scenario, PROMPT)
    assert finish(job).frames.std() > 0
    wan.load(distilled, device="cpu", dtype="fp32", num_inference_steps=4, with_weights=False)
    with pytest.raises(ConfigError, match="8 steps are asked of a model that was distilled for 4"):
        wan.load(distilled, device="cpu", dtype="fp32", num_inference_steps=8, with_weights=False)


@pytest.mark.parametrize("euler", [False, True], ids=["unipc", "euler"])
def test_a_list_before_the_shift_is_shifted_once(tmp_path: Path, euler: bool) -> None:
    """As the library's own scheduler shifts the sigmas it is given before its shift."""
    distilled = build_folder(tmp_path / "wan", euler=euler)
    name = "shift" if euler else "flow_shift"
    edit(distilled, "scheduler/scheduler_config.json", **{name: 5.0})
    edit(distilled, "retake.json", timesteps=[1000, 750, 500, 250], timesteps_are="before shift")
    found = wan.load(distilled, device="cpu", dtype="fp32", with_weights=False).schedule.timesteps
    assert found == pytest.approx((1000.0, 937.5, 1000 * 5 / 6, 625.0))
    library = FlowMatchEulerDiscreteScheduler(shift=5.0)
    library.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    assert found == pytest.approx(tuple(library.timesteps.tolist()), rel=1e-6)


@pytest.mark.parametrize(
    ("said", "shift", "says"),
    [
        (None, 5.0, "flow shift of 5.*'before shift' or 'after shift'"),
        ("shifted", 5.0, "timesteps_are is 'shifted'.*\n.*before shift, after shift"),
        ("shifted", 1.0, "timesteps_are is 'shifted'.*\n.*before shift, after shift"),
        ("", 1.0, "timesteps_are is ''.*\n.*before shift, after shift"),
    ],
)
def test_a_list_beside_a_shift_must_say_which_it_is(
    folder: Path, tmp_path: Path, said: str | None, shift: float, says: str
) -> None:
    distilled = copy(folder, tmp_path)
    edit(distilled, "scheduler/scheduler_config.json", flow_shift=shift)
    edit(distilled, "retake.json", timesteps=[1000, 750, 500, 250], timesteps_are=said)
    with pytest.raises(ModelError, match=says):
        wan.load(distilled, device="cpu", dtype="fp32", with_weights=False)


@pytest.mark.parametrize(
    ("euler", "key"), [(True, "flow_shift"), (False, "shift"), (True, "use_flow_sigmas")]
)
def test_a_setting_of_the_other_scheduler_is_refused(tmp_path: Path, euler: bool, key: str) -> None:
    other = build_folder(tmp_path / "wan", euler=euler)
    edit(other, "scheduler/scheduler_config.json", **{key: 5.0})
    meant = "shift" if euler else "flow_shift"
    with pytest.raises(ModelError, match=f"{key}, which .* does not read.*{meant} for the flow shift"):
        wan.load(other, device="cpu", dtype="fp32", with_weights=False)


@pytest.mark.parametrize("timesteps", [[], [1000, 1000], [750, 500], [1000, 500, 0], ["1000"], 4, [1000, -5]])
def test_timesteps_that_are_no_schedule_are_refused(folder: Path, tmp_path: Path, timesteps: Any) -> None:
    distilled = copy(folder, tmp_path)
    edit(distilled, "retake.json", timesteps=timesteps)
    with pytest.raises(ModelError, match=r"falling list from 1000|which is not a list of numbers"):
        wan.load(distilled, device="cpu", dtype="fp32", with_weights=False)


def test_texts_beyond_the_tokenizer_are_refused(generator: WanGenerator, scenario: Scenario) -> None:
    long = "a red ball " * 40
    for prompt in (dataclasses.replace(PROMPT, text=long), dataclasses.replace(PROMPT, negative=long)):
        with pytest.raises(ModelError, match=rf"has \d+ tokens; .* at most {TEXT_TOKENS}"):
            generator.start(scenario, prompt)


def test_long_texts_are_clipped_where_the_folder_says_so(
    folder: Path, scenario: Scenario, tmp_path: Path
) -> None:
    clipping = copy(folder, tmp_path)
    edit(clipping, "retake.json", clip_prompts=True)
    generator = wan.load(clipping, device="cpu", dtype="fp32")
    head = "a red ball " * 40
    takes = [
        finish(generator.start(scenario, dataclasses.replace(PROMPT, text=text))).frames
        for text in (head, head + "stops", "a blue ball " * 40)
    ]
    assert (takes[0] == takes[1]).all() and (takes[0] != takes[2]).any()


def test_a_short_or_missing_prefix_costs_only_its_scenario(generator: WanGenerator, tmp_path: Path) -> None:
    short = build_scenario(tmp_path, name="0002_left", num_frames=3)
    with pytest.raises(VideoError, match="0002_left"):
        generator.start(short, PROMPT)
    missing = build_scenario(tmp_path, name="0003_left")
    missing.prefix.path.unlink()
    with pytest.raises(VideoError, match="does not exist"):
        generator.start(missing, PROMPT)


# --- on a GPU -----------------------------------------------------------------------------------------------


WORKSPACE = 64 << 20
"""What a library's convolutions and products take for a moment, which no plan of ours counts."""


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_footprint_covers_the_gpu_peak(folder: Path, scenario: Scenario, tmp_path: Path, dtype: str) -> None:
    generator = wan.load(enlarged(folder, tmp_path), device="cuda", dtype=dtype)
    finish(generator.start(scenario, PROMPT))  # kernels and their workspaces are loaded once
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    finish(generator.start(scenario, dataclasses.replace(PROMPT, seed=1)))
    peak = torch.cuda.max_memory_allocated() - before
    estimate = generator.footprint(generator.spec).working_bytes
    assert peak <= estimate + WORKSPACE and estimate <= 2 * peak, f"peak {peak}, estimate {estimate}"


@pytest.mark.gpu
def test_launch_never_synchronizes(folder: Path, scenario: Scenario) -> None:
    generator = wan.load(folder, device="cuda", dtype="bf16")
    finish(generator.start(scenario, PROMPT))
    job = generator.start(scenario, dataclasses.replace(PROMPT, text="the tower falls", seed=2))
    torch.cuda.set_sync_debug_mode("error")
    try:
        fences = [job.launch() for _ in range(job.steps_left)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    fences[-1].wait()
    assert job.result().frames.std() > 0


@pytest.mark.gpu
def test_gpu_and_cpu_agree(folder: Path, scenario: Scenario) -> None:
    videos = [
        finish(wan.load(folder, device=device, dtype="fp32").start(scenario, PROMPT)).frames.astype(int)
        for device in ("cpu", "cuda")
    ]
    assert np.abs(videos[0] - videos[1]).mean() < 1


# --- what must never become a picture -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ("transformer", r"denoise step 1 of 3: .*transformer\.\S+ holds 1 of \d+ values that are no numbers"),
        ("vae.encoder", r"encoding the prefix: .*vae\.encoder\.\S+ holds 1 of"),
        ("vae.decoder", r"decoding the latents: .*vae\.decoder\.\S+ holds 1 of"),
        ("text_encoder", r"denoise step 1 of 3: .*text_encoder\.\S+ holds 1 of"),
    ],
)
def test_a_damaged_weight_gives_an_error_and_no_picture(
    folder: Path, scenario: Scenario, part: str, where: str
) -> None:
    damaged = wan.load(folder, device="cpu", dtype="fp32")
    module = getattr(damaged.parts, part.partition(".")[0])
    inner = module.get_submodule(part.partition(".")[2])
    weight = next(w for name, w in inner.named_parameters() if w.ndim >= 2 and "shared" not in name)
    if part == "text_encoder":
        weight = next(w for name, w in inner.named_parameters() if name.endswith("layer_norm.weight"))
    with torch.no_grad():
        weight[(0,) * weight.ndim] = float("nan")
    with pytest.raises(NotFinite, match=where) as error:
        finish(damaged.start(scenario, PROMPT))
    assert "again" in error.value.fix


def test_convolutions_are_fp8_as_measured_for_these_weights(folder: Path, tmp_path: Path) -> None:
    fp8 = DenoiseSettings(vae="fp8")
    with pytest.raises(ModelError, match="was not measured"):
        wan.load(folder, device="cpu", dtype="fp32", denoise=fp8)
    other = copy(folder, tmp_path)
    source = checkpoint_digest(other, "vae")
    none = Fp8Choice(source=source, producer="a test", psnr_db=60.0, convolutions=())
    none.save(other / FILE)
    generator = wan.load(other, device="cpu", dtype="fp32", denoise=fp8)
    assert generator.footprint(generator.spec).held["autoencoder"] > 0
    assert "0 of 20 convolutions in FP8, 60.0 dB (a test)" in generator.notes["vae"]
    dataclasses.replace(none, convolutions=("decoder.mid_block.resnets.0.conv1",)).save(other / FILE)
    with pytest.raises(SurgeryError, match="channels are no multiple of 32"):
        wan.load(other, device="cpu", dtype="fp32", denoise=fp8)
    (other / FILE).unlink()
    planned = wan.load(other, device="cpu", dtype="fp32", denoise=fp8, with_weights=False)
    with pytest.raises(ModelError, match="was not measured"):
        planned.footprint(planned.spec)
