"""A CUDA stream whose kernels run on some multiprocessors only: one of a green context, by the driver's API.

`torch.cuda.green_contexts` makes a context current and moves the thread to its default stream; lanes need a
stream that other streams can wait for, as this one is. What is captured into a CUDA graph keeps the
multiprocessors of the stream of its capture.

Source: CUDA Driver API, "Green Contexts" (12.4 and later).
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError

if TYPE_CHECKING:
    import torch

_SM_RESOURCE = 1  # CU_DEV_RESOURCE_TYPE_SM
_DEFAULT_STREAM, _NON_BLOCKING = 1, 1  # CU_GREEN_CTX_DEFAULT_STREAM, CU_STREAM_NON_BLOCKING
_RESOURCE_BYTES = 144  # CUdevResource: a kind and padding to 96, then what depends on the kind
_COUNT_OFFSET = 96  # its first field: the number of multiprocessors
_NEEDED = (
    "cuDeviceGetDevResource",
    "cuDevSmResourceSplitByCount",
    "cuDevResourceGenerateDesc",
    "cuGreenCtxCreate",
    "cuGreenCtxStreamCreate",
)


def missing() -> str | None:
    """Why there are no green contexts here; None: the driver has them."""
    try:
        driver = _driver()
    except OSError:
        return "there is no NVIDIA driver"
    absent = [name for name in _NEEDED if not hasattr(driver, name)]
    return f"the driver lacks {absent[0]}" if absent else None


@cache
def stream_without(device: torch.device, num_sms: int, priority: int) -> tuple[torch.cuda.Stream, int]:
    """A stream of `device` that leaves at least `num_sms` multiprocessors alone, and how many it has.

    Kept for the process, since the allocator's blocks belong to their stream. Raises ConfigError where the
    driver refuses.
    """
    import torch

    torch.cuda.current_stream(device).synchronize()  # the primary context is there
    pointer, count = _make(_driver(), device.index or 0, num_sms, priority)
    return torch.cuda.ExternalStream(pointer, device), count


def _make(driver: Any, ordinal: int, num_sms: int, priority: int) -> tuple[int, int]:
    """(the stream's handle, the number of its multiprocessors)."""
    whole, taken, left = (ctypes.create_string_buffer(_RESOURCE_BYTES) for _ in range(3))
    number, groups = ctypes.c_int(), ctypes.c_uint(1)
    description, context, stream = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    _call(driver, "cuDeviceGet", ctypes.byref(number), ordinal)
    _call(driver, "cuDeviceGetDevResource", number, whole, _SM_RESOURCE)
    _call(driver, "cuDevSmResourceSplitByCount", taken, ctypes.byref(groups), whole, left, 0, num_sms)
    _call(driver, "cuDevResourceGenerateDesc", ctypes.byref(description), left, 1)
    _call(driver, "cuGreenCtxCreate", ctypes.byref(context), description, number, _DEFAULT_STREAM)
    _call(driver, "cuGreenCtxStreamCreate", ctypes.byref(stream), context, _NON_BLOCKING, priority)
    assert stream.value is not None, "the driver made no stream"
    return stream.value, ctypes.c_uint.from_buffer(left, _COUNT_OFFSET).value


@cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def _call(driver: Any, name: str, *arguments: object) -> None:
    status = getattr(driver, name)(*arguments)
    if status != 0:
        raise ConfigError(f"{name} says {status}", fix="leave green contexts out, or update the driver")
