"""Which attention an exported Wan transformer computes, and what it knows of a clean prefix, as data.

Imports no torch. Invariant: a form stands in the spec, so in the key and the manifest of an artifact; two
forms of one checkpoint are two artifacts, and none is loaded for the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from engine.words import counted

DENSE: Final = "dense"
PREFIX_SPARSE: Final = "triton_prefix_sparse"
ATTENTIONS: Final = (DENSE, PREFIX_SPARSE)
"""What --attention takes: every key, or keys of the prefix and a share of the others."""
TWO_GRAPHS: Final = ("aoti",)
"""Targets whose artifacts hold a second graph over the same weights, of what is computed once a take."""
_HALF_OF_WHEEL = "half of it is an operator of FlashAttention-3's wheel, which a package cannot hold"
NO_FORM: Final[Mapping[str, str]] = {
    "fa3_prefix_sparse": _HALF_OF_WHEEL,
    "fa3_fp8_prefix_sparse": _HALF_OF_WHEEL,
    "comfy_sol": "it is an operator of the comfy-kitchen wheel, which a package cannot hold",
}
"""Sparse attentions of the runtime that no package has, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The plain form is dense, for a prefix that looks at everything or for none.

    own_prefix: prefix tokens look at themselves alone; what the blocks read of them is computed once a take,
    or with `in_step` in every step, inside the one graph, as targets have it that hold no second one.
    prefix_frames: latent frames of the prefix; 0 where the form does not depend on it.
    """

    attention: str = DENSE
    own_prefix: bool = False
    prefix_frames: int = 0
    in_step: bool = False

    def __post_init__(self) -> None:
        assert self.own_prefix or not self.in_step, "only a prefix of its own need not be in every step"

    @property
    def is_plain(self) -> bool:
        return self == PLAIN

    def __str__(self) -> str:
        parts = [f"attention {self.attention}"]
        if self.own_prefix:
            parts.append(f"its own prefix computed {'in every step' if self.in_step else 'once a take'}")
        if self.prefix_frames:
            parts.append(f"{counted(self.prefix_frames, 'latent frame')} of prefix")
        return ", ".join(parts)

    def record(self) -> dict[str, Any]:
        return asdict(self)


PLAIN: Final = Form()
