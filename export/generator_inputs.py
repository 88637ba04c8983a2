"""What an export needs of a generator: the shape a model is made for, and forwards of its real takes.

The takes are those of the generator itself, so at its own video size; scales serve every size. Invariant:
what a part is given is what it was given in a take, never noise in its place.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.build import model_folders
from engine.errors import ConfigError, DatasetError
from engine.types import Prompt, Scenario
from engine.words import counted
from export.spec import ExportError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from export.forms import Form
    from export.pipeline import Request
    from export.quantization.calibrate import Forward
    from export.quantization.scales import Scales
    from export.spec import ExportSpec, Profile


def outline(generator: str) -> tuple[Path, Any]:
    """Folder and generator without weights; ModelError when there is no such model."""
    found = model_folders.find_generator(generator)
    family: Any = found.loader()
    return found.path, family.load(found.path, device="cpu", dtype="fp32", with_weights=False)


def profiles_of(made: Any, shape: str | None, rows: Sequence[int]) -> tuple[Profile, ...]:
    """A profile for each number of rows, of `shape` (HEIGHTxWIDTHxFRAMES) or of the generator's own video."""
    from export.spec import Profile

    height, width, latent_frames = _own(made) if shape is None else _latents(made, shape)
    tokens = _joined_tokens(made, height, width, latent_frames)
    return tuple(
        Profile(
            name=f"{height}x{width}x{latent_frames}-rows{count}",
            sizes={
                "B": count,
                "F": latent_frames,
                "h": height,
                "w": width,
                "L": made.parts.max_text_tokens,
                **tokens,
            },
        )
        for count in rows
    )


def form_of(source: Path, made: Any, attention: str, subject: str, target: str) -> Form:
    """The form of what is exported: as asked, as the model's prefix was trained, and as the target can."""
    from engine.generators.wan.own_prefix import told_prefix_attention
    from engine.generators.wan.settings import OWN
    from export.forms import DENSE, TWO_GRAPHS, Form
    from export.subjects import wan_dit

    own = subject == wan_dit.SUBJECT and told_prefix_attention(source) == OWN
    if attention == DENSE and not own:
        return Form()
    shape = made.shape
    frames = shape.prefix_tokens * made.forward_sizes["F"] // shape.tokens
    in_step = own and target not in TWO_GRAPHS
    return Form(attention=attention, own_prefix=own, prefix_frames=frames, in_step=in_step)


def bundled_scales(request: Request) -> Path | None:
    """The magnitudes that came with the bundled generator, if this is it and no LoRA is merged into it."""
    from export import pipeline
    from export.quantization.scales import read_scales

    path = model_folders.MODELS / "scales" / f"{request.subject}.safetensors"
    if not path.is_file() or read_scales(path).weights_digest != pipeline.digest_of(request):
        return None
    return path


def calibrate(request: Request, made: Any, *, dataset: Path | None, num_scenes: int) -> Scales:
    """The magnitudes of activations in trajectories of the generator, LoRAs merged."""
    import torch

    from export import pipeline
    from export.quantization.calibrate import observe

    profiles = profiles_of(made, None, (1,))
    own = dataclasses.replace(request, profiles=profiles, low_memory=False)
    dtype = "fp32" if request.device == "cpu" else "bf16"
    forwards = list(
        record(own, pipeline.spec_of(own), dtype=dtype, dataset=dataset, num_scenes=num_scenes, seed=0)
    )
    subject = pipeline.subject_of(own, dtype=dtype)
    subject.module.to(request.device)
    with torch.inference_mode():
        moved = (tuple(t.to(request.device) for t in forward) for forward in forwards)
        return observe(subject, moved, producer=f"retake, {counted(num_scenes, 'scene')}")


def record(
    request: Request, spec: ExportSpec, *, dtype: str, dataset: Path | None, num_scenes: int, seed: int
) -> Iterator[Forward]:
    """What the subject is given in `num_scenes` takes of the loaded generator: a transformer at every step,
    a decoder the latents that each take ends with, a text encoder the prompts."""
    from engine.denoise.lora import merge_into
    from export import pipeline
    from export.quantization import tower_inputs, trajectories
    from export.subjects import cosmos3, text_encoder, vae_decoder

    found = model_folders.find_generator(str(request.source))
    family: Any = found.loader()
    generator = family.load(found.path, device=request.device, dtype=dtype)
    transformer = generator.parts.transformer
    if request.loras:
        merge_into(transformer, request.loras, pipeline.ALIASES[request.subject](transformer))
    with tempfile.TemporaryDirectory() as folder:
        scenarios = _scenarios(dataset, Path(folder), generator.spec.fps)[:num_scenes]
        requests = [(scenario, _prompt(scenario, generator.negative_prompt, seed)) for scenario in scenarios]
        if request.subject == vae_decoder.SUBJECT:
            yield from _latents_of_takes(generator, requests, spec)
        elif request.subject == text_encoder.SUBJECT:
            yield from _token_ids(generator, requests, spec)
        elif request.subject == cosmos3.SUBJECT:
            yield from tower_inputs.record(generator, requests, spec)
        else:
            yield from trajectories.record(generator, requests, spec)


