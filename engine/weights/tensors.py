"""The weights of an opened file as tensors of numbers: scaled, dequantized, in the type that is asked for.

Knows no model. A file is mapped, and one tensor at a time is read from it. Invariant: what is handed out is
what the writer meant, times its scale; a number that the asked type cannot hold is refused, never infinite.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import ModelError
from engine.weights import ggml_blocks
from engine.weights.contents import Contents
from engine.weights.ggml_types import BLOCKS
from engine.weights.header import GGUF, Stored

_GGUF_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Weights:
    """A context. `read` gives one weight by its name in `contents.weights`."""

    def __init__(self, contents: Contents, device: torch.device) -> None:
        self.contents, self.device = contents, device
        self._file: Any = None

    def __enter__(self) -> Self:
        header = self.contents.header
        if header.format == GGUF:
            self._file = np.memmap(header.path, np.uint8, mode="r")
            return self
        try:
            self._file = safe_open(header.path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"{header.path} cannot be read: {error}", fix="copy or download the file again"
            ) from error
        self._file.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.contents.header.format != GGUF:
            self._file.__exit__(kind, error, trace)
        self._file = None

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """On the device, contiguous. ModelError where it is beyond the range of `dtype`."""
        stored = self.contents.weights[name]
        scale = self.contents.scales.get(name)
        values = self._stored(self.contents.prefix + name, stored)
        if scale is not None:
            factor = self._file.get_tensor(scale).to(self.device).float()
            values = values.float() * factor.reshape(-1, *[1] * (values.dim() - 1))
        return self._narrowed(name, values, dtype)

    def _stored(self, name: str, stored: Stored) -> Tensor:
        if self.contents.header.format != GGUF:
            found: Tensor = self._file.get_tensor(name)
            return found.to(self.device)
        # a copy: the mapped file is read-only, which torch does not know
        part = self._file[stored.start : stored.start + stored.num_bytes]
        raw = torch.from_numpy(np.array(part)).to(self.device)
        if stored.type in _GGUF_PLAIN:
            return raw.view(_GGUF_PLAIN[stored.type]).reshape(stored.shape)
        blocks = raw.view(-1, BLOCKS[stored.type][1])
        return ggml_blocks.dequantize(blocks, stored.type).reshape(stored.shape)

    def _narrowed(self, name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
        given = values.to(dtype).contiguous()
        if not torch.isfinite(given).all():
            largest = float(values.float().abs().nan_to_num(torch.inf).max())
            raise ModelError(
                f"{self.contents.header.path}: {name} reaches {largest:g}, which is no number in "
                f"{str(dtype).removeprefix('torch.')}",
                fix="use dtype bf16 or fp32" if dtype == torch.float16 else "copy or download the file again",
            )
        return given
