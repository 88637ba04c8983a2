"""One update of weights, on a GPU as one CUDA graph.

Models this small are bound by launches: a step of the transformer took 66 ms where its kernels take 32, and
one of the autoencoder 149 where they take 82 (one H200, measured). So the whole step is captured, forward to
optimizer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from engine.demo.training.schedule import make_optimizer, set_learning_rate
from engine.machine.graphs import captured

Losses = Callable[..., dict[str, Tensor]]
"""Scalars of a batch by name; "loss" is minimised, the others are only told."""

MAX_GRADIENT_NORM = 1.0


class TrainingStep:
    """Calls `losses` on a batch and updates the `modules`; each batch has the shapes of the first.

    On a GPU in bf16 autocast. What it returns is written again by the next call. `optimizer`: of these
    modules, where another step of theirs, on batches of other shapes, has the same one.
    """

    def __init__(
        self,
        losses: Losses,
        modules: Sequence[nn.Module],
        *,
        device: str,
        weight_decay: float = 0.01,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self._losses, self._device = losses, device
        self._optimizer = optimizer or make_optimizer(modules, weight_decay)
        self._parameters = list(itertools.chain.from_iterable(module.parameters() for module in modules))
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: tuple[Tensor, ...] = ()
        self._values: dict[str, Tensor] = {}

    def set_rate(self, peak: float, step: int, fraction: float) -> None:
        set_learning_rate(self._optimizer, peak, step, fraction)

    def __call__(self, *batch: Tensor) -> dict[str, Tensor]:
        """Detached losses before the update. The first call on a GPU updates a few times, to warm up."""
        if self._device != "cuda":
            return self._update(*batch)
        if self._graph is None:
            self._batch = tuple(tensor.clone() for tensor in batch)
            self._graph, self._values = captured(lambda: self._update(*self._batch))
        for mine, given in zip(self._batch, batch, strict=True):
            assert mine.shape == given.shape and mine.dtype == given.dtype, (mine.shape, given.shape)
            mine.copy_(given)
        self._graph.replay()
        return self._values

    def _update(self, *batch: Tensor) -> dict[str, Tensor]:
        with torch.autocast(self._device, torch.bfloat16, enabled=self._device == "cuda"):
            values = self._losses(*batch)
        self._optimizer.zero_grad(set_to_none=True)
        values["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, MAX_GRADIENT_NORM)
        self._optimizer.step()
        return {name: value.detach() for name, value in values.items()}
