"""Trains the demo's video transformer (WanTransformer3DModel) with a small text encoder, on latents.

Flow matching (Lipman et al. 2023; Liu et al. 2023) with the clean-prefix rule of Wan2.2 TI2V: prefix latents
stay clean at timestep 0, answer latents are (1 - sigma) x0 + sigma noise, the target is noise - x0.
Legend: B batch, Z latent channels, F = 17 latent frames (K = 7 of the prefix), S = F h w tokens, L text
tokens.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from engine.autoencoder.vae import encode_mode
from engine.demo.training import checkpoint, prompts
from engine.demo.training.checkpoint import Progress, Trained
from engine.demo.training.clips import Block, ClipFactory, ClipRecord
from engine.demo.training.schedule import Average, Budget, Curve
from engine.demo.training.step import TrainingStep
from engine.demo.training.train_vae import LATENT_CHANNELS, fast_layout, save_half, to_pixels
from engine.errors import ModelError
from engine.generators.wan.own_prefix import told_prefix_attention, use_own_prefix
from engine.generators.wan.settings import ALL, OWN

TEXT_DIM: Final = 128
MAX_TOKENS: Final = 192  # complete prompts of the scenes have up to 140, with irrelevant sentences 190
PREFIX_LATENTS: Final = 7
LATENT_FRAMES: Final = 17
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

    def __init__(
        self,
        vae: Any,
        tokenizer: Any,
        capacity: int,
        side: int,
        device: str,
        shares: tuple[float, ...] = VARIANT_SHARES,
    ) -> None:
        self.vae, self.tokenizer, self.device, self.count = vae, tokenizer, device, 0
        self.shares = torch.tensor(shares, device=device)
        shape = (capacity, LATENT_CHANNELS, LATENT_FRAMES, side, side)
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
        variant = torch.multinomial(self.shares, size, replacement=True)
        return self.latents[rows].float(), self.ids[rows, variant].long()


def variants(record: ClipRecord, rng: prompts.Rng) -> list[str]:
    """One text per entry of VARIANTS; the caption of a violation stands in each but the empty one."""
    texts = [
        prompts.complete(record.brief, record.plan),
        prompts.partial(record.brief, record.plan, rng),
        record.brief,
    ]
    return [*(f"{text} {record.caption}".strip() for text in texts), ""]


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
    """In fp32 on the CPU, with the attention that the folder's sidecar says it was trained with."""
    from diffusers import WanTransformer3DModel

    transformer = WanTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
    if told_prefix_attention(folder) == OWN:
        use_own_prefix(transformer, PREFIX_LATENTS, LATENT_FRAMES)
    return transformer


def load_modules(folder: Path) -> tuple[Any, Any, Any]:
    """(transformer, text_encoder, tokenizer) of a saved generator folder, fp32 on the CPU."""
    from transformers import UMT5EncoderModel

    return (
        load_transformer(folder),
        UMT5EncoderModel.from_pretrained(  # nosec B615 # a local folder
            folder / "text_encoder", dtype=torch.float32, local_files_only=True
        ),
        load_tokenizer(folder),
    )


def load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)  # nosec B615 # local


def new_modules(blocks: list[Block]) -> tuple[Any, Any, Any]:
    """(transformer, text_encoder, tokenizer) with fresh weights; the tokenizer is trained on these blocks."""
    tokenizer = build_tokenizer(tokenizer_corpus(blocks))
    torch.manual_seed(0)
    return build_transformer(), build_text_encoder(tokenizer), tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class DitOptions:
    """One stage of a training of `total_seconds`: `seconds` of it, on from `state` where that holds one.

    `start` continues a saved folder as a new training; `new_text` with a fresh text encoder.
    """

    seconds: float
    total_seconds: float
    batch: int
    capacity: int
    device: str
    size_px: int
    start: Path | None = None
    new_text: bool = False
    state: Path | None = None
    prefix_attention: str = ALL
    shares: tuple[float, ...] = VARIANT_SHARES
    settings: dict[str, str] = field(default_factory=dict)
    """What must be the same in every stage, the caller's own and those above."""


def begin_modules(
    options: DitOptions, progress: Progress | None, blocks: list[Block]
) -> tuple[Any, Any, Any]:
    """(transformer, text_encoder, tokenizer) to train, on the CPU: new, of `start` or of the last stage."""
    if progress is not None and options.state is not None:
        tokenizer = load_tokenizer(options.state)
        modules = (build_transformer(), build_text_encoder(tokenizer), tokenizer)
    elif options.start is None or options.new_text:
        modules = new_modules(blocks)
        if options.start is not None:
            modules = (load_transformer(options.start), *modules[1:])
    else:
        modules = load_modules(options.start)
    if options.prefix_attention == OWN:
        use_own_prefix(modules[0], PREFIX_LATENTS, LATENT_FRAMES)
    return modules


