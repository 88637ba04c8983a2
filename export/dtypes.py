"""torch's element types by the names that `export.spec` gives them."""

from __future__ import annotations

from typing import Final

import torch

from kernels.descriptors import torch_dtype

MODULE_DTYPES: Final = ("fp32", "fp16", "bf16")
"""Those that a module can be loaded in."""
TORCH_DTYPES: Final = {name: torch_dtype(name) for name in MODULE_DTYPES} | {"int64": torch.int64}
