"""What forms of attention and of 8-bit products cost in kernels, as data: established, not computed.

Each number was counted on the layer table of a small graph built by `ESTABLISHED_WITH` for capability 8.9, in
fp16 but where it says otherwise; the tables lie in tests/data/trt under `source`. Counted are the kernels
from the projections of q, k and v to the attention, it, and what reads it. Knows no engine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

ESTABLISHED_WITH: Final = "1.7.1.116"
"""TensorRT for RTX."""

ATTENTION: Final = 3
"""Kernels of the plainest attention: one product for q, k and v, the fused attention, one copy behind it."""
PRODUCT: Final = 1
"""Kernels of a product in fp16: bias, activation and scale are its epilogue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """A form, how to tell it in the names of the kernels around an attention, and what it costs.

    names: searched in the name of each kernel that leads to it; None: told by the attention's tensors.
    kernels: in all, where nothing else costs any.
    """

    form: str
    names: re.Pattern[str] | None
    kernels: int
    instead: str
    source: str


BOOL_MASK: Final = Cost(
    form="a bool mask",
    names=re.compile(r"Cums|Scat|Iota"),
    kernels=13,
    instead="give an additive mask",
    source="bool_mask_sm89.log",
)
NORM: Final = Cost(
    form="a norm of q and k",
    names=re.compile(r"SqrtDiv"),
    kernels=8,
    instead="part of the model",
    source="norm_sm89.log",
)
QDQ: Final = Cost(
    form="Q/DQ around the Attention operator, which stays in 16 bits",
    names=re.compile(r"MulCast(?:Resh|Tran|Move)*CastMul|RounCast(?:Resh|Tran|Move)*CastMul"),
    kernels=6,
    instead="write FP8 attention out, as the recipe fp8-attention does",
    source="qdq_attention_sm89.log",
)
BIAS: Final = Cost(
    form="a bias on q, k and v",
    names=re.compile(r"_myl_(?:Mul)?Add(?!Sqrt)"),
    kernels=6,
    instead="part of the model",
    source="bias_sm89.log",
)
GROUPED: Final = Cost(
    form="grouped queries",
    names=None,
    kernels=6,
    instead="part of the model",
    source="grouped_sm89.log",
)
MASK: Final = Cost(
    form="an additive mask",
    names=None,
    kernels=7,
    instead="leave the mask out where nothing is padded",
    source="additive_mask_sm89.log",
)
BY_NAME: Final = (BOOL_MASK, NORM, QDQ, BIAS)