def train_dit(factory: ClipFactory, vae: Any, out: Path, options: DitOptions) -> tuple[Any, Any, Any]:
    """Trains one stage; saves transformer, text_encoder and tokenizer (fp16) to OUT, returns them (fp32)."""
    device, state = options.device, options.state
    progress = None if state is None else checkpoint.read_progress(state)
    checkpoint.require_settings(progress, options.settings)
    blocks = [factory.take() for _ in range(max(1, min(16, options.capacity // 64)))]
    transformer, text_encoder, tokenizer = begin_modules(options, progress, blocks)
    transformer, text_encoder = transformer.to(device), text_encoder.to(device)
    bank = LatentBank(vae, tokenizer, options.capacity, options.size_px // 16, device, options.shares)
    trained = with_averages(transformer, text_encoder)
    before = progress or Progress(seconds=0.0, steps=0, stages=0, next_seed=0, settings={})
    if progress is not None and state is not None:
        checkpoint.load(state, trained)
    with fast_layout(vae, enabled=device == "cuda"):
        for block in blocks:
            bank.add(block)
            factory.release(block)
        step = run_stage(trained, bank, factory, options, before, out / "curves")
    after = Progress(
        seconds=before.seconds + options.seconds, steps=before.steps + step, stages=before.stages + 1,
        next_seed=factory.next_seed, settings=options.settings,
    )  # fmt: skip
    if state is not None:
        tokenizer.save_pretrained(state / "tokenizer")
        checkpoint.save(state, trained, after)
    save_averages(trained, tokenizer, out)
    print(f"dit: stage {after.stages}, {step} steps of {options.batch}, {bank.count} clips", flush=True)
    return transformer, text_encoder, tokenizer


def with_averages(transformer: Any, text_encoder: Any) -> Trained:
    return Trained(
        {"transformer": transformer, "text_encoder": text_encoder},
        {"transformer": Average(transformer, 0.9995), "text_encoder": Average(text_encoder, 0.9995)},
    )


def save_averages(trained: Trained, tokenizer: Any, out: Path) -> None:
    """Give the modules their averages, and save them (fp16) and the tokenizer to OUT."""
    for name, module in trained.modules.items():
        trained.averages[name].apply()
        save_half(module, out / name)
    tokenizer.save_pretrained(out / "tokenizer")


def assemble_state(state: Path, out: Path) -> str:
    """Save what a training's state holds as folders of OUT; returns what its prefix tokens look at.

    Needs no GPU: a state travels in small files, the folders of a model do not. ModelError for an empty one.
    """
    progress = checkpoint.read_progress(state)
    if progress is None:
        raise ModelError(f"{state} holds no training", fix="give the --state folder of a stage")
    tokenizer = load_tokenizer(state)
    trained = with_averages(build_transformer(), build_text_encoder(tokenizer))
    checkpoint.load(state, trained)
    save_averages(trained, tokenizer, out)
    return progress.settings.get("prefix_attention", ALL)


def run_stage(
    trained: Trained,
    bank: LatentBank,
    factory: ClipFactory,
    options: DitOptions,
    before: Progress,
    curves: Path,
) -> int:
    """The loop of one stage; returns its number of steps and saves its curve beside those of the others."""
    transformer, text_encoder = trained.modules["transformer"], trained.modules["text_encoder"]
    # the text encoder too: uncompiled it makes its mask's constants on the host, which no capture allows
    layers = (*transformer.blocks, text_encoder) if options.device == "cuda" else ()  # type: ignore[misc]
    for layer in layers:
        layer.compile(dynamic=False)

    def losses(clean: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": flow_loss(transformer, embed_text(text_encoder, ids), clean)}

    update = TrainingStep(losses, [transformer, text_encoder], device=options.device)
    number = before.stages + 1
    curve = Curve(f"dit{number}" if options.state else "dit", 200 if options.device == "cuda" else 2)
    budget, step = Budget(options.seconds), 0
    while not budget.over:
        if bank.count < options.capacity and factory.ready() and (step % 40 == 0 or bank.count < 8192):
            block = factory.take()
            bank.add(block)
            factory.release(block)
        done = (before.seconds + budget.fraction * options.seconds) / options.total_seconds
        update.set_rate(1e-3 if options.start is None else 6e-4, step, min(done, 1.0))
        curve.add(step, update(*bank.batch(options.batch)))
        for average in trained.averages.values():
            average.update()
        step += 1
        if step == 1:  # compilation and capture are over: the budget counts training
            budget.start()
    facts = {"steps": step, "batch": options.batch, "clips": bank.count, "seconds": options.seconds}
    curve.save(curves, facts)
    return step
