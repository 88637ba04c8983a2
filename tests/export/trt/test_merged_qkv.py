"""One product for q, k and v in 16 bits: the planner makes it of three, so a graph that has it gains nothing.
In 8 bits it does gain (bench/perf/product_layout.py).

Builds engines (10 s each), so that a library that no longer merges them is noticed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_export as tiny
import torch
from torch import Tensor
from torch.nn import functional

from export.spec import Profile
from export.subjects import wan_dit
from export.targets import onnx
from export.trt.builder import BuildOptions, run_builder
from export.trt.gates import unmerged
from export.trt.layer_table import Row, parse
from export.trt.library import find

PROFILE = Profile(name="small", sizes={"B": 1, "F": 3, "h": 16, "w": 16, "L": 64})
SM89 = 89


class Merged(wan_dit.RotaryProcessor):
    """The same attention with one weight and one bias of what reads the same tensor."""

    def forward(
        self, attn: Any, hidden: Tensor, text: Any = None, mask: Any = None, rotary: Any = None
    ) -> Tensor:
        if text is None:
            q, k, v = _together(attn, ("to_q", "to_k", "to_v"), hidden)
        else:
            (q,), (k, v) = _together(attn, ("to_q",), hidden), _together(attn, ("to_k", "to_v"), text)
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (attn.norm_q(q), attn.norm_k(k), v))
        if rotary is not None:
            q, k = wan_dit.rotate(q, *rotary), wan_dit.rotate(k, *rotary)
        out = self.core(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def _together(attn: Any, names: tuple[str, ...], x: Tensor) -> tuple[Tensor, ...]:
    layers = [getattr(attn, name) for name in names]
    weight, bias = (torch.cat([getattr(layer, part) for layer in layers]) for part in ("weight", "bias"))
    return functional.linear(x, weight, bias).chunk(len(layers), dim=-1)


def rows(folder: Path, *, merged: bool) -> tuple[Row, ...]:
    """Of the planner's table for 8.9 in fp16."""
    made = wan_dit.prepare(tiny.transformer("fp16", attention_head_dim=64, ffn_dim=512), profiles=(PROFILE,))
    transformer: Any = made.module.get_submodule("transformer")
    exact = made.module(*made.inputs)
    if merged:
        for block in transformer.blocks:
            for attention in (block.attn1, block.attn2):
                attention.set_processor(Merged(64))
        assert tiny.relative(made.module(*made.inputs), exact) < 1e-2  # the same forward
    onnx.build(made, "fp16", folder, scales=None, weights=None)
    (work := folder / "work").mkdir()
    shapes = {tensor.name: tensor.shape(PROFILE.sizes) for tensor in made.spec.inputs}
    built = run_builder(
        find("tensorrt-rtx"),
        folder / onnx.MODEL,
        work,
        compute_capability=SM89,
        profiles=[shapes],
        options=BuildOptions(),
        timing_cache=None,
        on_progress=None,
    )
    with built.log.open(encoding="utf-8") as lines:
        return tuple(parse(lines).of_profile(0))


@pytest.mark.slow
def test_a_graph_with_q_k_and_v_merged_gains_no_kernel(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    plain, merged = rows(tmp_path / "plain", merged=False), rows(tmp_path / "merged", merged=True)
    assert unmerged(plain) == []
    assert len(plain) == len(merged)
    assert [sum(row.is_fused_attention for row in found) for found in (plain, merged)] == [4, 4]
