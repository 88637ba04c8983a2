"""What both training scripts share: a learning-rate schedule over wall time, weight averages, curves.

Stages are bounded by seconds, not steps, so that one figure fits any GPU; the number of steps that came of it
is recorded in the curve.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Budget:
    """A stage of `seconds`: `fraction` runs from 0 to 1, `over` ends the loop. `start` resets the clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.began = time.perf_counter()

    def start(self) -> None:
        self.began = time.perf_counter()

    @property
    def fraction(self) -> float:
        return min((time.perf_counter() - self.began) / self.seconds, 1.0)

    @property
    def over(self) -> bool:
        return self.fraction >= 1.0


def set_learning_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, fraction: float) -> None:
    """Linear warm-up over 200 steps, then cosine over the budget down to 2 % of the peak."""
    warm = min((step + 1) / 200, 1.0)
    rate = peak * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fraction)))
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)  # a captured step reads it
        else:
            group["lr"] = rate


def make_optimizer(modules: Iterable[nn.Module], weight_decay: float = 0.01) -> torch.optim.AdamW:
    """AdamW with decay on matrices only; on a GPU fused and fit for a CUDA graph."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if not parameters[0].is_cuda:
        return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
    rate = torch.tensor(1e-3, device=parameters[0].device)
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True, capturable=True)


class Average:
    """Exponential moving average of a module's parameters, with a short memory at the start."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.count = module, decay, 0
        self.shadow = [p.detach().clone() for p in module.parameters()]

    @torch.no_grad()
    def update(self) -> None:
        self.count += 1
        decay = min(self.decay, self.count / (self.count + 10))
        torch._foreach_lerp_(self.shadow, list(self.module.parameters()), 1.0 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        for parameter, average in zip(self.module.parameters(), self.shadow, strict=True):
            parameter.copy_(average)


class Curve:
    """Losses kept on the device and read every `every` steps, so that logging does not stall the queue."""

    def __init__(self, name: str, every: int) -> None:
        self.name, self.every = name, every
        self.rows: list[dict[str, Any]] = []
        self._sums: dict[str, torch.Tensor] = {}
        self._began = time.perf_counter()

    def add(self, step: int, values: dict[str, torch.Tensor]) -> None:
        for key, value in values.items():
            self._sums[key] = (
                self._sums.get(key, torch.zeros((), device=value.device)) + value.detach().float()
            )
        if (step + 1) % self.every == 0:
            means = {key: float(total) / self.every for key, total in self._sums.items()}
            self.rows.append(
                {"step": step + 1, "seconds": round(time.perf_counter() - self._began, 1), **means}
            )
            self._sums = {}
            text = " ".join(f"{key} {value:.5f}" for key, value in means.items())
            print(f"{self.name} step {step + 1} {self.rows[-1]['seconds']:.0f} s {text}", flush=True)

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.json").write_text(json.dumps({"facts": facts, "curve": self.rows}, indent=1))
