"""What bitsandbytes says of our package `kernels` is not shown by any program that imports the engine."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOGGER = "bitsandbytes.backends.cpu.ops"
MESSAGE = "Failed to load CPU gemm_4bit_forward from kernels-community: %s"
"""As bitsandbytes logs it, on CPUs with AVX512-BF16."""


def shown(cause: str, package: str) -> str:
    """What a process that imports `package` prints where bitsandbytes warns because of `cause`."""
    code = f"import logging, {package}\ntry:\n    {cause}\nexcept Exception as error:\n"
    code += f"    logging.getLogger({LOGGER!r}).warning({MESSAGE!r}, error)"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stderr


@pytest.mark.parametrize("package", ["engine", "export", "bench"])
def test_that_our_package_is_not_the_hubs_is_no_news(package: str) -> None:
    assert shown("from kernels import get_kernel", package) == ""


@pytest.mark.parametrize("cause", ["raise OSError('offline')", "from engine import get_kernel"])
def test_what_else_it_warns_of_is_shown(cause: str) -> None:
    assert "Failed to load CPU gemm_4bit_forward" in shown(cause, "bench")
