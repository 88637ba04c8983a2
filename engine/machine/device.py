"""Which device and which number format a run uses on this machine; CPU threads.

Decides once, before anything is loaded, and knows no model. torch is imported when asked.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from engine.errors import ConfigError

if TYPE_CHECKING:
    import torch


def resolve_device(wanted: str) -> str:
    """ "cuda" or "cpu"; "auto" is CUDA where there is a GPU. ConfigError: cuda wanted, none there."""
    import torch

    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise ConfigError(
            "device is 'cuda', but torch sees no CUDA GPU here",
            fix="use --device cpu or auto, or run `retake doctor` to see what is missing",
        )
    if wanted == "auto":
        return "cuda" if available else "cpu"
    return wanted


def open_ahead(device: str) -> threading.Thread:
    """Have the driver make the context of a GPU on a thread, which takes up to a second, while the caller
    imports. What fails there fails again, and is told, where the device is used first."""
    import torch

    def work() -> None:
        with suppress(RuntimeError):
            torch.empty(1, device=device)

    thread = threading.Thread(target=work, name="retake-device")
    thread.start()
    return thread


def resolve_dtype(wanted: str, device: str) -> str:
    """ "fp32", "bf16" or "fp16". "auto": bf16 where the hardware multiplies it natively, else fp32."""
    if wanted == "fp16" and device == "cpu":
        raise ConfigError(
            "dtype is 'fp16', which CPUs only emulate", fix="use --dtype auto, fp32 or bf16 on the CPU"
        )
    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "bf16"
    return "bf16" if cpu_multiplies_bf16() else "fp32"


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has bf16 dot products (AVX512_BF16) or tiles (AMX), per torch's own detection.

    Without them torch converts to fp32 and back, which is slower than fp32 throughout.
    """
    import torch

    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def use_threads(num_threads: int) -> None:
    """Give torch's CPU kernels `num_threads`; the lanes share them, as they share a GPU."""
    import torch

    torch.set_num_threads(num_threads)


def to_device(host: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on the device, without waiting for it; one that is there already as it is."""
    if host.device.type == device.type:
        return host
    # From pageable memory the copy would wait for the stream; pinned memory is kept until the copy is done.
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


def release_memory() -> None:
    """Give what torch's allocator keeps of the GPU back to it, for whoever finds no memory."""
    import gc

    import torch

    gc.collect()  # a caught error holds frames, and these hold tensors
    torch.cuda.empty_cache()
