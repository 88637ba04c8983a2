"""A prefix that looks at itself alone: independent of noise, time and text; equal to a masked attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_denoise as tiny
import torch
from diffusers import WanTransformer3DModel
from tiny_wan import build_folder, edit

from engine.denoise.layers import bind
from engine.errors import ModelError
from engine.generators.wan.eager import EagerDenoiser
from engine.generators.wan.folder import read_folder
from engine.generators.wan.own_prefix import OwnPrefix, told_prefix_attention, use_own_prefix

PREFIX, FRAMES, SIDE = 2, 5, 3
TOKENS = SIDE * SIDE

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    """The same weights as the library runs them, and with a prefix of its own."""
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(
            WanTransformer3DModel(
                patch_size=(1, 1, 1), num_attention_heads=2, attention_head_dim=16, in_channels=4,
                out_channels=4, text_dim=8, freq_dim=32, ffn_dim=32, num_layers=2, cross_attn_norm=True,
                qk_norm="rms_norm_across_heads", rope_max_seq_len=16,
            ).eval()
        )  # fmt: skip
    use_own_prefix(made[1], PREFIX, FRAMES)
    return made[0], made[1]


def run(model: Any, latents: torch.Tensor, t: float = 500.0, text_seed: int = 1) -> torch.Tensor:
    torch.manual_seed(text_seed)
    text = torch.randn(1, 6, 8)
    times = torch.full((1, FRAMES, TOKENS), t)
    times[:, :PREFIX] = 0.0
    with torch.no_grad():
        return model(latents, times.flatten(1), text, return_dict=False)[0]


def latents(seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randn(1, 4, FRAMES, SIDE, SIDE)


def test_the_prefix_is_the_same_under_every_noise_time_and_text(models: tuple[Any, Any]) -> None:
    library, own = models
    one, other = latents(), latents(5)
    other[:, :, :PREFIX] = one[:, :, :PREFIX]
    base = run(own, one)[:, :, :PREFIX]
    for changed in (run(own, other), run(own, one, t=900.0), run(own, one, text_seed=2)):
        assert torch.equal(changed[:, :, :PREFIX], base)
        assert not torch.allclose(changed[:, :, PREFIX:], run(own, one)[:, :, PREFIX:])
    assert not torch.allclose(run(library, other)[:, :, :PREFIX], run(library, one)[:, :, :PREFIX])


def test_noisy_tokens_still_look_at_the_prefix(models: tuple[Any, Any]) -> None:
    _, own = models
    one = latents()
    other = one.clone()
    other[:, :, :PREFIX] += 0.5
    assert not torch.allclose(run(own, one)[:, :, PREFIX:], run(own, other)[:, :, PREFIX:])


def test_it_equals_the_library_under_a_mask(models: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's processors, given the mask of self-attention and no text on prefix tokens."""
    library, own = models
    split = PREFIX * TOKENS
    mask = torch.ones(FRAMES * TOKENS, FRAMES * TOKENS, dtype=torch.bool)
    mask[:split, split:] = False
    for block in library.blocks:
        for attn, text in ((block.attn1, False), (block.attn2, True)):
            forward = attn.forward

            def masked(
                hidden: torch.Tensor, context: Any = None, given: Any = None, rotary: Any = None, *,
                forward: Any = forward, text: bool = text,
            ) -> torch.Tensor:  # fmt: skip
                out: torch.Tensor = forward(hidden, context, None if text else mask, rotary)
                if text:
                    out = out.clone()
                    out[:, :split] = 0.0
                return out

            monkeypatch.setattr(attn, "forward", masked)
    assert torch.allclose(run(own, latents()), run(library, latents()), atol=1e-5)


def test_a_share_that_is_no_prefix_is_refused(models: tuple[Any, Any]) -> None:
    with pytest.raises(AssertionError, match="5 of 5"):
        use_own_prefix(models[1], 5, 5)


@pytest.mark.parametrize("element_wise", ["run", "plain"])
@pytest.mark.parametrize("branch", ["cond", "both"])
def test_the_fast_forward_equals_the_library_with_it(branch: str, element_wise: Any) -> None:
    transformer = tiny.transformer()
    frames = tiny.latents().shape[2]
    plain = ask(tiny.fast(transformer, element_wise=bind(element_wise)), branch)
    use_own_prefix(transformer, 1, frames)
    with torch.no_grad():
        expected = ask(EagerDenoiser(transformer), branch)
        fast = ask(tiny.fast(transformer, element_wise=bind(element_wise)), branch)
    assert tiny.largest(fast, expected) < 1e-5 < tiny.largest(plain, expected)


def ask(denoiser: Any, branch: str) -> torch.Tensor:
    with torch.no_grad():
        text = denoiser.prepare(tiny.text(2 if branch == "both" else 1))
        velocity = denoiser(tiny.latents(), tiny.at(640.0, prefix_frames=1), text, branch=branch)
    assert isinstance(velocity, torch.Tensor)
    return velocity


def test_a_folder_says_how_it_was_trained(tmp_path: Path) -> None:
    folder = build_folder(tmp_path / "wan", patch_px=1)
    assert told_prefix_attention(folder) == "all"
    edit(folder, "retake.json", prefix_attention="own")
    assert told_prefix_attention(folder) == "own"
    parts = read_folder(folder, "cpu", "fp32")
    processor = parts.transformer.blocks[0].attn1.processor
    assert isinstance(processor, OwnPrefix)
    assert (processor.prefix_frames, processor.latent_frames) == (3, 5)  # 6 + 8 frames: 9 padded, then 8
    edit(folder, "retake.json", prefix_attention="none")
    with pytest.raises(ModelError, match="prefix_attention"):
        read_folder(folder, "cpu", "fp32")


def test_it_trains_in_mixed_precision_and_is_traced_in_one_piece() -> None:
    """As training runs it on a GPU: blocks traced whole, half precision beside fp32 norms, with gradients."""
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        patch_size=(1, 1, 1), num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
        text_dim=8, freq_dim=32, ffn_dim=32, num_layers=1, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads", rope_max_seq_len=16,
    )  # fmt: skip
    use_own_prefix(transformer, PREFIX, FRAMES)
    for block in transformer.blocks:
        block.compile(dynamic=False, fullgraph=True, backend="eager")
    with torch.autocast("cpu", torch.bfloat16):
        times = torch.full((1, FRAMES * TOKENS), 500.0)
        velocity = transformer(latents(), times, torch.randn(1, 6, 8), return_dict=False)[0]
    velocity.float().square().mean().backward()
    gradients = [parameter.grad for parameter in transformer.blocks.parameters()]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in gradients)
