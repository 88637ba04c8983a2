"""Makes the model folders and the clips: the libraries' classes with random weights, on the device at hand.

Speed and memory do not depend on the weights, so nothing here may be read as a result of a published model.
Invariant: a folder that is there is whole; making goes on where it was stopped.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from transformers import AutoModelForImageTextToText, Qwen3VLConfig, UMT5Config, UMT5EncoderModel

from bench.files import write_json
from bench.perf.end_to_end import reply
from bench.perf.end_to_end.made import CLIPS, CRITIC, FACTS, GENERATOR, WARM_UP, read_facts
from bench.perf.end_to_end.sizes import FPS, PREFIX_FRAMES, Size
from engine.errors import ConfigError
from engine.generators.wan.wan22_vae import WAN22_LAYOUT
from engine.types import Frames
from engine.video.files import encode_mp4

CONTRAST = 0.25
"""Deviation of the pixels of random latents; takes that are one grey alike would prove nothing."""
EMBEDDING_SIZE = 200.0
"""Root mean square of a reply token's embedding: what random layers add to it stays small."""
SHARD = "5GB"
CLIPS_AT_ONCE = 3
WARM_UP_CLIP = 1000
"""Its index: no measured clip shows the same."""


def make(folder: Path, size: Size, num_clips: int, device: torch.device) -> None:
    """Generator, critic, clips and one clip to warm up with, as far as they are not there.

    Raises ConfigError where `folder` holds another size.
    """
    facts = folder / FACTS
    if facts.is_file() and (held := read_facts(folder)["size"]) != size.name:
        raise ConfigError(f"{folder} holds models of size {held}, not {size.name}", fix="name another --out")
    write_json(
        facts,
        {
            "size": size.name,
            "reply_tokens": size.reply_tokens,
            "patch_tokens": reply.patch_tokens(size.reply_tokens),
        },
    )
    clips = {folder / CLIPS / f"clip{index:02d}.mp4": index for index in range(num_clips)}
    clips[folder / WARM_UP / "clip.mp4"] = WARM_UP_CLIP
    with ThreadPoolExecutor(CLIPS_AT_ONCE) as pool:  # on host cores, while the device makes the models
        made = [pool.submit(make_clip, path, index, size) for path, index in clips.items()]
        once(folder / GENERATOR, lambda place: make_generator(place, size, device))
        once(folder / CRITIC, lambda place: make_critic(place, size, device))
        for clip in made:
            clip.result()


def make_generator(folder: Path, size: Size, device: torch.device) -> None:
    torch.manual_seed(0)
    with on(device, dtype_on(device)):
        transformer = WanTransformer3DModel(
            patch_size=(1, 2, 2),
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            eps=1e-6,
            rope_max_seq_len=1024,
            **size.transformer,
        ).eval()
    tokenizer, encoder = make_text_encoder(size.text_encoder, device)
    pipeline = WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=make_autoencoder(size.vae, device),
        transformer=transformer,
        scheduler=UniPCMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0
        ),
        expand_timesteps=True,
    )
    pipeline.save_pretrained(folder)
    (folder / "retake.json").write_text(json.dumps(dict(size.generator_sidecar)), encoding="utf-8")


def make_text_encoder(shape: Mapping[str, Any], device: torch.device) -> tuple[Any, UMT5EncoderModel]:
    """Tokenizer and encoder."""
    tokenizer = reply.text_tokenizer()
    config = UMT5Config(vocab_size=len(tokenizer), is_gated_act=True, feed_forward_proj="gated-gelu", **shape)
    with on(device, dtype_on(device)):
        return tokenizer, UMT5EncoderModel(config).eval()


def make_autoencoder(
    shape: Mapping[str, Any], device: torch.device, *, layout: Mapping[str, Any] = WAN22_LAYOUT
) -> AutoencoderKLWan:
    """Whose random latents become pictures of some contrast."""
    channels = shape["z_dim"]
    with on(device, dtype_on(device)):
        vae = AutoencoderKLWan(
            dim_mult=[1, 2, 4, 4],
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * channels,
            latents_std=[1.0] * channels,
            **layout,
            **shape,
        ).eval()
    _give_contrast(vae, channels, device)
    return vae


