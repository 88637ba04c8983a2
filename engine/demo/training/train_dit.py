"""Trains the demo's video transformer (WanTransformer3DModel) with a small text encoder, on latents.

Flow matching (Lipman et al. 2023; Liu et al. 2023) with the clean-prefix rule of Wan2.2 TI2V: prefix latents
stay clean at timestep 0, answer latents are (1 - sigma) x0 + sigma noise, the target is noise - x0.
Legend: B batch, Z latent channels, F = 17 latent frames (K = 7 of the prefix), S = F h w tokens, L text
tokens.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from engine.demo.training import prompts
from engine.demo.training.clips import Block, ClipFactory, ClipRecord
from engine.demo.training.schedule import Average, Budget, Curve, make_optimizer, set_learning_rate
from engine.demo.training.train_vae import LATENT_CHANNELS, save_half, to_pixels
from engine.generators.wan.vae import encode_mode

TEXT_DIM: Final = 128
MAX_TOKENS: Final = 192  # complete prompts of the scenes have up to 140, with irrelevant sentences 190
PREFIX_LATENTS: Final = 7
FLOW_SHIFT: Final = 3.0
# How often each variant is shown. Complete prompts dominate, as the captions of published models do.
VARIANTS: Final = ("complete", "partial", "brief", "empty")
VARIANT_SHARES: Final = (0.72, 0.10, 0.08, 0.10)


def build_transformer() -> Any:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        patch_size=(1, 1, 1), num_attention_heads=4, attention_head_dim=64, in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS, text_dim=TEXT_DIM, freq_dim=256, ffn_dim=1024, num_layers=8,
        cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=64,
    )  # fmt: skip


def build_tokenizer(texts: list[str]) -> Any:
    """A byte-pair tokenizer in T5's id layout (pad 0, eos 1, unk 2), trained on `texts`.

    The scenes use few words, so that every one of them is a token; a word never seen falls into letters.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))  # nosec B106 # a token of a vocabulary
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Metaspace(),
        ]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=[*string.ascii_lowercase, *string.digits, *string.punctuation],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(  # nosec B106 # tokens of a vocabulary
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_max_length=MAX_TOKENS, padding_side="right",
    )  # fmt: skip


def build_text_encoder(tokenizer: Any) -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer), d_model=TEXT_DIM, d_kv=32, d_ff=384, num_layers=3, num_heads=4,
            is_gated_act=True, feed_forward_proj="gated-gelu", dense_act_fn="gelu_new", dropout_rate=0.0,
        )
    )  # fmt: skip


