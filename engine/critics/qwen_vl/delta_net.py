"""Gated DeltaNet (arXiv 2412.06464) in a decoding step: a state of a fixed size instead of keys and values.

A state cannot forget a token as a cache of keys can, by its length. So the rows of a step (drafts, or of a
slot that may write nothing now) stay beside the state until the next step of their slot, which knows how many
of them were kept: those alone enter it. Invariant: what a slot computes depends on the tokens that it kept.

R rows . S slots . W most rows of a slot in a step . C = 2 J K + H V channels of queries, keys, values . J key
heads . H value heads . K, V head sizes . T taps of the convolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.critics.qwen_vl.mixers import Norm, Rows
from engine.critics.qwen_vl.projections import projection
from kernels.decode import gated_delta

WIDTH = 8
"""Most rows of a slot in a step: its token and drafts."""
CHUNK = 64
"""Tokens of a chunk of the library's rule (`torch_chunk_gated_delta_rule`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaMemory:
    """Of one layer: the states behind the tokens that each slot kept, and the rows of its last step.

    state fp32 [S, H, K, V]; inputs [S, T - 1 + W, C]: what the convolution reads before the last rows, and
    these; convolved [S, W, C], decay and beta fp32 [S, W, H]: the last rows, as they enter the state.
    """

    state: Tensor
    inputs: Tensor
    convolved: Tensor
    decay: Tensor
    beta: Tensor

    @classmethod
    def of(cls, config: Any, slots: int, dtype: torch.dtype, device: torch.device) -> DeltaMemory:
        """Zeros; `config`: the model's text config."""

        def zeros(wide: bool, size: tuple[int, ...]) -> Tensor:
            return torch.zeros(slots, *size, dtype=torch.float32 if wide else dtype, device=device)

        return cls(**{name: zeros(*of) for name, of in _sizes(config).items()})

    def parts(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def begin(self, slot: int, state: Tensor, inputs: Tensor) -> None:
        """Behind a prompt: state [H, K, V], and the last inputs of the convolution [C, at least T - 1]."""
        before = self.inputs.shape[1] - self.convolved.shape[1]
        self.state[slot].copy_(state)
        self.inputs[slot, :before].copy_(inputs[:, -before:].T)


class DeltaNet:
    """A mixer over a `Qwen3_5GatedDeltaNet` of transformers, whose weights it shares."""

    def __init__(self, module: Any) -> None:
        self._qkv_z = projection(module.in_proj_qkv, module.in_proj_z)
        self._b_a = projection(module.in_proj_b, module.in_proj_a)
        self._out = projection(module.out_proj)
        self._norm = Norm.of(module.norm)
        self._channels, self._values = module.conv_dim, module.value_dim
        with torch.no_grad():
            self._taps = module.conv1d.weight[:, 0].T.float().contiguous()  # [T, C]
            self._rate = -module.A_log.float().exp()
            self._dt_bias = module.dt_bias.float()

    def __call__(self, x: Tensor, h: Tensor, rows: Rows, memory: DeltaMemory) -> Tensor:
        qkv, z = self._qkv_z(x, None).split((self._channels, self._values), -1)
        b, a = self._b_a(x, None).chunk(2, -1)
        beta = b.sigmoid().float()
        decay = self._rate * F.softplus(a.float() + self._dt_bias)
        convolved = self._convolved(qkv, rows, memory)
        read = gated_delta.run(
            convolved.flatten(0, 1),
            decay,
            beta,
            memory.state,
            last_qkv=memory.convolved,
            last_decay=memory.decay,
            last_beta=memory.beta,
            kept=rows.kept,
            slots=rows.owners,
        )
        width = convolved.shape[1]
        memory.convolved[rows.owners, :width] = convolved
        memory.decay[rows.owners, :width] = decay.unflatten(0, (-1, width))
        memory.beta[rows.owners, :width] = beta.unflatten(0, (-1, width))
        gated = self._norm(read).flatten(1) * F.silu(z.float())
        return self._out(gated.to(x.dtype), h)

    def _convolved(self, new: Tensor, rows: Rows, memory: DeltaMemory) -> Tensor:
        """[R, C] -> [N, R / N, C]: the causal convolution behind what was kept, and its activation."""
        taps = len(self._taps)
        new = new.unflatten(0, (len(rows.owners), -1))
        width = new.shape[1]
        place = rows.kept[:, None] + torch.arange(taps - 1, device=new.device)
        inputs = torch.cat((memory.inputs[rows.owners[:, None], place], new), dim=1)
        memory.inputs[rows.owners, : inputs.shape[1]] = inputs
        wide = inputs.float()
        out = wide[:, :width] * self._taps[0]
        for i in range(1, taps):
            out = torch.addcmul(out, wide[:, i : i + width], self._taps[i])
        return F.silu(out.to(new.dtype))


def memory_bytes(config: Any, element: int) -> int:
    """Of one slot in one layer."""
    return sum((4 if wide else element) * math.prod(size) for wide, size in _sizes(config).values())


def rule_bytes(config: Any, tokens: int, element: int) -> int:
    """Of a layer at its peak while a prompt is read by transformers' torch functions, beside the memory:
    input, residual, channels and gate; in fp32 seven tensors like the keys (six in 5.23), four like the
    values and three matrices of each chunk of tokens, of every value head; flash-linear-attention less."""
    heads, key_dim = config.linear_num_value_heads, config.linear_key_head_dim
    values = heads * config.linear_value_head_dim
    channels = 2 * config.linear_num_key_heads * key_dim + values
    whole_chunks = -(-tokens // CHUNK) * CHUNK
    narrow = tokens * element * (2 * config.hidden_size + channels + values)
    return int(narrow + whole_chunks * 4 * (heads * (7 * key_dim + 3 * CHUNK) + 4 * values))


def implementation() -> str:
    """What computes the rule, for the manifest: prompts by the library, replies by us."""
    reads = "flash-linear-attention" if find_spec("fla") else "transformers' torch functions"
    return f"prompts by {reads}, replies by kernels/decode/gated_delta.py"


def _sizes(config: Any) -> dict[str, tuple[bool, tuple[int, ...]]]:
    """Part of a memory -> whether it is always fp32, and its size for one slot."""
    heads, key_dim = config.linear_num_value_heads, config.linear_key_head_dim
    value_dim = config.linear_value_head_dim
    channels = 2 * config.linear_num_key_heads * key_dim + heads * value_dim
    return {
        "state": (True, (heads, key_dim, value_dim)),
        "inputs": (False, (config.linear_conv_kernel_dim - 1 + WIDTH, channels)),
        "convolved": (False, (WIDTH, channels)),
        "decay": (True, (WIDTH, heads)),
        "beta": (True, (WIDTH, heads)),
    }
