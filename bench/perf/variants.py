"""What is compared: the library as a user has it today, then our parts, added one at a time.

Each variant builds its own module, since quantization and compilation change one in place. Knows no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from bench.perf.denoisers.base import Forward, Subject, module_tree
from engine.settings.presets import DenoiseSettings

FAST = DenoiseSettings(forward="fast")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A bar of the waterfall. `backend` names the attention of a stock variant, `settings` make ours."""

    name: str
    adds: str
    backend: str = ""  # flash | cudnn | fa3 | one of LIBRARY_BACKENDS
    compiled: bool = False
    settings: DenoiseSettings | None = None
    cumulative: bool = True  # on top of the bar before, in the waterfall
    against: str = ""  # of one that is not: the bar of which one part is exchanged

    @property
    def stock(self) -> bool:
        return self.settings is None


STOCK = (
    Variant(name="diffusers eager", adds="the library, flash attention of torch", backend="flash"),
    Variant(name="diffusers eager, cuDNN", adds="cuDNN attention", backend="cudnn"),
    Variant(name="diffusers compiled, cuDNN", adds="torch.compile", backend="cudnn", compiled=True),
    Variant(name="diffusers compiled, FA3", adds="FlashAttention-3 processor", backend="fa3", compiled=True),
)
LIBRARY = tuple(
    Variant(
        name=f"diffusers eager, backend {backend}",
        adds=f"the library's {backend} instead of torch's flash attention",
        backend=backend,
        cumulative=False,
        against=STOCK[0].name,
    )
    for backend in ("native", "_native_cudnn")
)
"""What a user gets who asks for nothing, and one who asks the library for cuDNN's: an eager figure that is
published may be of either."""
_LOW = replace(
    FAST,
    compile="on",
    linear="fp8",
    quantized_attention=("fa3_fp8",),
    quantized_first=0.0,
    quantized_last=0.0,
)
WHOLE = "ours FP8 linear, FP8 attention"
OURS = (
    Variant(
        name="ours bf16",
        adds="fast forward: shared QKV, fused kernels, text keys once",
        settings=replace(FAST, compile="on", attention=("fa3",)),
    ),
    Variant(
        name="ours FP8 linear",
        adds="FP8 GEMMs, quantized in the pass before",
        settings=replace(FAST, compile="on", attention=("fa3",), linear="fp8"),
    ),
    Variant(
        name=WHOLE,
        adds="FP8 attention, quantized in norm and rotary pass",
        settings=replace(_LOW, attention=("fa3",)),
    ),
    Variant(
        name="ours + CUDA graph",
        adds="one graph for the forward",
        settings=replace(_LOW, attention=("fa3",), graphs="on"),
    ),
)
ALONE = (
    Variant(
        name="compiler's fusion instead of our kernels",
        adds="the same 8-bit forward with plain torch between the GEMMs, fused by Inductor",
        settings=replace(_LOW, attention=("fa3",), element_wise="compiler"),
        cumulative=False,
        against=WHOLE,
    ),
    Variant(
        name="ours without torch.compile",
        adds="our kernels launched one by one",
        settings=replace(_LOW, attention=("fa3",), compile="off"),
        cumulative=False,
        against=WHOLE,
    ),
    Variant(
        name="ours INT8 linear",
        adds="INT8 GEMMs by our Triton kernel instead of FP8",
        settings=replace(_LOW, attention=("fa3",), linear="int8"),
        cumulative=False,
        against=WHOLE,
    ),
    Variant(
        name="ours cuDNN FP8 attention",
        adds="cuDNN's FP8 attention instead of FA3's",
        settings=replace(_LOW, attention=("fa3",), quantized_attention=("cudnn_fp8",)),
        cumulative=False,
        against=WHOLE,
    ),
    Variant(
        name="ours Triton INT8 attention",
        adds="our INT8 kernel instead of FA3's FP8",
        settings=replace(_LOW, attention=("fa3",), quantized_attention=("triton_int8",)),
        cumulative=False,
        against=WHOLE,
    ),
)
EVERYWHERE = (
    Variant(name="diffusers eager", adds="the library, torch's own choice of attention", backend="native"),
    Variant(
        name="ours bf16",
        adds="fast forward",
        settings=replace(FAST, compile="auto"),
    ),
    Variant(
        name="ours 8-bit linear",
        adds="8-bit GEMMs",
        settings=replace(FAST, compile="auto", linear="auto"),
    ),
    Variant(
        name="ours 8-bit linear and attention",
        adds="8-bit attention",
        settings=replace(
            FAST,
            compile="auto",
            linear="auto",
            quantized_attention=("auto",),
            quantized_first=0.0,
            quantized_last=0.0,
        ),
    ),
)
"""For any GPU, and a CPU: kernels by what the device supports."""


def build(
    variant: Variant, transformer: nn.Module, subject: Subject, cache: Path | None
) -> tuple[Forward, Mapping[str, str]]:
    """(one forward of `variant` on the subject's inputs, what was chosen). Weights are shared where equal."""
    if variant.settings is None:
        return subject.stock(transformer, variant.backend, variant.compiled), {}
    return subject.ours(module_tree(transformer), variant.settings, cache)
