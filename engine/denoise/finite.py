"""Whether a take is made of numbers: noted on the device at every step, read once when the take is done.

Not-a-number becomes a black picture when it is rounded to 8 bits, and nothing after that can tell. Knows no
family. Invariant: noting never waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engine.errors import NotFinite


class FiniteWatch:
    """The values of one job, in the order in which they were made. Belongs to that job."""

    def __init__(self) -> None:
        self._noted: list[tuple[str, Tensor]] = []  # bool [], on its way to the host

    def note(self, where: str, values: Tensor) -> None:
        is_finite = torch.isfinite(values).all()
        self._noted.append((where, is_finite.to("cpu", non_blocking=True)))  # torch pins the copy

    def require(self, parts: Mapping[str, nn.Module], dtype: torch.dtype) -> None:
        """Raises NotFinite with the first place and the likely cause. The last fence must be over."""
        if not self._noted:
            return
        are_finite = torch.stack([flag for _, flag in self._noted]).tolist()
        if not all(are_finite):
            where = self._noted[are_finite.index(False)][0]
            cause, fix = likely_cause(parts, dtype)
            raise NotFinite(f"{where}: values that are not finite (NaN or infinite); {cause}", fix=fix)


def likely_cause(parts: Mapping[str, nn.Module], dtype: torch.dtype) -> tuple[str, str]:
    """(cause, fix): a weight that is no number, by name, or else what the number format cannot hold."""
    for part, module in parts.items():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_meta or not tensor.is_floating_point():
                continue
            count = int((~torch.isfinite(tensor.detach().float())).sum())
            if count:
                return (
                    f"{part}.{name} holds {count} of {tensor.numel()} values that are no numbers",
                    f"copy or download the weights of {part} again",
                )
    if dtype == torch.float16:
        return "all weights are finite, so fp16 has probably overflowed (above 65504)", "use --dtype bf16"
    return (
        "all weights are finite",
        "try --preset exact, then --dtype fp32: what helps tells which part of the forward overflowed",
    )
