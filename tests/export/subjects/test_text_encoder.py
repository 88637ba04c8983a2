"""Padded and masked token ids give the embeddings of the words alone, zero behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_export import relative
from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from export.spec import ExportError, Profile
from export.subjects import text_encoder
from export.targets import onnx as target

PROFILE = Profile(name="tiny", sizes={"B": 1, "L": 12})
SIZE: dict[str, Any] = {
    "vocab_size": 50,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
}


def encoder(kind: str = "umt5") -> Any:
    torch.manual_seed(0)
    return {
        "umt5": lambda: UMT5EncoderModel(UMT5Config(**SIZE)),
        "t5": lambda: T5EncoderModel(T5Config(**SIZE)),
    }[kind]().eval()


@pytest.mark.parametrize("kind", ["umt5", "t5"])
def test_padding_changes_no_embedding(kind: str) -> None:
    words = torch.randint(2, 50, (1, 7))
    with torch.no_grad():
        wanted = encoder(kind)(input_ids=words).last_hidden_state
        prepared = text_encoder.prepare(encoder(kind), profiles=(PROFILE,))
        padded = torch.cat([words, torch.full((1, 5), 3)], dim=1)
        text = prepared.module(padded, (torch.arange(12) < 7).long()[None])
    torch.testing.assert_close(text[:, :7], wanted, rtol=1e-5, atol=1e-6)
    assert not text[:, 7:].any()


def test_folder_to_graph(tmp_path: Path) -> None:
    encoder().save_pretrained(tmp_path / "text_encoder")
    exact = text_encoder.prepare(tmp_path, profiles=(PROFILE,), dtype="fp32")
    half = text_encoder.prepare(tmp_path, profiles=(PROFILE,), dtype="fp16")
    assert half.module.encoder.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype == torch.float32
    assert half.spec.weights_digest == exact.spec.weights_digest
    target.build(half, "fp16", tmp_path / "o")
    names = [tensor.name for tensor in exact.spec.inputs]
    text = target.load_module(tmp_path / "o")(dict(zip(names, exact.inputs, strict=True)))["text"]
    with torch.no_grad():
        error = relative(text, exact.module(*exact.inputs))
    assert 0 < error <= exact.spec.tolerance_of("fp16").relative, error


def test_other_encoders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ExportError, match="type 'bert'"):
        text_encoder.prepare(tmp_path, profiles=(PROFILE,))