def tokenize(tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """int64 [B, MAX_TOKENS], padded with 0."""
    batch = tokenizer(
        texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    )
    return torch.as_tensor(batch["input_ids"])


def embed_text(text_encoder: Any, ids: torch.Tensor) -> torch.Tensor:
    """[B, L, TEXT_DIM], zero on padding, as the Wan pipelines feed their transformer."""
    mask = ids != 0
    hidden = text_encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    return torch.as_tensor(hidden * mask[..., None])


def token_timesteps(t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Timesteps [B, S]: 0 on prefix tokens, t [B] (0 to 1000) on the others."""
    _, _, frames, height, width = latents.shape
    noisy = (torch.arange(frames, device=t.device) >= PREFIX_LATENTS).float()
    return (t[:, None] * noisy[None]).repeat_interleave(height * width, dim=1)


class LatentBank:
    """Latents and tokenized prompt variants of all clips so far, on the training device."""

    def __init__(self, vae: Any, tokenizer: Any, capacity: int, side: int, device: str) -> None:
        self.vae, self.tokenizer, self.device, self.count = vae, tokenizer, device, 0
        shape = (capacity, LATENT_CHANNELS, 17, side, side)
        self.latents = torch.empty(shape, dtype=torch.bfloat16, device=device)
        self.ids = torch.zeros(capacity, len(VARIANTS), MAX_TOKENS, dtype=torch.int16, device=device)

    @torch.no_grad()
    def add(self, block: Block) -> None:
        size = min(len(block.frames), len(self.latents) - self.count)
        if size == 0:
            return
        place = slice(self.count, self.count + size)
        frames = block.frames[:size].to(self.device)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            latents = encode_mode(self.vae, to_pixels(torch.cat([frames[:, :1], frames], dim=1)))
        self.latents[place] = latents.to(torch.bfloat16)
        rng = np.random.default_rng([block.records[0].seed, 4])
        texts = [text for record in block.records[:size] for text in variants(record, rng)]
        self.ids[place] = (
            tokenize(self.tokenizer, texts).view(size, len(VARIANTS), -1).to(torch.int16).to(self.device)
        )
        self.count += size

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Random latents [B, Z, F, h, w] float and token ids [B, L] of a random variant each."""
        rows = torch.randint(self.count, (size,), device=self.device)
        shares = torch.tensor(VARIANT_SHARES, device=self.device)
        variant = torch.multinomial(shares, size, replacement=True)
        return self.latents[rows].float(), self.ids[rows, variant].long()


def variants(record: ClipRecord, rng: prompts.Rng) -> list[str]:
    """One text per entry of VARIANTS."""
    return [
        prompts.complete(record.brief, record.plan),
        prompts.partial(record.brief, record.plan, rng),
        record.brief,
        "",
    ]


def flow_loss(transformer: Any, text: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Mean squared velocity error on the answer latents; change since the last prefix latent counts more."""
    batch = len(clean)
    sigma = torch.sigmoid(torch.randn(batch, device=clean.device))
    sigma = FLOW_SHIFT * sigma / (1.0 + (FLOW_SHIFT - 1.0) * sigma)
    noise = torch.randn_like(clean)
    noisy = torch.lerp(clean, noise, sigma[:, None, None, None, None])
    noisy[:, :, :PREFIX_LATENTS] = clean[:, :, :PREFIX_LATENTS]
    velocity = transformer(
        hidden_states=noisy, timestep=token_timesteps(sigma * 1000.0, clean), encoder_hidden_states=text,
        return_dict=False,
    )[0]  # fmt: skip
    error = (velocity.float() - (noise - clean))[:, :, PREFIX_LATENTS:].square().mean(dim=1, keepdim=True)
    change = (
        (clean[:, :, PREFIX_LATENTS:] - clean[:, :, PREFIX_LATENTS - 1 : PREFIX_LATENTS])
        .square()
        .mean(1, True)
    )
    loss: torch.Tensor = (error * (1.0 + 2.0 * change.clamp(max=1.0))).mean()
    return loss


def tokenizer_corpus(blocks: list[Block]) -> list[str]:
    """Every variant of the prompts of these blocks, and some abstract and cluttered ones."""
    rng = np.random.default_rng(4)
    corpus = [text for block in blocks for record in block.records for text in variants(record, rng)[:3]]
    corpus += [prompts.abstract(corpus[2], rng) for _ in range(50)]
    return corpus + [prompts.cluttered(r.brief, r.plan, rng) for r in blocks[0].records]


def load_transformer(folder: Path) -> Any:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)


def load_modules(folder: Path) -> tuple[Any, Any, Any]:
    """(transformer, text_encoder, tokenizer) of a saved generator folder, fp32 on the CPU."""
    from transformers import AutoTokenizer, UMT5EncoderModel

    return (
        load_transformer(folder),
        UMT5EncoderModel.from_pretrained(  # nosec B615 # a local folder
            folder / "text_encoder", dtype=torch.float32, local_files_only=True
        ),
        AutoTokenizer.from_pretrained(  # nosec B615 # a local folder
            folder / "tokenizer", local_files_only=True
        ),
    )


def new_modules(blocks: list[Block]) -> tuple[Any, Any, Any]:
    """(transformer, text_encoder, tokenizer) with fresh weights; the tokenizer is trained on these blocks."""
    tokenizer = build_tokenizer(tokenizer_corpus(blocks))
    torch.manual_seed(0)
    return build_transformer(), build_text_encoder(tokenizer), tokenizer


def train_dit(
    factory: ClipFactory,
    vae: Any,
    out: Path,
    *,
    seconds: float,
    batch: int,
    capacity: int,
    device: str,
    size_px: int,
    start: Path | None = None,
    new_text: bool = False,
) -> tuple[Any, Any, Any]:
    """Trains for `seconds`, from the folder `start` or from nothing; `new_text`: with a fresh text encoder.

    Saves transformer, text_encoder and tokenizer (fp16) to OUT; returns them (fp32).
    """
    blocks = [factory.take() for _ in range(max(1, min(16, capacity // 64)))]
    transformer, text_encoder, tokenizer = (
        new_modules(blocks) if new_text or not start else load_modules(start)
    )
    if start and new_text:
        transformer = load_transformer(start)
    transformer, text_encoder = transformer.to(device), text_encoder.to(device)
    bank = LatentBank(vae, tokenizer, capacity, size_px // 16, device)
    for block in blocks:
        bank.add(block)
        factory.release(block)
    for layer in transformer.blocks if device == "cuda" else ():
        layer.compile(dynamic=False)
    optimizer = make_optimizer([transformer, text_encoder])
    averages = Average(transformer, 0.9995), Average(text_encoder, 0.9995)
    curve, budget, step = Curve("dit", 200 if device == "cuda" else 2), Budget(seconds), 0
    while not budget.over:
        if bank.count < capacity and factory.ready() and (step % 40 == 0 or bank.count < 8192):
            block = factory.take()
            bank.add(block)
            factory.release(block)
        set_learning_rate(optimizer, 1e-3 if start is None else 6e-4, step, budget.fraction)
        clean, ids = bank.batch(batch)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = flow_loss(transformer, embed_text(text_encoder, ids), clean)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*transformer.parameters(), *text_encoder.parameters()], 1.0)
        optimizer.step()
        for average in averages:
            average.update()
        curve.add(step, {"loss": loss})
        step += 1
        if step == 20:  # compilation is over: the budget counts training
            budget.start()
    for average in averages:
        average.apply()
    print(f"dit: {step} steps of {batch}, {bank.count} clips", flush=True)
    curve.save(out / "curves", {"steps": step, "batch": batch, "clips": bank.count, "seconds": seconds})
    for module, name in ((transformer, "transformer"), (text_encoder, "text_encoder")):
        save_half(module, out / name)
    tokenizer.save_pretrained(out / "tokenizer")
    return transformer, text_encoder, tokenizer
