"""Descriptors of what a kernel is asked to do: device, sizes, element type and mask, as plain values.

Invariant: a problem holds everything that `supports` may ask about and nothing else: it can key a cache.
Capabilities are numbers, never marketing names. B batch, A heads, N tokens, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

KINDS = ("cpu", "cuda")
DTYPES = ("bf16", "fp16", "fp32")
MASKS = ("none", "lengths")


class KernelError(RuntimeError):
    """No kernel can do what was asked; the text names the problem and every reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The device a kernel would run on.

    `interpreted`: Triton's interpreter on the CPU, which only a test asks for, and by hand.
    """

    kind: str
    capability: tuple[int, int] | None
    interpreted: bool = False

    def __post_init__(self) -> None:
        assert self.kind in KINDS, f"device kind {self.kind!r} is not one of {', '.join(KINDS)}"
        assert (self.kind == "cuda") == (self.capability is not None), (
            f"{self.kind} with capability {self.capability}"
        )
        assert self.kind == "cpu" or not self.interpreted, "Triton's interpreter runs on the CPU"

    @classmethod
    def of(cls, device: torch.device) -> Target:
        """The target of a torch device. Asking about a CUDA device starts CUDA."""
        import torch

        if device.type == "cuda":
            return cls(kind="cuda", capability=torch.cuda.get_device_capability(device))
        assert device.type == "cpu", f"kernels know cpu and cuda, not {device}"
        return cls(kind="cpu", capability=None)

    def __str__(self) -> str:
        if self.capability is not None:
            return f"cc{self.capability[0]}.{self.capability[1]}"
        return "cpu, Triton interpreted" if self.interpreted else "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionProblem:
    """Attention of q [B, A, q_len, D] over k, v [B, A, kv_len, D].

    Masks: "none" or "lengths" (the number of valid keys of each batch row). `prefix`: the leading keys that a
    sparse kernel keeps exact; to others it says nothing.
    """

    batch: int
    heads: int
    q_len: int
    kv_len: int
    head_dim: int
    dtype: str
    mask: str
    target: Target
    prefix: int = 0

    def __post_init__(self) -> None:
        sizes = {n: getattr(self, n) for n in ("batch", "heads", "q_len", "kv_len", "head_dim")}
        assert all(size >= 1 for size in sizes.values()), f"sizes must be at least 1: {sizes}"
        assert 0 <= self.prefix <= self.kv_len, f"a prefix of {self.prefix} of {self.kv_len} keys"
        assert self.dtype in DTYPES, f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}"
        assert self.mask in MASKS, f"mask {self.mask!r} is not one of {', '.join(MASKS)}"

    @property
    def flops(self) -> int:
        """Floating-point operations of both matrix products, Q K^T and P V, without any mask."""
        return 4 * self.batch * self.heads * self.q_len * self.kv_len * self.head_dim

    def __str__(self) -> str:
        tokens = f"{self.q_len}" if self.q_len == self.kv_len else f"{self.q_len}x{self.kv_len}"
        mask = "" if self.mask == "none" else f" mask {self.mask}"
        mask += f" prefix {self.prefix}" if self.prefix else ""
        return f"[{self.batch}, {self.heads}, {tokens}, {self.head_dim}] {self.dtype}{mask} {self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProblem:
    """A linear layer: [rows, in_features] times the transpose of [out_features, in_features]."""

    rows: int
    in_features: int
    out_features: int
    dtype: str
    target: Target

    def __post_init__(self) -> None:
        sizes = (self.rows, self.in_features, self.out_features)
        assert min(sizes) >= 1, f"sizes must be at least 1: {sizes}"
        assert self.dtype in DTYPES, f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}"

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.in_features * self.out_features

    def __str__(self) -> str:
        return f"[{self.rows}, {self.in_features}] x [{self.out_features}] {self.dtype} {self.target}"


def torch_dtype(name: str) -> torch.dtype:
    """The torch type of a problem's dtype name."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]


def dtype_name(dtype: torch.dtype) -> str | None:
    """The problem's name of a torch type, None for a type no problem has."""
    return next((name for name in DTYPES if torch_dtype(name) == dtype), None)
