"""The UMT5 or T5 encoder as an export subject: token ids of a fixed length to embeddings.

Differs from the library in that the embeddings of padding are zero, as the Wan models were trained. Knows no
tokenizer. Invariant: what is padded does not change the embeddings of what is not.
B batch . L text tokens . D text width
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import T5EncoderModel, UMT5EncoderModel
from transformers.models.t5.modeling_t5 import T5LayerNorm
from transformers.models.umt5.modeling_umt5 import UMT5LayerNorm

from export.artifacts.weights import folder_digest, module_digest
from export.spec import ExportError, ExportSpec, Gate, Profile, Subject, TensorSpec, Tolerance, recipe_of
from export.subjects._loading import component_folder, load_module
from export.subjects._norms import replace_norms

SUBJECT = "text_encoder"
CLASSES = {"umt5": UMT5EncoderModel, "t5": T5EncoderModel}
NORMS = (T5LayerNorm, UMT5LayerNorm)
TOLERANCE = {
    "bf16": Tolerance(relative=0.03, cosine=0.9995),
    "fp16": Tolerance(relative=0.01, cosine=0.9999),
}
"""It runs once per prompt, so 8 bits would save memory at most."""


def prepare(source: Path | nn.Module, *, profiles: Sequence[Profile], dtype: str = "fp16") -> Subject:
    """The subject of a diffusers folder or a loaded encoder. Sizes of a profile: B and L.

    Raises ExportError for an unreadable folder or an encoder of another family.
    """
    if isinstance(source, Path):
        folder = component_folder(source, "text_encoder")
        kind = str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type"))
        if kind not in CLASSES:
            problem = f"{folder} holds a text encoder of type {kind!r}"
            raise ExportError(problem, fix=f"use one of: {', '.join(CLASSES)}")
        digest = folder_digest(folder)
        encoder: Any = load_module(folder, CLASSES[kind], dtype)
    else:
        encoder, digest = source, module_digest(source)
    spec = ExportSpec(
        subject=SUBJECT,
        inputs=(
            TensorSpec(name="token_ids", dims=("B", "L"), dtype="int64"),
            TensorSpec(name="is_token", dims=("B", "L"), dtype="int64"),
        ),
        outputs=(TensorSpec(name="text", dims=("B", "L", encoder.config.d_model), dtype="fp32"),),
        profiles=tuple(profiles),
        tolerance=TOLERANCE,
        weights_digest=digest,
    )
    return Subject(
        module=EncodeText(encoder).eval().requires_grad_(False),
        spec=spec,
        inputs=_example(spec, encoder),
        gate=lambda recipe, capability: _gate(encoder.config.num_layers, recipe),
    )


class EncodeText(nn.Module):
    """Token ids [B, L] and is_token [B, L] (1, or 0 for padding) -> embeddings [B, L, D] fp32."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        replace_norms(encoder, NORMS, "variance_epsilon", expect=2 * encoder.config.num_layers + 1)
        self.encoder = encoder

    def forward(self, token_ids: Tensor, is_token: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=token_ids, attention_mask=is_token).last_hidden_state
        text: Tensor = hidden.float() * is_token[..., None]
        return text


def _example(spec: ExportSpec, encoder: Any) -> tuple[Tensor, ...]:
    """Random tokens of which the last quarter is padding."""
    shape = spec.input("token_ids").shape(spec.profiles[0].sizes)
    source = torch.Generator().manual_seed(0)
    token_ids = torch.randint(2, encoder.config.vocab_size, shape, generator=source)
    is_token = torch.ones(shape, dtype=torch.int64)
    is_token[:, shape[1] - shape[1] // 4 :] = 0
    device = next(encoder.parameters()).device
    return (token_ids * is_token).to(device), is_token.to(device)


def _gate(num_layers: int, recipe: str) -> Gate:
    """One attention per layer, its bias included (established with TensorRT-RTX 1.7.1 for 8.9)."""
    return Gate(
        num_fused_attention=num_layers,
        fused_attention_dtype=recipe_of(recipe).dtype,
        num_fp8_gemm=0,
        num_int8_gemm=0,
        merged_qkv=False,
        max_activation_bytes=None,
    )