def critic_config(
    kind: Any,
    tokenizer: Any,
    *,
    text: Mapping[str, Any],
    vision: Mapping[str, Any],
    mrope_section: Sequence[int],
    rotary: Mapping[str, Any] = MappingProxyType({}),
    is_tied: bool = False,
) -> tuple[Any, dict[str, int]]:
    """A configuration of this class of the library for that tokenizer, and the ids of its special tokens."""
    ids = {token: int(tokenizer.convert_tokens_to_ids(token)) for token in reply.SPECIALS}
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": list(mrope_section)}
    config = kind(
        text_config={
            **text,
            "rope_parameters": rope | {"mrope_interleaved": True} | dict(rotary),
            "tie_word_embeddings": is_tied,
            "eos_token_id": ids[reply.END],
            "pad_token_id": ids[reply.PAD],
        },
        vision_config={**vision, "out_hidden_size": text["hidden_size"]},
        image_token_id=ids[reply.IMAGE],
        video_token_id=ids[reply.VIDEO],
        vision_start_token_id=ids[reply.VISION_START],
        vision_end_token_id=ids[reply.VISION_END],
        tie_word_embeddings=is_tied,
    )
    return config, ids


def make_critic(folder: Path, size: Size, device: torch.device) -> None:
    torch.manual_seed(1)
    tokenizer, replies = reply.critic_tokenizer(size.reply_tokens)
    config, ids = critic_config(
        Qwen3VLConfig, tokenizer, text=size.text, vision=size.vision, mrope_section=size.mrope_section
    )
    assert len(tokenizer) <= size.text["vocab_size"], f"{len(tokenizer)} words"
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype_on(device)).eval()
    orders = [[ids[start], *tokens] for start, tokens in replies.items()]
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    chain(embeddings, head, orders, end=ids[reply.END], gain=size.next_token_gain)
    model.generation_config.eos_token_id = ids[reply.END]
    model.generation_config.pad_token_id = ids[reply.PAD]
    model.save_pretrained(folder, max_shard_size=SHARD)
    tokenizer.save_pretrained(folder)
    if size.critic_sidecar:
        (folder / "retake.json").write_text(json.dumps(dict(size.critic_sidecar)), encoding="utf-8")


def make_clip(path: Path, index: int, size: Size) -> None:
    """A disc that moves over a blurred background, PREFIX_FRAMES at FPS, with its sentence beside it."""
    if path.is_file():
        return
    began_s = time.perf_counter()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".txt").write_text(reply.SENTENCES[index % len(reply.SENTENCES)], encoding="utf-8")
    encode_mp4(path, _pictures(index, size.clip_width, size.clip_height), FPS, crf=27)
    print(f"made {path} in {time.perf_counter() - began_s:.1f} s", flush=True)


def _pictures(index: int, width: int, height: int) -> Iterator[Frames]:
    rng = np.random.default_rng(index)
    coarse = rng.integers(40, 200, (9, 16, 3), dtype=np.uint8)
    ground = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for frame in range(PREFIX_FRAMES):
        picture = ground.copy()
        centre = (int(width * (0.1 + 0.008 * frame)), int(height * 0.6))
        cv2.circle(picture, centre, height // 9, (200, 40, 40 + 20 * (index % 8)), -1)
        yield picture


def _give_contrast(vae: Any, channels: int, device: torch.device) -> None:
    """Scales the last layer, so that random latents become pictures of some contrast."""
    with torch.no_grad():
        latents = torch.randn((1, channels, 3, 8, 12), device=device).to(dtype_on(device))
        deviation = float(vae.decode(latents).sample.float().std())
        assert deviation > 0, "a random autoencoder decodes to one value"
        vae.decoder.conv_out.weight.mul_(CONTRAST / deviation)


def chain(embeddings: Any, head: Any, orders: Sequence[list[int]], *, end: int, gain: float) -> None:
    """Each token of an order makes the next one the greedy choice, the last one `end`.

    The head's row of a token is along the embedding of the one before it. gain: of these rows.
    """
    known = [token for order in orders for token in order]
    assert len({*known, end}) == len(known) + 1, "a token that comes twice has two successors"
    with torch.no_grad():
        head[end] = 0
        for order in orders:
            rows = torch.randn((len(order), embeddings.shape[1]), device=embeddings.device)
            rows /= rows.pow(2).mean(dim=1, keepdim=True).sqrt()
            embeddings[order] = (EMBEDDING_SIZE * rows).to(embeddings.dtype)
            along = (gain * rows).to(head.dtype)
            head[order[1:]] = along[:-1]
            head[end] += along[-1]


def once(folder: Path, work: Callable[[Path], None]) -> None:
    """`work` in a folder that gets its name when all went well; nothing where it has it already."""
    if folder.is_dir():
        print(f"{folder} is there", flush=True)
        return
    part, began_s = folder.with_name(f".{folder.name}.part"), time.perf_counter()
    if part.is_dir():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    work(part)
    part.rename(folder)
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    seconds = time.perf_counter() - began_s
    print(f"made {folder}: {num_bytes / 2**30:.2f} GiB in {seconds:.1f} s", flush=True)


def dtype_on(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


@contextmanager
def on(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Modules made inside are on this device and in this dtype."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)
