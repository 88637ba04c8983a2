"""Of `pytest bench/perf` (make bench): the machine in the header and in the JSON, memory given back after
each, and a size that does not fit the card is a skip that says so."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.perf.benchmark_tools import DEVICE, HAS_GPU, TARGET, line_of
from engine.runs.manifest import code_state
from kernels import timing

DEVICE_LINE = "device_line"
ROOT = Path(__file__).resolve().parents[2]


def pytest_report_header() -> str:
    if HAS_GPU:
        return f"device: {torch.cuda.get_device_name(DEVICE)} ({TARGET}), full sizes"
    return "device: cpu. No NVIDIA GPU: tiny sizes only, their times say nothing about a GPU"


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info |= {"retake": timing.machine(), "code": code_state(ROOT)}
    machine_info.pop("node", None)  # a host's name is nobody's business in a published file


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    try:
        result = yield
    except torch.OutOfMemoryError as error:
        pytest.skip(f"does not fit this card: {str(error).partition(chr(10))[0]}")
    benchmark = getattr(item, "funcargs", {}).get("benchmark")
    if benchmark is not None and "device_ms" in benchmark.extra_info:
        item.user_properties.append((DEVICE_LINE, line_of(benchmark.extra_info)))
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """pytest-benchmark's table holds wall times; these are the device's."""
    terminalreporter.section(f"device times on {TARGET}")
    for report in terminalreporter.stats.get("passed", []):
        for name, text in report.user_properties:
            if name == DEVICE_LINE:
                terminalreporter.line(f"{report.nodeid.partition('::')[2]:70s} {text}")


@pytest.fixture(autouse=True)
def _without_gradients_and_with_free_memory() -> Iterator[None]:
    with torch.inference_mode():
        yield
    torch._dynamo.reset()
    gc.collect()
    if HAS_GPU:
        torch.cuda.empty_cache()
