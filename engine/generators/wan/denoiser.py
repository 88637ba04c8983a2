"""FastWan as a denoiser: which branch, which blocks are 8-bit at this timestep, called or replayed.

N takes, 1 unless scouts share a forward . B batch . Z latent channels . F, h, w latent frames and pixels
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from torch import Tensor

from engine.denoise.guidance import BOTH, COND, UNCOND
from engine.denoise.layers import quantized_blocks
from engine.denoise.sampler import PrefixTimestep
from engine.denoise.states import Observable
from engine.generators.wan.forward import FastWan, Predicted, PrefixKeys, TextKeys, TimeRows
from engine.machine.graphs import GraphedForward, GraphPool
from engine.quant.precision_policy import Range

Observed = tuple[Tensor, tuple[Tensor, ...]]
"""As `engine.denoise.states.Observable` gives it."""


class Observing(Observable):
    """A Denoiser whose call is what it observes, without the states."""

    def __call__(self, latents: Tensor, timestep: PrefixTimestep, text: TextKeys, *, branch: str) -> Tensor:
        """Velocity float32 [B, Z, F, h, w] of latents [N, Z or more, F, h, w]; B is 2 N for branch "both"."""
        return self.observed(latents, timestep, text, branch=branch, layers=())[0]


class FastDenoiser(Observing):
    """FastWan behind the Denoiser protocol; `quantized_ranges` are for each block the timesteps at which its
    self-attention is the quantized one, None: at none."""

    def __init__(
        self,
        wan: FastWan,
        *,
        quantized_ranges: tuple[tuple[Range, ...], ...] | None = None,
        graphs: bool = False,
    ) -> None:
        self.wan = wan
        self._quantized_ranges = ((),) * len(wan.blocks) if quantized_ranges is None else quantized_ranges
        assert len(self._quantized_ranges) == len(wan.blocks), "ranges are given block by block"
        self._graphs: dict[Hashable, GraphedForward] | None = {} if graphs else None
        self._pool = GraphPool()  # of all graphs: a lane replays them one after the other

    def prepare(self, text: Tensor) -> TextKeys:
        return self.wan.text_keys(text)

    def observed(
        self,
        latents: Tensor,
        timestep: PrefixTimestep,
        text: TextKeys,
        *,
        branch: str,
        layers: Sequence[int],
    ) -> Observed:
        """As `engine.denoise.states.Observable`."""
        _check_branch(latents, text, branch)
        rows = self.wan.time_rows(timestep.value, has_prefix=timestep.prefix_frames > 0)
        split, quantized, at = timestep.prefix_tokens, self._quantized(timestep), tuple(layers)

        def forward(latents: Tensor, rows: TimeRows, text: TextKeys, _: PrefixKeys) -> Predicted:
            return self.wan.keeping(latents, rows, text, split=split, quantized=quantized, layers=at)

        return self._run(forward, latents, rows, text, PrefixKeys(pairs=()), key=(split, quantized, at))

    def keeping(
        self,
        latents: Tensor,
        timestep: PrefixTimestep,
        text: TextKeys,
        *,
        branch: str,
        layers: Sequence[int] = (),
    ) -> Predicted:
        """The same with all that is known, the prefix as `behind` reads it too. No graph is replayed."""
        _check_branch(latents, text, branch)
        split = timestep.prefix_tokens
        rows = self.wan.time_rows(timestep.value, has_prefix=True)
        return self.wan.keeping(
            latents, rows, text,
            split=split, quantized=self._quantized(timestep), keep=split, layers=layers,
        )  # fmt: skip

    def behind(
        self,
        latents: Tensor,
        timestep: PrefixTimestep,
        text: TextKeys,
        prefix: PrefixKeys,
        *,
        branch: str,
        layers: Sequence[int] = (),
    ) -> Observed:
        """The velocity behind the prefix, 0 on it, from what was kept of the prefix, and states as above."""
        _check_branch(latents, text, branch)
        rows = self.wan.time_rows(timestep.value, has_prefix=False)
        frames, quantized, at = timestep.prefix_frames, self._quantized(timestep), tuple(layers)

        def forward(latents: Tensor, rows: TimeRows, text: TextKeys, prefix: PrefixKeys) -> Predicted:
            return self.wan.behind(
                latents, rows, text, prefix, prefix_frames=frames, quantized=quantized, layers=at
            )

        return self._run(forward, latents, rows, text, prefix, key=("behind", frames, quantized, at))

    def _quantized(self, timestep: PrefixTimestep) -> tuple[bool, ...]:
        return quantized_blocks(self._quantized_ranges, timestep.value)

    def _run(
        self,
        forward: Callable[[Tensor, TimeRows, TextKeys, PrefixKeys], Predicted],
        latents: Tensor,
        rows: TimeRows,
        text: TextKeys,
        prefix: PrefixKeys,
        *,
        key: Hashable,
    ) -> Observed:
        """Called, or replayed from the graph of these shapes and of `key`."""
        if self._graphs is None:
            made = forward(latents, rows, text, prefix)
            return made.velocity, made.states
        flat = [tensor for pair in (*text.pairs, *prefix.pairs) for tensor in pair]
        num_text = 2 * len(text.pairs)
        key = (key, tuple(latents.shape), tuple(flat[0].shape))

        def of_tensors(latents: Tensor, block: Tensor, out: Tensor, *keys: Tensor) -> tuple[Tensor, ...]:
            of_text, of_prefix = keys[:num_text], keys[num_text:]
            made = forward(
                latents,
                TimeRows(block=block, out=out),
                TextKeys(pairs=tuple(zip(of_text[::2], of_text[1::2], strict=True))),
                PrefixKeys(pairs=tuple(zip(of_prefix[::2], of_prefix[1::2], strict=True))),
            )
            return made.velocity, *made.states

        if key not in self._graphs:
            self._graphs[key] = GraphedForward(of_tensors, num_changing=3, pool=self._pool)
        velocity, *states = self._graphs[key](latents, rows.block, rows.out, *flat)
        return velocity, tuple(states)


def _check_branch(latents: Tensor, text: TextKeys, branch: str) -> None:
    rows = len(latents) * (2 if branch == BOTH else 1)
    assert branch in (COND, UNCOND, BOTH) and text.batch == rows, f"{branch}: {text.batch} rows, not {rows}"
