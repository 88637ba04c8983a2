"""Tests marked `gpu` are skipped, with the reason, on a machine without an NVIDIA GPU."""

from __future__ import annotations

import os
import sys

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "a checkout of the Physics-IQ repository, for the slow test of equality with it"
    parser.addoption("--official", metavar="DIR", help=help_text)
    parser.addoption("--official-python", metavar="PYTHON", default=sys.executable, help="runs that checkout")


def pytest_configure() -> None:
    """Without a GPU, Triton's interpreter runs the kernels; it is chosen before Triton is imported.

    Workers get a COLUMNS of 80 from xdist, at which tables and messages wrap where one process does not.
    """
    import torch

    os.environ.pop("COLUMNS", None)
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU; torch sees none"))
