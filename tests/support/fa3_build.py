"""The wheel `fa3_fwd` in tests: whether it is here, and a stand-in for its build flags where it is not."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch

from kernels.attention import _fa3

HAS_FA3 = (
    torch.cuda.is_available()
    and torch.cuda.get_device_capability()[0] == 9
    and find_spec("fa3_fwd_interface") is not None
)
NEEDS_FA3 = pytest.mark.skipif(not HAS_FA3, reason="needs compute capability 9.x and the package fa3_fwd")


@pytest.fixture
def build_flags(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bool]]:
    """The package looks installed, built with the flags that a test puts here."""
    flags: dict[str, bool] = {}
    config = types.ModuleType("fa3_fwd_config")
    config.CONFIG = {"build_flags": flags}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fa3_fwd_config", config)
    monkeypatch.setattr(_fa3, "find_spec", lambda name: object())
    monkeypatch.setattr("kernels.attention._checks.find_spec", lambda name: object())
    _fa3._build_flags.cache_clear()
    yield flags
    _fa3._build_flags.cache_clear()
