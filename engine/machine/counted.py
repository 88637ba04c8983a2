"""The peak memory of a piece of torch, counted on tensors of shapes only (device meta): nothing is computed.

Every operator's new storage is counted until the last tensor on it is dropped, as a caching allocator would
see it. Attention is taken not to hold its scores. Not counted: what a library allocates inside an operator
(workspaces of convolutions and GEMMs), and what a compiler fuses away. Knows no model.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that `work` holds at once of what it makes itself, in bytes; its inputs are not counted.

    `work` uses tensors on the device meta, made before: parameters, and `torch.empty(..., device="meta")`.
    """
    live = _Live()
    with torch.inference_mode(), _NoScores(), live:
        result = work()
    del result
    return live.peak_bytes


class _Live(TorchDispatchMode):
    """Bytes of the storages that operators made and that are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = 0
        self._bytes = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = {_storage(tensor)._cdata for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(result):
            storage = _storage(tensor)
            key, size = int(storage._cdata), int(storage.nbytes())
            if key not in self._known and key not in given:  # a view of an input is no memory of ours
                self._known[key] = size
                self._bytes += size
                weakref.finalize(storage, self._gone, key).atexit = False
        self.peak_bytes = max(self.peak_bytes, self._bytes)
        return result

    def _gone(self, key: int) -> None:
        self._bytes -= self._known.pop(key)


class _NoScores(TorchFunctionMode):
    """Attention as kernels do it that keep no scores; without a device torch would take the one that does."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            named = [kwargs[name] for name in ("query", "key", "value") if name in kwargs]
            query, _, value = (*args, *named)[:3]
            return query.new_empty((*query.shape[:-1], value.shape[-1]))
        return func(*args, **kwargs)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.device.type == "meta"]


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()
