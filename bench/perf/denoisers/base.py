"""What a family of denoisers brings to the speed measurements; see wan.py and cosmos3.py.

Full-size architectures get random weights, made on the device. Speed and memory do not depend on the values,
quality does: nothing here may be read as a result of a published model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import attention_backend as active_backend
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.settings.presets import DenoiseSettings

Forward = Callable[[], Tensor]
Calls = Mapping[str, tuple[int, Callable[[], object]]]
"""Kernel -> (how often one forward calls it, one call alone)."""

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
"""torch's attention restricted to one of its own."""
LIBRARY_BACKENDS = ("native", "_native_cudnn", "_flash_3")
"""As diffusers names them; native leaves the choice to torch."""
ATTENTION_OPERATORS = "aten::_scaled_dot_product"
"""How the names of torch's begin, one for each of its ways."""


class Subject(Protocol):
    """An architecture at a video size. FLOP counts are of what a step needs, whoever runs it."""

    @property
    def name(self) -> str: ...

    @property
    def note(self) -> str:
        """What a reader of the comparison must know; empty: nothing."""
        ...

    @property
    def num_tokens(self) -> int: ...

    @property
    def flops(self) -> float: ...

    def build(self, device: torch.device) -> Any:
        """The library's transformer with random bf16 weights."""
        ...

    def stock(self, transformer: Any, backend: str, compiled: bool) -> Forward:
        """One forward of the library: attention flash, cudnn, fa3, or a name of LIBRARY_BACKENDS."""
        ...

    def ours(
        self, transformer: Any, settings: DenoiseSettings, cache: Path | None
    ) -> tuple[Forward, Mapping[str, str]]:
        """(one forward of our denoiser, what was chosen); may change modules of the transformer."""
        ...

    def kernels(self, settings: DenoiseSettings) -> Calls:
        """The kernels of one forward of ours, on the current CUDA device."""
        ...


def module_tree(transformer: nn.Module) -> Any:
    """A copy of the modules over the same parameters: processors, quantization and compilation differ."""
    shared = {id(tensor): tensor for tensor in (*transformer.parameters(), *transformer.buffers())}
    return copy.deepcopy(transformer, shared)


def random_weights(module_class: Any, config: Mapping[str, Any], device: torch.device) -> Any:
    """bf16, with the fp32 islands that the library keeps when it loads a checkpoint."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(device):
            model = module_class(**config)
    finally:
        torch.set_default_dtype(before)
    islands = set(model._keep_in_fp32_modules)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if islands.intersection(name.split(".")):
            tensor.data = tensor.data.float()
    return model.eval().requires_grad_(False)


def use_library_backend(module: Any, name: str) -> None:
    """What a user calls, without what it does beside: the choice would become that of every other module."""
    with active_backend(name):
        module.set_attention_backend(name)


def attention_operators(forward: Forward) -> dict[str, int]:
    """Which operators of torch's attention one forward called, and how often: what was chosen in the end.
    Empty where another library's kernel is called."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        forward()
    names = {event.key: event.count for event in profile.key_averages()}
    return {name: count for name, count in names.items() if name.startswith(ATTENTION_OPERATORS)}


@contextmanager
def attention_backend(name: str) -> Iterator[None]:
    """torch's attention restricted to one backend, where the name is that of one."""
    if name not in BACKENDS:
        yield
        return
    with sdpa_kernel(BACKENDS[name]):
        yield
