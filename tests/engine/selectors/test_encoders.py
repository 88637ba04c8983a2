"""Frozen image encoders of the selectors: the descriptor, folders of transformers models, wrong folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from engine.errors import ModelError
from engine.selectors import geometry
from engine.selectors._encoders import EdgeDescriptor, ImageEncoder, load_image_encoder
from engine.types import Clip, Frames, Scenario, SelectorSettings, Video
from engine.video.files import write_mp4

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
FRAMES: Frames = np.random.default_rng(0).integers(0, 255, (20, 48, 80, 3)).astype(np.uint8)


def save_dinov2(folder: Path) -> None:
    Dinov2Model(Dinov2Config(**SMALL, image_size=56, patch_size=14)).save_pretrained(folder)
    crop = {"height": 56, "width": 56}
    BitImageProcessor(size={"shortest_edge": 64}, crop_size=crop).save_pretrained(folder)


def save_siglip(folder: Path) -> None:
    vision = {**SMALL, "image_size": 32, "patch_size": 8, "intermediate_size": 64}
    text = {**SMALL, "num_hidden_layers": 1, "intermediate_size": 64, "vocab_size": 100}
    ids = {"bos_token_id": 1, "eos_token_id": 2}
    SiglipModel(SiglipConfig(vision_config=vision, text_config=text | ids)).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def save_vit(folder: Path) -> None:
    ViTModel(ViTConfig(**SMALL, intermediate_size=64, image_size=32, patch_size=8)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


SAVED = {"dinov2": save_dinov2, "siglip": save_siglip, "vit": save_vit}


def load(folder: Path | None) -> ImageEncoder:
    return load_image_encoder(SelectorSettings(image_encoder=folder))


@pytest.mark.parametrize("family", SAVED)
def test_patches_of_a_folder(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    SAVED[family](tmp_path)
    encoder = load(tmp_path)
    features = encoder.features(FRAMES)
    assert features.shape == (20, 16, 32) and features.dtype == np.float32  # no class token among the patches
    np.testing.assert_allclose(encoder.features(FRAMES[3:5]), features[3:5], rtol=1e-4, atol=1e-5)
    assert not np.allclose(features[0], features[1])


def test_the_whole_picture_is_seen(tmp_path: Path) -> None:
    """A centre crop would not see the left edge of a wide picture."""
    save_dinov2(tmp_path)
    encoder = load(tmp_path)
    plain = np.zeros((1, 48, 120, 3), np.uint8)
    edge = plain.copy()
    edge[:, :, :12] = 255
    assert not np.allclose(encoder.features(plain), encoder.features(edge), atol=1e-4)


def test_the_descriptor_needs_no_folder() -> None:
    encoder = load(None)
    assert isinstance(encoder, EdgeDescriptor)
    features = encoder.features(FRAMES)
    assert features.shape == (20, 256, 19) and features.dtype == np.float32
    np.testing.assert_array_equal(encoder.features(FRAMES[3:5]), features[3:5])


def test_the_descriptor_tells_edges_apart_by_direction() -> None:
    upright, level = np.zeros((1, 128, 128, 3), np.uint8), np.zeros((1, 128, 128, 3), np.uint8)
    upright[:, :, 64:] = 255
    level[:, 64:] = 255
    edges = [load(None).features(frame)[0, :, 3:11].max(axis=0) for frame in (upright, level)]
    assert edges[0].argmax() == 0 and edges[1].argmax() == 4  # 8 directions in half a turn
    assert load(None).features(np.full((1, 64, 64, 3), 77, np.uint8))[0, :, 3:].max() == 0.0


def test_geometry_looks_through_the_folder_of_the_settings(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_dinov2(tmp_path / "encoder")
    write_mp4(tmp_path / "prefix.mp4", FRAMES, 8.0)
    prefix = Clip(path=tmp_path / "prefix.mp4", fps=8.0, num_frames=20, width=80, height=48)
    scenario = Scenario(id="1", text="a", prefix=prefix, category="c", output_name="1.mp4")
    takes = [Video(frames=FRAMES, fps=8.0), Video(frames=FRAMES[::-1].copy(), fps=8.0)]
    plain = geometry.build(SelectorSettings()).score(scenario, takes, [])
    settings = SelectorSettings(image_encoder=tmp_path / "encoder")
    seen = geometry.build(settings).score(scenario, takes, [])
    assert np.isfinite(seen).all() and seen != plain


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(ModelError, match="does not load"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_code_of_its_own_is_refused(tmp_path: Path, name: str) -> None:
    save_vit(tmp_path)
    stated = json.loads((tmp_path / name).read_text())
    (tmp_path / name).write_text(json.dumps({**stated, "auto_map": {"AutoModel": "mine.Model"}}))
    with pytest.raises(ModelError, match=f"{name} asks for code of its own"):
        load(tmp_path)


def test_a_folder_without_its_weights_is_refused(tmp_path: Path) -> None:
    save_vit(tmp_path)
    config = ViTConfig(
        **(SMALL | {"num_hidden_layers": 1}), intermediate_size=64, image_size=32, patch_size=8
    )
    ViTModel(config).save_pretrained(tmp_path / "less")
    (tmp_path / "less" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks \d+ weights"):
        load(tmp_path)