def _latents_of_takes(
    generator: Any, requests: Sequence[tuple[Scenario, Prompt]], spec: ExportSpec
) -> Iterator[Forward]:
    """Normalised, as the decoder's subject takes them; nothing is decoded."""
    from engine.autoencoder.vae import normalise

    vae = generator.parts.vae
    for scenario, prompt in requests:
        job = generator.start(scenario, prompt)
        with _seeing(vae.post_quant_conv) as seen:
            while not seen:
                job.launch().wait()
        latents = normalise(vae, seen[0]).float().cpu()  # [1, Z, F, h, w]
        shapes = [spec.inputs[0].shape(profile.sizes) for profile in spec.profiles]
        fitting = [shape for shape in shapes if shape[1:] == latents.shape[1:]]
        if not fitting:
            problem = f"a take has latents {list(latents.shape)}, {spec.subject} was built for {shapes}"
            raise ExportError(problem, fix="verify with the generator whose video it was exported for")
        yield (latents.expand(fitting[0]).contiguous(),)


def _token_ids(
    generator: Any, requests: Sequence[tuple[Scenario, Prompt]], spec: ExportSpec
) -> Iterator[Forward]:
    """Ids and which of them are tokens, both padded to the length of the first profile."""
    import torch

    rows, length = spec.inputs[0].shape(spec.profiles[0].sizes)
    for scenario, prompt in requests:
        with _seeing(generator.parts.text_encoder) as seen:
            generator.start(scenario, prompt).launch().wait()
        for ids in seen:
            padding = (0, length - ids.shape[1])
            padded, is_token = (
                torch.nn.functional.pad(values.cpu(), padding).expand(rows, -1).contiguous()
                for values in (ids, torch.ones_like(ids))
            )
            yield padded, is_token


@contextmanager
def _seeing(module: nn.Module) -> Iterator[list[Tensor]]:
    """The first argument of every call of a module."""
    seen: list[Tensor] = []

    def see(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append(next(iter((*args, *kwargs.values()))).detach().clone())

    handle = module.register_forward_pre_hook(see, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def _scenarios(dataset: Path | None, scratch: Path, fps: float) -> Sequence[Scenario]:
    """Of the user's dataset, else the scenes of `retake demo`, drawn anew."""
    from engine.build.opened_dataset import open_dataset

    if dataset is None:
        from engine.demo.showcase import write_showcase

        dataset = scratch / "scenes"
        write_showcase(dataset)
    found = open_dataset(dataset).scenarios(fps)
    if not found:
        raise DatasetError(f"{dataset} holds no scenario", fix="give a dataset with clips")
    return found


def _prompt(scenario: Scenario, negative: str, seed: int) -> Prompt:
    return Prompt(text=scenario.text, negative=negative, seed=seed, revision=0)


def _own(made: Any) -> tuple[int, int, int]:
    """Latent height, width and frames of prefix and continuation together."""
    from engine.autoencoder.vae import TEMPORAL_STRIDE, latent_frames_of

    spec, stride = made.spec, made.parts.vae.config.scale_factor_spatial
    prefix = spec.prefix_frames + (1 - spec.prefix_frames) % TEMPORAL_STRIDE
    return spec.height // stride, spec.width // stride, latent_frames_of(prefix + spec.num_frames)


def _latents(made: Any, shape: str) -> tuple[int, int, int]:
    """Of HEIGHTxWIDTHxFRAMES in pixels; ConfigError when the autoencoder has no such latents."""
    from engine.autoencoder.vae import TEMPORAL_STRIDE

    parts = shape.lower().split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"--shape {shape!r} is not HEIGHTxWIDTHxFRAMES", fix="give such as 480x832x81")
    height, width, frames = map(int, parts)
    config = made.parts.vae.config
    # where a patch may be half empty, a latent pixel is the measure
    patch = 1 if "S" in made.forward_sizes else made.parts.transformer.config.patch_size[1]
    multiple = config.scale_factor_spatial * patch
    if height % multiple or width % multiple or frames % TEMPORAL_STRIDE != 1:
        raise ConfigError(
            f"--shape {shape}: this model takes heights and widths in multiples of {multiple} and "
            f"{TEMPORAL_STRIDE}k + 1 frames",
            fix=f"for example {_near(height, multiple)}x{_near(width, multiple)}x"
            f"{_near(frames - 1, TEMPORAL_STRIDE, least=0) + 1}",
        )
    stride = config.scale_factor_spatial
    return height // stride, width // stride, (frames - 1) // TEMPORAL_STRIDE + 1


def _joined_tokens(made: Any, height: int, width: int, frames: int) -> dict[str, int]:
    """S, where text and video are one sequence: its tables have a size of their own."""
    if "S" not in made.forward_sizes:
        return {}
    patch = made.parts.patch_px
    return {"S": frames * -(-height // patch) * -(-width // patch)}


def _near(value: int, multiple: int, *, least: int = 1) -> int:
    return max(least, round(value / multiple)) * multiple
