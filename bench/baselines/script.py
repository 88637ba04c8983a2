"""The user's script: diffusers' modules and transformers' `generate`, one scenario after the other.

The prefix is kept clean as diffusers' Wan2.2-TI2V pipeline keeps its first frame (`expand_timesteps`), over
more frames. "Best stock" turns on what the libraries offer for speed: repeated blocks compiled, cuDNN's
attention, a static cache. Frames are read, resized and written, prompts built and replies read by Retake's
functions, which favours the script. Knows no lane, no scheduler and no kernel of ours.
Z latent channels . F latent frames, the first K of them prefix . h, w latent pixels . S tokens
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.autoencoder.vae import TEMPORAL_STRIDE, latent_frames_of
from engine.critics.qwen_vl.critic import PAIR_SECONDS
from engine.critics.qwen_vl.folder import CriticParts
from engine.critics.qwen_vl.folder import read_folder as read_critic
from engine.critics.qwen_vl.instructions import critique_segments, plan_segments
from engine.critics.qwen_vl.preprocess import (
    PatchGeometry,
    Segment,
    VideoSegment,
    build_inputs,
    sample_pairs,
)
from engine.critics.qwen_vl.schema import parse_critique, parse_plan
from engine.critics.qwen_vl.settings import CriticSettings, read_settings
from engine.denoise.take import pad_first
from engine.generators.wan.folder import WanParts
from engine.generators.wan.folder import read_folder as read_generator
from engine.loop.policy import scenario_seed
from engine.loop.prompting import compile_prompt
from engine.protocols import Recorder
from engine.types import Clip, Critique, Frames, Prompt, Scenario
from engine.video.files import write_mp4
from engine.video.prefix import prefix_frames, read_chosen, read_prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptTake:
    """One written take. `critique.num_tokens` is without the end token, as in a run of Retake."""

    prompt: Prompt
    video_path: Path
    critique: Critique


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptScenario:
    """What the script made of one scenario; `plan_tokens` without the end token."""

    plan_tokens: int
    takes: tuple[ScriptTake, ...]


@dataclass(slots=True, kw_only=True)
class Script:
    """The loaded modules, all on one device. `num_steps` may be set between scenarios."""

    generator: WanParts
    critic: CriticParts
    settings: CriticSettings
    geometry: PatchGeometry
    num_steps: int
    best_stock: bool
    notes: dict[str, str]

    def run(
        self, scenario: Scenario, folder: Path, recorder: Recorder, *, loops: int, seed: int = 0
    ) -> ScriptScenario:
        """Plan, then `loops` + 1 times: take, file, critique; the brief first, then the plan's prompts.

        Raises VideoError when the prefix cannot be read.
        """
        with recorder.span("critique", scenario.id, 0, "plan"):
            text, plan_tokens = self._ask(self._plan_segments(scenario))
        source = parse_plan(text)
        prompt = Prompt(
            text=scenario.text,
            negative=self.generator.defaults.negative_prompt,
            seed=scenario_seed(seed, scenario.id),
            revision=0,
        )
        takes: list[ScriptTake] = []
        for index in range(loops + 1):
            with recorder.span("generate", scenario.id, index, "generate"):
                frames = self.take(read_prefix(scenario.prefix, self.generator.spec), prompt)
            path = folder / scenario.id / f"{index}.mp4"
            with recorder.span("encode", scenario.id, index, "encode"):
                write_mp4(path, frames, self.generator.spec.fps)
            with recorder.span("critique", scenario.id, index, "critique"):
                text, tokens = self._ask(self._critique_segments(scenario, prompt, frames))
            critique = parse_critique(text, num_tokens=tokens, seconds=0.0)
            takes.append(ScriptTake(prompt=prompt, video_path=path, critique=critique))
            source = source if index == 0 else critique.revised
            if source is not None:
                prompt = Prompt(
                    text=compile_prompt(scenario.text, source),
                    negative=prompt.negative,
                    seed=prompt.seed,
                    revision=index + 1,
                    plan=source,
                )
        return ScriptScenario(plan_tokens=plan_tokens, takes=tuple(takes))

    @torch.no_grad()
    def take(self, prefix: Frames, prompt: Prompt) -> Frames:
        """The continuation of a prefix uint8 [P, H, W, 3], without it: uint8 [T, H, W, 3]."""
        parts, spec = self.generator, self.generator.spec
        vae, transformer = parts.vae, parts.transformer
        cond, uncond = self._embed(prompt.text), self._embed(prompt.negative)
        clean = self._encode(prefix)
        num_latents = latent_frames_of(TEMPORAL_STRIDE * (clean.shape[2] - 1) + 1 + spec.num_frames)
        shape = (*clean.shape[:2], num_latents, *clean.shape[3:])
        source = torch.Generator().manual_seed(prompt.seed)
        latents = torch.randn(shape, generator=source).to(parts.device)
        kept = torch.zeros_like(latents)
        kept[:, :, : clean.shape[2]] = clean
        mask = torch.ones_like(latents[:, :1])  # 0 on the prefix
        mask[:, :, : clean.shape[2]] = 0
        patch = transformer.config.patch_size[1]
        scheduler = type(parts.scheduler).from_config(parts.scheduler.config)
        scheduler.set_timesteps(self.num_steps, device=parts.device)
        scale, dtype = parts.defaults.guidance_scale, transformer.patch_embedding.weight.dtype
        with self._attention():
            for timestep in scheduler.timesteps:
                inputs = ((1 - mask) * kept + mask * latents).to(dtype)
                per_token = (mask[0, 0, :, ::patch, ::patch] * timestep).flatten()[None]  # [1, S]
                with_text, without = (
                    transformer(inputs, per_token, text, return_dict=False)[0] for text in (cond, uncond)
                )
                velocity = without + scale * (with_text - without)
                latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        mean, deviation = self._statistics()
        latents = ((1 - mask) * kept + mask * latents).to(vae.dtype)
        pixels = vae.decode(latents * deviation + mean, return_dict=False)[0][0]  # [3, T, H, W]
        levels = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        frames: Frames = levels.permute(1, 2, 3, 0)[-spec.num_frames :].cpu().numpy()
        return frames

    def _embed(self, text: str) -> Tensor:
        parts = self.generator
        limit = parts.max_text_tokens
        ids = parts.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt").input_ids
        hidden: Tensor = parts.text_encoder(input_ids=ids.to(parts.device)).last_hidden_state
        return nn.functional.pad(hidden, (0, 0, 0, limit - hidden.shape[1]))

    def _encode(self, prefix: Frames) -> Tensor:
        """Normalised latents of the prefix, float32 [1, Z, K, h, w]."""
        vae = self.generator.vae
        pixels = torch.from_numpy(pad_first(prefix)).to(vae.device).permute(3, 0, 1, 2)[None]
        mean, deviation = self._statistics()
        latents = vae.encode(pixels.to(vae.dtype) / 127.5 - 1).latent_dist.mode()
        normalised: Tensor = ((latents - mean) / deviation).float()
        return normalised

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the latents' channels, [1, Z, 1, 1, 1]."""
        vae = self.generator.vae
        stated = (vae.config.latents_mean, vae.config.latents_std)
        mean, deviation = (torch.tensor(v).view(1, -1, 1, 1, 1).to(vae.device, vae.dtype) for v in stated)
        return mean, deviation

    @contextmanager
    def _attention(self) -> Iterator[None]:
        """torch's own choice; for best stock cuDNN where there is a GPU, the fastest of them there."""
        if not (self.best_stock and self.generator.device.type == "cuda"):
            yield
            return
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            yield

    @torch.no_grad()
    def _ask(self, segments: Sequence[Segment]) -> tuple[str, int]:
        """The greedy reply and its number of tokens without the end token."""
        model, tokenizer = self.critic.model, self.critic.tokenizer
        inputs = build_inputs(
            tokenizer,
            model.config,
            segments,
            geometry=self.geometry,
            device=str(model.device),
            dtype=model.dtype,
        )
        on_device = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        static = {"cache_implementation": "static"} if self.best_stock else {}
        found = model.generate(
            **on_device, max_new_tokens=self.settings.max_new_tokens, do_sample=False, **static
        )
        ids = found[0, inputs["input_ids"].shape[1] :].tolist()
        ids = ids[:-1] if ids and ids[-1] in self.critic.eos_ids else ids
        return tokenizer.decode(ids, skip_special_tokens=True), len(ids)

    def _plan_segments(self, scenario: Scenario) -> list[Segment]:
        instruction, prefix = self.settings.plan_instruction, self._seen(scenario.prefix)
        return plan_segments(self.critic.tokenizer, instruction, prefix, scenario.text)

    def _critique_segments(self, scenario: Scenario, prompt: Prompt, frames: Frames) -> list[Segment]:
        fps = self.generator.spec.fps
        picked = self._sample(len(frames), fps, self.settings.num_take_frames)
        take = VideoSegment(frames=frames[picked], times_s=tuple(i / fps for i in picked))
        instruction, prefix = self.settings.critique_instruction, self._seen(scenario.prefix)
        return critique_segments(self.critic.tokenizer, instruction, prefix, take, prompt.text)

    def _seen(self, clip: Clip) -> VideoSegment:
        prefix = prefix_frames(clip)
        picked = self._sample(len(prefix.indices), clip.fps, self.settings.num_prefix_frames)
        frames = read_chosen(clip, [prefix.indices[i] for i in picked])
        return VideoSegment(frames=frames, times_s=tuple(prefix.times_s[i] for i in picked))

    def _sample(self, num_frames: int, fps: float, num_samples: int) -> list[int]:
        return sample_pairs(num_frames, num_samples, gap=max(1, round(fps * PAIR_SECONDS)))


