"""Modules whose weights stay on the host and visit the device for the moment in which they are used.

For models that a budget does not hold: the device then keeps one block at a time, and a pass reads all of
them through the bus; or modules that are used one after the other share one place. Results are the same bits
as with resident weights. Knows no model. Invariant: between two calls of a streamed module nothing of it is
on the device.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def stream(modules: Iterable[nn.Module], device: torch.device) -> int:
    """Each module of the list visits `device` for its forward; returns how many. Their weights must be on the
    host now; for a GPU they are pinned, so that copies run beside the host."""
    count = 0
    for module in modules:
        visit = _Visit(module, device)
        module.register_forward_pre_hook(visit.enter)
        module.register_forward_hook(visit.leave, always_call=True)
        count += 1
    return count


def look_up_on_host(embedding: nn.Module, device: torch.device) -> None:
    """A table too large to visit: rows of tokens on the host are looked up there, and go to `device`."""

    def leave(module: nn.Module, args: object, rows: Tensor) -> Tensor:
        # from pageable memory the copy would wait for the stream
        return rows.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else rows.to(device)

    embedding.register_forward_hook(leave)


class TakingTurns:
    """Modules of the same tensors, of which one place on the device holds one at a time.

    All have a home on the host, pinned for a GPU; whoever comes is copied over the one before, so that
    addresses stay, and with them what was compiled or captured over them.
    """

    def __init__(self) -> None:
        self._homes: list[dict[str, Tensor]] = []
        self._place: dict[str, Tensor] = {}
        self._current: int | None = None

    def add(self, module: nn.Module | None) -> int:
        """Copies its tensors home; returns its number. The module added last is the place. ValueError where
        its tensors are not those of the ones before, which were never on the device together."""
        assert module is not None, "an exported form has no weights to move"
        tensors = _tensors(module)
        shapes = [
            {name: (tensor.shape, tensor.dtype) for name, tensor in of.items()}
            for of in (tensors, *self._homes[:1])
        ]
        if len(shapes) == 2 and shapes[0] != shapes[1]:
            differ = sorted(
                name for name in {*shapes[0], *shapes[1]} if shapes[0].get(name) != shapes[1].get(name)
            )
            raise ValueError(f"{len(differ)} tensors differ, among them {differ[0]}")
        # straight into pinned memory: by way of other memory the host would hold every expert twice
        homes = {
            name: torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda).copy_(tensor)
            for name, tensor in tensors.items()
        }
        self._homes.append(homes)
        self._place, self._current = tensors, len(self._homes) - 1
        return self._current

    def use(self, index: int) -> None:
        """Its values are in the place, for all that is enqueued from now on; never waits."""
        if index != self._current:
            for name, home in self._homes[index].items():
                self._place[name].copy_(home, non_blocking=True)
            self._current = index


def release(*modules: nn.Module | None) -> None:
    """Gives back the memory of their tensors, whoever still refers to the modules."""
    for module in modules:
        for tensor in () if module is None else (*module.parameters(), *module.buffers()):
            tensor.data = tensor.data.new_empty(0)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.data for name, t in (*module.named_parameters(), *module.named_buffers())}


class _Visit:
    """The hooks of one module, which may call itself again while it visits."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._device = device
        pin = device.type == "cuda"
        self._home = {
            name: tensor.data.pin_memory() if pin else tensor.data
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
        }
        self._depth = 0
        self._place(module, self._home)

    def enter(self, module: nn.Module, args: object) -> None:
        self._depth += 1
        if self._depth == 1:
            # in the order of the stream: what is freed afterwards is not used by anyone before it is over
            there = {name: home.to(self._device, non_blocking=True) for name, home in self._home.items()}
            self._place(module, there)

    def leave(self, module: nn.Module, args: object, result: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._place(module, self._home)

    @staticmethod
    def _place(module: nn.Module, tensors: dict[str, Tensor]) -> None:
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            tensor.data = tensors[name]
