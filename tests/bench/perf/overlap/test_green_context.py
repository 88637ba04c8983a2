"""A stream of a green context: the driver's calls in their order, its refusals, that it is missing here."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from bench.perf.overlap import green_context
from engine.errors import ConfigError


class Driver:
    """Splits 132 multiprocessors in eights, as compute capability 9.0 does; notes what was called."""

    def __init__(self, refuses: str = "") -> None:
        self.calls: list[str] = []
        self.refuses = refuses
        self.priority = 0

    def __getattr__(self, name: str) -> Any:
        if name not in ("cuDeviceGet", *green_context._NEEDED):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name == "cuDevSmResourceSplitByCount":
                _, _, _, left, _, wanted = arguments
                taken = -(-wanted // 8) * 8
                ctypes.c_uint.from_buffer(left, green_context._COUNT_OFFSET).value = 132 - taken
            if name == "cuGreenCtxStreamCreate":
                arguments[0]._obj.value = 4711
                self.priority = arguments[3]
            return 801 if name == self.refuses else 0

        return call


@pytest.mark.parametrize(("num_sms", "count"), [(16, 116), (20, 108)])
def test_the_stream_has_what_the_split_leaves(num_sms: int, count: int) -> None:
    driver = Driver()
    assert green_context._make(driver, 0, num_sms, -1) == (4711, count)
    assert driver.calls == ["cuDeviceGet", *green_context._NEEDED] and driver.priority == -1


def test_a_refusal_names_the_call() -> None:
    with pytest.raises(ConfigError, match="cuGreenCtxCreate says 801"):
        green_context._make(Driver("cuGreenCtxCreate"), 0, 16, 0)


def test_it_is_missing_without_a_driver_or_in_an_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Any:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(green_context, "_driver", none)
    assert green_context.missing() == "there is no NVIDIA driver"
    monkeypatch.setattr(green_context, "_driver", object)
    assert green_context.missing() == f"the driver lacks {green_context._NEEDED[0]}"
    monkeypatch.setattr(green_context, "_driver", Driver)
    assert green_context.missing() is None
