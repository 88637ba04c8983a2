"""The package `comfy-kitchen` in tests: whether it runs here, and how it looks installed where it is not."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from attention_cases import HAS_GPU

from kernels.attention import _checks

NEEDS_COMFY = pytest.mark.skipif(
    not HAS_GPU or find_spec("comfy_kitchen") is None, reason="needs a GPU and the package comfy-kitchen"
)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checks, "find_spec", lambda name: object())
