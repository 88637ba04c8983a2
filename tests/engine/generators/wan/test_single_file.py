"""Every part of a Wan model is read from the files that ComfyUI and GGUF users have, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import q8_0, save, scaled_fp8, write_gguf
from foreign_wan import (
    Files,
    TinyWan22,
    build,
    is_layer,
    published,
    published_vae,
    text_encoder_tensors,
    write_files,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.errors import ModelError
from engine.generators.wan.components import outline, read_weights
from engine.generators.wan.files import identify
from engine.weights.contents import contents
from engine.weights.header import read_header

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyWan22, Files]:
    return write_files(tmp_path_factory.mktemp("files"))


def place(folder: Path, path: Path) -> tuple[Path, str]:
    """A folder with the file as what it says that it is."""
    part = identify(contents(read_header(path)).shapes)
    assert part is not None
    where = folder / part.kind
    where.mkdir(parents=True)
    (where / "config.json").write_text(json.dumps(dict(part.config)))
    (where / f"weights{path.suffix}").symlink_to(path)
    return folder, part.kind


def read(folder: Path, path: Path, like: Any, dtype: torch.dtype = torch.float32) -> Any:
    place(folder, path)
    (kind,) = (one.name for one in folder.iterdir())
    return read_weights(folder, kind, type(like), dtype, device=CPU)


def same(found: Any, like: Any) -> None:
    wanted = like.state_dict()
    assert {name: tensor.dtype for name, tensor in found.state_dict().items()} == {
        name: tensor.dtype for name, tensor in wanted.items()
    }
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.state_dict().items())
    assert not any(tensor.is_meta for tensor in (*found.parameters(), *found.buffers()))


def test_a_transformer_by_its_publishers_names(made: tuple[TinyWan22, Files], tmp_path: Path) -> None:
    model, files = made
    found = read(tmp_path, files.plain, model.transformer)
    same(found, model.transformer)
    assert {key: found.config[key] for key in found.config if not key.startswith("_")} == {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in model.transformer.config.items()
        if not key.startswith("_")
    }


def test_the_fp32_islands_of_the_library_stay(made: tuple[TinyWan22, Files], tmp_path: Path) -> None:
    model, files = made
    found = read(tmp_path, files.plain, model.transformer, torch.bfloat16)
    assert found.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert found.blocks[0].norm2.weight.dtype == found.scale_shift_table.dtype == torch.float32


def test_scaled_fp8_is_what_its_writer_meant(made: tuple[TinyWan22, Files], tmp_path: Path) -> None:
    model, files = made
    found = read(tmp_path, files.scaled, model.transformer)
    weight, wanted = found.blocks[1].ffn.net[2].weight, model.transformer.blocks[1].ffn.net[2].weight
    scale = float(wanted.detach().abs().max()) / 448
    assert torch.equal(weight, (wanted / scale).to(torch.float8_e4m3fn).float() * torch.tensor(scale))
    assert torch.equal(found.proj_out.weight, model.transformer.proj_out.weight)


def test_gguf_is_what_ggml_makes_of_it(made: tuple[TinyWan22, Files], tmp_path: Path) -> None:
    model, files = made
    found = read(tmp_path, files.gguf, model.transformer)
    wanted = model.transformer.blocks[0].attn2.to_k.weight.detach()
    weight = found.blocks[0].attn2.to_k.weight.detach()
    assert q8_0(weight.numpy()) == q8_0(wanted.numpy())
    assert 0 < float((weight - wanted).norm() / wanted.norm()) < 0.01
    assert torch.equal(found.patch_embedding.weight, model.transformer.patch_embedding.weight)


def test_an_autoencoder(made: tuple[TinyWan22, Files], tmp_path: Path) -> None:
    model, files = made
    found = read(tmp_path, files.vae, model.vae)
    same(found, model.vae)
    assert dict(found.config)["latents_mean"] == list(model.vae.config.latents_mean)


@pytest.mark.parametrize("naming", ["transformers", "publisher", "llama.cpp"])
def test_a_text_encoder_by_any_of_its_names(
    made: tuple[TinyWan22, Files], tmp_path: Path, naming: str
) -> None:
    model, _ = made
    tensors = text_encoder_tensors(model, naming)
    if naming == "llama.cpp":
        path = write_gguf(tmp_path / "umt5.gguf", tensors, lambda *_: "F32")
    else:
        path = save(tmp_path / "umt5.safetensors", tensors)
    found = read(tmp_path / "model", path, model.text_encoder)
    same(found, model.text_encoder)
    assert found.encoder.embed_tokens.weight is found.shared.weight
    ids = torch.tensor([[3, 4, 1]])
    with torch.no_grad():
        hidden = [one(ids).last_hidden_state for one in (found.eval(), model.text_encoder)]
    torch.testing.assert_close(*hidden)


def refused(folder: Path, path: Path, kind: str, like: Any) -> str:
    """What is said of it before a weight is read: while there are shapes only."""
    part = folder / kind
    part.mkdir(parents=True, exist_ok=True)
    (part / f"weights{path.suffix}").symlink_to(path)
    with pytest.raises(ModelError) as error:
        outline(folder, kind, type(like), torch.float32)
    return str(error.value)


def changed(path: Path, tensors: dict[str, Tensor], changes: dict[str, Tensor | None]) -> Path:
    merged: dict[str, Tensor | None] = {**tensors, **changes}
    return save(path, {name: tensor for name, tensor in merged.items() if tensor is not None})


def test_missing_and_surplus_tensors_are_both_listed(made: tuple[TinyWan22, Files], tmp_path: Path) -> None:
    model, files = made
    folder, kind = place(tmp_path / "model", files.plain)
    (folder / kind / "weights.safetensors").unlink()
    path = changed(
        tmp_path / "a.safetensors",
        published(model),
        {
            "blocks.1.self_attn.q.bias": None,
            "blocks.1.extra.weight": torch.ones(2),
            "blocks.0.ffn.2.bias": torch.ones(3),
        },
    )
    told = refused(folder, path, kind, model.transformer)
    assert "1 missing: blocks.1.self_attn.q.bias" in told and "1 surplus: blocks.1.extra.weight" in told
    assert "1 of another shape: blocks.0.ffn.2.bias [3] for [128]" in told


def test_the_file_of_another_part_is_named(made: tuple[TinyWan22, Files], tmp_path: Path) -> None:
    model, files = made
    folder, kind = place(tmp_path / "model", files.plain)
    (folder / kind / "weights.safetensors").unlink()
    told = refused(folder, files.vae, kind, model.transformer)
    assert "is Wan2.2 autoencoder, 48 channels, not the transformer" in told


def test_a_library_folder_too_says_what_its_headers_lack(
    made: tuple[TinyWan22, Files], tmp_path: Path
) -> None:
    model, _ = made
    model.transformer.save_pretrained(tmp_path / "transformer", max_shard_size="200KB")
    (shard, *_) = sorted((tmp_path / "transformer").glob("*-00002-of-*.safetensors"))
    tensors = load_file(shard)
    name = min(tensors)
    save_file({f"other.{name}" if key == name else key: tensor for key, tensor in tensors.items()}, shard)
    with pytest.raises(ModelError) as error:
        outline(tmp_path, "transformer", type(model.transformer), torch.float32)
    assert f"1 missing: {name}; 1 surplus: other.{name}" in str(error.value)


@pytest.mark.parametrize("variant", ["fp16", None])
@pytest.mark.parametrize("shard", ["200KB", "1GB"])
def test_shards_and_variants_of_a_library_folder(
    made: tuple[TinyWan22, Files], tmp_path: Path, variant: str | None, shard: str
) -> None:
    model, _ = made
    for kind, part in (("transformer", model.transformer), ("text_encoder", model.text_encoder)):
        part.save_pretrained(tmp_path / kind, variant=variant, max_shard_size=shard)
        outline(tmp_path, kind, type(part), torch.float32)
        same(read_weights(tmp_path, kind, type(part), torch.float32, device=CPU), part)


TRANSFORMER = {
    "patch_embedding.weight": (128, 16, 1, 2, 2),
    "time_embedding.0.weight": (128, 32),
    "text_embedding.0.weight": (128, 32),
    "blocks.0.ffn.0.weight": (256, 128),
    "head.head.weight": (64, 128),
}
CONTROL = {
    "vace_patch_embedding.weight": (128, 96, 1, 2, 2),
    "vace_blocks.0.before_proj.weight": (128, 128),
    "vace_blocks.1.after_proj.weight": (128, 128),
}
AUTOENCODER = {
    "encoder.conv1.weight": (8, 3, 3, 3, 3),
    "decoder.conv1.weight": (32, 16, 3, 3, 3),
    "decoder.head.0.gamma": (8, 1, 1, 1),
    "decoder.head.2.weight": (3, 8, 3, 3, 3),
    "conv2.weight": (16, 16, 1, 1, 1),
}
T5 = {
    "shared.weight": (100, 32),
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 4),
    "encoder.block.0.layer.0.SelfAttention.q.weight": (32, 32),
    "encoder.block.1.layer.0.SelfAttention.q.weight": (32, 32),
    "encoder.block.0.layer.1.DenseReluDense.wi_0.weight": (64, 32),
}


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        (TRANSFORMER, "text alone (T2V)"),
        ({**TRANSFORMER, "patch_embedding.weight": (128, 36, 1, 2, 2)}, None),
        ({**TRANSFORMER, "img_emb.proj.0.weight": (128,)}, "also reads beside the text"),
        (
            {**TRANSFORMER, **CONTROL, "blocks.2.norm3.weight": (128,)},
            "2 control blocks are not at every n-th",
        ),
        ({**TRANSFORMER, **CONTROL, "blocks.3.norm3.weight": (128,)}, None),
        ({**TRANSFORMER, "face_adapter.fuser_blocks.0.q_norm.weight": (128,)}, "Wan Animate"),
        ({**TRANSFORMER, "patch_embedding.weight": (128, 20, 1, 2, 2)}, "20 input and 16 output channels"),
        ({**AUTOENCODER, "conv2.weight": (8, 8, 1, 1, 1)}, "deviation of its 8 latent channels"),
        (AUTOENCODER, None),
        (T5, "it is a T5, and Wan reads umT5"),
    ],
)
def test_other_models_of_the_family_are_known_by_name(
    shapes: dict[str, tuple[int, ...]], reason: str | None
) -> None:
    part = identify(shapes)
    assert part is not None
    assert part.not_run is None if reason is None else reason in str(part.not_run)


def test_what_is_no_wan_is_none() -> None:
    assert identify({"transformer_blocks.0.attn.to_q.weight": (8, 8)}) is None
    with pytest.raises(ModelError, match=r"a tensor head.head.weight of 2 sides; this file lacks it"):
        identify({name: shape for name, shape in TRANSFORMER.items() if name != "head.head.weight"})


def test_the_autoencoder_of_wan21_too(tmp_path: Path) -> None:
    from tiny_wan import build_autoencoder

    from engine.generators.wan.published_names import published_vae_name

    vae = build_autoencoder(blocks_per_level=2, latents=16)
    tensors = {
        published_vae_name(name, residual=False, num_res_blocks=2): tensor
        for name, tensor in vae.state_dict().items()
    }
    found = read(tmp_path / "model", save(tmp_path / "vae.safetensors", tensors), vae)
    same(found, vae)
    assert found.config.latents_std[0] == 2.8184


def test_the_modules_of_the_test_are_of_the_published_layout() -> None:
    model = build(20)
    assert {"head.modulation", "blocks.0.self_attn.norm_q.weight"} <= published(model).keys()
    assert "decoder.upsamples.2.upsamples.3.resample.1.weight" in published_vae(model)
    assert "scaled_fp8" in scaled_fp8(published(model), is_layer)