def load_script(
    generator: Path,
    critic: Path,
    *,
    device: str,
    dtype: str,
    quantization: str,
    num_steps: int,
    best_stock: bool,
) -> Script:
    """The libraries' modules of a Wan folder and a Qwen-VL folder, untouched by any part of ours.

    Raises ModelError and ConfigError as the engine's readers of these folders do.
    """
    parts = read_generator(generator, device, dtype)
    judge = read_critic(critic, device=device, dtype=dtype, quantization=quantization, with_weights=True)
    notes = {"blocks": "eager", "attention": "torch's choice", "generate": "dynamic cache, eager"}
    if best_stock:
        parts.transformer.compile_repeated_blocks(fullgraph=True, dynamic=False)
        quantizer = getattr(judge.model, "hf_quantizer", None)
        compiles = judge.model.device.type == "cuda" and (quantizer is None or quantizer.is_compileable)
        notes = {
            "blocks": "compile_repeated_blocks",
            "attention": "cuDNN" if device == "cuda" else "torch's choice",
            "generate": f"static cache, {'compiled' if compiles else 'eager'} by the library",
        }
    settings = read_settings(critic)
    return Script(
        generator=parts,
        critic=judge,
        settings=settings,
        geometry=PatchGeometry.from_config(judge.model.config, frame_px=settings.frame_px),
        num_steps=num_steps,
        best_stock=best_stock,
        notes=notes,
    )
