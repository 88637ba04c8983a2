"""The prepared transformer gives the library's numbers, and its spec and gates fit it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bounds import gemm_bound
from diffusers import WanTransformer3DModel
from tiny_export import PROFILE, SIZES, forwards, relative, subject, transformer

from engine.generators.wan.own_prefix import use_own_prefix
from engine.generators.wan.recipes import WAN
from export.spec import ExportError, Profile
from export.subjects import wan_dit
from export.subjects.wan_dit import rotate

TOKENS_PER_FRAME = 6


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_equals_the_library_with_per_token_timesteps(dtype: str) -> None:
    """The embedder of timesteps has a row per frame here, one per token there; all else has equal shapes."""
    latents, timestep, text, _ = forwards(1)[0]

    def library(dtype: str) -> torch.Tensor:
        model = transformer(dtype)
        per_token = timestep.repeat_interleave(TOKENS_PER_FRAME, dim=1)
        out = model(latents.to(model.dtype), per_token, text.to(model.dtype), return_dict=False)[0]
        return out.float()

    with torch.no_grad():
        expected = library(dtype)
        velocity = subject(dtype).module(latents, timestep, text, torch.zeros(1, 12))
        exact = library("fp32")
    assert velocity.dtype == torch.float32
    if dtype == "fp32":  # sums of 16, 32 and 32 terms, then norms: an error goes on as large as it came
        bound = gemm_bound(torch.float32, 16 + 32 + 32, float(exact.abs().max()))
        assert (velocity - expected).abs().max() <= bound
    else:  # an fp32 difference may tip a rounding to bf16, as the roundings themselves may
        assert relative(velocity, expected) <= relative(expected, exact)


def test_equals_the_library_with_one_timestep_and_two_rows() -> None:
    profile = Profile(name="pair", sizes={**SIZES, "B": 2})
    prepared = subject(per_frame=False, profiles=(profile,))
    latents, text = torch.randn(2, 4, 3, 4, 6), torch.randn(2, 12, 16)
    timestep = torch.tensor([300.0, 700.0])
    with torch.no_grad():
        exact = transformer()(latents, timestep, text, return_dict=False)[0]
        velocity = prepared.module(latents, timestep, text, torch.zeros(2, 12))
    torch.testing.assert_close(velocity, exact, rtol=1e-5, atol=1e-6)
    assert [tensor.dims for tensor in prepared.spec.inputs][1] == ("B",)


def test_masked_padding_changes_nothing() -> None:
    module = subject().module
    latents, timestep, text, mask = forwards(1)[0]
    other = text.clone()
    other[:, 8:] = 1e3
    with torch.no_grad():
        short = transformer()(
            latents, timestep.repeat_interleave(TOKENS_PER_FRAME, dim=1), text[:, :8], return_dict=False
        )[0]
        padded, garbage = (module(latents, timestep, words, mask) for words in (text, other))
        unmasked = module(latents, timestep, text, torch.zeros_like(mask))
    assert torch.equal(padded, garbage)  # the same kernels on the same shapes, weights of zero
    # Embedder (16 and 32 terms), values (32), attention (16 and 12) and output (32) see other shapes.
    bound = gemm_bound(torch.float32, 16 + 32 + 32 + 16 + 12 + 32, float(short.abs().max()))
    torch.testing.assert_close(padded, short, rtol=0, atol=bound)
    assert not torch.allclose(unmasked, short, atol=1e-4)  # without the mask it would


def test_rotation_keeps_lengths() -> None:
    x = torch.randn(1, 5, 2, 8)
    angle = torch.randn(1, 5, 1, 4).repeat_interleave(2, dim=-1)
    turned = rotate(x, angle.cos(), angle.sin())
    pairs, before = turned.unflatten(-1, (-1, 2)).norm(dim=-1), x.unflatten(-1, (-1, 2)).norm(dim=-1)
    torch.testing.assert_close(pairs, before)
    assert not torch.allclose(turned, x)


def test_reads_a_folder_and_keeps_its_fp32_islands(tmp_path: Path) -> None:
    transformer().save_pretrained(tmp_path / "transformer")
    prepared = wan_dit.prepare(tmp_path, profiles=(PROFILE,), dtype="bf16")
    kinds = {name: parameter.dtype for name, parameter in prepared.module.named_parameters()}
    assert kinds["transformer.blocks.0.norm2.weight"] == torch.float32
    assert kinds["transformer.condition_embedder.time_embedder.linear_1.weight"] == torch.float32
    assert kinds["transformer.blocks.0.attn1.to_q.weight"] == torch.bfloat16
    assert prepared.spec.weights_digest.startswith("sha256:")
    half = wan_dit.prepare(tmp_path / "transformer", profiles=(PROFILE,), dtype="fp16")
    assert half.spec.weights_digest == prepared.spec.weights_digest


def test_outline_of_a_folder_has_shapes_alone(tmp_path: Path) -> None:
    transformer().save_pretrained(tmp_path)
    prepared = wan_dit.prepare(tmp_path, profiles=(PROFILE,), dtype="fp16", with_weights=False)
    loaded = wan_dit.prepare(tmp_path, profiles=(PROFILE,), dtype="fp16")
    assert all(parameter.is_meta for parameter in prepared.module.parameters())
    shapes = [{n: (t.shape, t.dtype) for n, t in s.module.state_dict().items()} for s in (prepared, loaded)]
    assert shapes[0] == shapes[1]
    kept = {name for name, _ in loaded.module.named_buffers()} - set(loaded.module.state_dict())
    assert kept == set(prepared.constants)
    for name, table in prepared.constants.items():
        assert torch.equal(table, loaded.module.get_buffer(name))


def test_gates_count_products() -> None:
    prepared = subject()
    gate = prepared.gate("fp8", 89)
    assert (gate.num_fp8_gemm, gate.num_int8_gemm, gate.merged_qkv) == (13, 0, True)
    assert gate.num_fused_attention == 4 and gate.fused_attention_dtype == "fp16"
    other = prepared.gate("fp8-attention", 120)
    assert (other.num_fp8_gemm, other.merged_qkv, other.fused_attention_dtype) == (13, True, "fp8")
    assert prepared.gate("nvfp4", 120).merged_qkv is False
    assert prepared.gate("int8", 120).num_int8_gemm == 13


def test_full_size_counts() -> None:
    with torch.device("meta"):
        model = WanTransformer3DModel(num_attention_heads=12, ffn_dim=8960, text_dim=4096, num_layers=30)
    linears = wan_dit._groups(model, wan_dit.EVERY_BLOCK)
    assert sum(len(group.linears) for group in linears) == 300
    assert len(linears) == 181


def test_the_runtime_table_keeps_what_the_runtime_keeps() -> None:
    groups = subject(num_layers=3, table=WAN).groups
    assert {name.split(".")[2] for group in groups for name in group.linears} == {"1"}
    assert not any(group.name == "text" for group in groups)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"added_kv_proj_dim": 32, "image_dim": 8}, "encoded image"),
        ({"patch_size": (2, 2, 2)}, "patch_size"),
    ],
)
def test_other_modules_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        wan_dit.prepare(transformer(**changes), profiles=(PROFILE,))


def test_profiles_must_fit(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="h=5"):
        subject(profiles=(Profile(name="odd", sizes={**SIZES, "h": 5}),))
    with pytest.raises(ExportError, match="exactly one size"):
        subject(profiles=(Profile(name="short", sizes={"B": 1, "h": 4, "w": 4}),))
    with pytest.raises(ExportError, match=r"neither config\.json"):
        wan_dit.prepare(tmp_path, profiles=(PROFILE,))


def test_a_transformer_whose_prefix_looks_at_itself_alone_is_refused(tmp_path: Path) -> None:
    """The plain form has another attention: it would answer, with other velocities."""
    transformer().save_pretrained(tmp_path / "transformer")
    (tmp_path / "retake.json").write_text('{"prefix_attention": "own"}')
    for folder in (tmp_path, tmp_path / "transformer"):
        with pytest.raises(ExportError, match="look at themselves alone"):
            wan_dit.prepare(folder, profiles=(PROFILE,))
    module = transformer()
    use_own_prefix(module, 1, 3)
    with pytest.raises(ExportError, match="look at themselves alone"):
        wan_dit.prepare(module, profiles=(PROFILE,))
