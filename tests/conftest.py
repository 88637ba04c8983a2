"""Tests marked `gpu` are skipped without an NVIDIA GPU; those that compare numbers are marked `numeric`."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NUMERIC = (
    "bench/quality",
    "bench/scoring",
    "engine/build",
    "engine/critics",
    "engine/demo/training",
    "engine/denoise",
    "engine/generators",
    "engine/machine",
    "engine/quant",
    "engine/selectors",
    "export",
    "kernels",
)
"""Folders whose tests compare what kernels of the CPU computed: they are marked `numeric`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "a checkout of the Physics-IQ repository, for the slow test of equality with it"
    parser.addoption("--official", metavar="DIR", help=help_text)
    parser.addoption("--official-python", metavar="PYTHON", default=sys.executable, help="runs that checkout")


def pytest_configure(config: pytest.Config) -> None:
    """Without a GPU, Triton's interpreter runs the kernels; it is chosen before Triton is imported.

    No example of hypothesis has a deadline: on a busy machine that would be a test of the machine. Terminals
    are wide where tests run: what is read of a message must not depend on how long the temporary folder's
    name is that it wraps behind. A test of wrapping sets its own width.
    """
    import hypothesis
    import torch

    hypothesis.settings.register_profile("retake", deadline=None)
    hypothesis.settings.load_profile("retake")

    only_watches = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if not only_watches:  # of xdist's workers: its own lines are the user's
        os.environ["COLUMNS"] = "400"
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays until the end: the collector need not walk it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else nanobind finds its objects alive at exit and says so


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(TESTS).as_posix().startswith(NUMERIC):
            item.add_marker(pytest.mark.numeric)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU; torch sees none"))
