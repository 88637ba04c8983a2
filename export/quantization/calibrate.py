"""Magnitudes of activations from real denoise trajectories, and the error that each layer then makes.

Takes an iterable of forward inputs, as a subject takes them; who makes the trajectories is not its business.
Invariant: everything is accumulated as it comes, so that no activation outlives its layer.
I input features . q, k, v as [B, A, N, D]
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.words import counted
from export.quantization.quantized import Columns, QuantizedLinear
from export.quantization.scales import Scales
from export.spec import ExportError, Subject

Forward = tuple[Tensor, ...]
"""Inputs of one call of a subject's module, in the order of its spec."""

OUTPUT = "output"
"""The row of the error table for the module as a whole; there errors of layers add up."""


def observe(subject: Subject, forwards: Iterable[Forward], *, producer: str = "retake") -> Scales:
    """The largest magnitudes over all forwards: per input feature of each group, and of q, k, v.

    The subject must not be quantized. ExportError when there are no forwards or a value is not finite.
    """
    inputs: dict[str, Tensor] = {}
    attention: dict[str, Tensor] = {}

    def see_input(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            amax = args[0].detach().abs().flatten(0, -2).amax(dim=0).float().cpu()  # [I]
            inputs[name] = torch.maximum(inputs[name], amax) if name in inputs else amax

        return hook

    def see_attention(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            amax = torch.stack([tensor.detach().abs().amax().float() for tensor in args[:3]]).cpu()
            attention[name] = torch.maximum(attention[name], amax) if name in attention else amax

        return hook

    module = subject.module
    hooks = [(module.get_submodule(g.linears[0]), see_input(g.name)) for g in subject.groups]
    hooks += [(module.get_submodule(name), see_attention(name)) for name in subject.attentions]
    num_forwards = 0
    with _pre_hooks(hooks), torch.no_grad():
        for forward in forwards:
            module(*forward)
            num_forwards += 1
    if not num_forwards:
        raise ExportError("there are no forwards to calibrate with", fix="give the trajectory of one scene")
    for name, amax in (*inputs.items(), *attention.items()):
        if not bool(torch.isfinite(amax).all()):
            problem = f"the input of {name} is not finite in {counted(num_forwards, 'forward')}"
            raise ExportError(problem, fix="calibrate in fp32 or bf16, and check the checkpoint")
    return Scales(
        subject=subject.spec.subject,
        weights_digest=subject.spec.weights_digest,
        producer=producer,
        num_forwards=num_forwards,
        input_amax=inputs,
        attention_amax=attention,
    )


@dataclass(slots=True)
class Difference:
    """Sums from which relative error and cosine follow; adding forwards is adding sums."""

    difference: float = 0.0
    reference: float = 0.0
    other: float = 0.0
    product: float = 0.0

    def add(self, reference: Tensor, other: Tensor) -> None:
        a, b = reference.double().flatten(), other.double().flatten()
        self.difference += float((a - b).square().sum())
        self.reference += float(a.square().sum())
        self.other += float(b.square().sum())
        self.product += float(torch.dot(a, b))

    @property
    def relative(self) -> float:
        """norm(difference) / norm(reference)"""
        return float((self.difference / max(self.reference, 1e-300)) ** 0.5)

    @property
    def cosine(self) -> float:
        return float(self.product / max((self.reference * self.other) ** 0.5, 1e-300))


@dataclass(slots=True)
class ErrorTable:
    """Errors by layer and timestep. A layer's own error: its input is that of the unquantized module."""

    recipe: str
    cells: dict[tuple[str, float], Difference] = field(default_factory=dict)

    @property
    def layers(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.cells))

    @property
    def timesteps(self) -> list[float]:
        """From noise to clean."""
        return sorted({timestep for _, timestep in self.cells}, reverse=True)

    def record(self) -> dict[str, Any]:
        """As JSON values: one list per layer, in the order of `timesteps`."""
        return {
            "recipe": self.recipe,
            "timesteps": self.timesteps,
            "layers": [
                {
                    "name": name,
                    "relative": [self.cells[name, t].relative for t in self.timesteps],
                    "cosine": [self.cells[name, t].cosine for t in self.timesteps],
                }
                for name in self.layers
            ],
        }

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.record(), indent=1), encoding="utf-8")

    def add(self, name: str, timestep: float, reference: Tensor, other: Tensor) -> None:
        self.cells.setdefault((name, timestep), Difference()).add(reference, other)


def errors(reference: Subject, quantized: Subject, recipe: str, forwards: Iterable[Forward]) -> ErrorTable:
    """What quantization does to each linear and attention, and to the whole, at every timestep.

    Both subjects are of one checkpoint; `quantized` went through `quantize`. The layers are given the inputs
    of the reference, so that a bad layer shows where it is and not in all that follow.
    """
    assert reference.spec.weights_digest == quantized.spec.weights_digest, "subjects of two checkpoints"
    table = ErrorTable(recipe)
    now = [0.0]
    hooks: list[tuple[nn.Module, Callable[..., None]]] = []
    for name, twin in _twins(quantized).items():
        hooks.append((reference.module.get_submodule(name), _comparing(table, now, name, twin)))
    with _hooks(hooks), torch.no_grad():
        for index, forward in enumerate(forwards):
            now[0] = _label(reference, forward, index)
            exact = _first(reference.module(*forward))
            table.add(OUTPUT, now[0], exact, _first(quantized.module(*forward)))
    if not table.cells:
        raise ExportError("there are no forwards to compare on", fix="give the trajectory of one scene")
    return table


def plot(table: ErrorTable, path: Path) -> None:
    """The relative errors as a picture, layers down and timesteps across; .png or .svg."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    layers, timesteps = table.layers, table.timesteps
    values = [[max(table.cells[name, t].relative, 1e-6) for t in timesteps] for name in layers]
    figure = Figure(figsize=(4 + 0.35 * len(timesteps), 1.5 + 0.16 * len(layers)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(values, aspect="auto", norm=LogNorm(), cmap="viridis", interpolation="nearest")
    axes.set_yticks(range(len(layers)), [_short(name) for name in layers], fontsize=6)
    axes.set_xticks(range(len(timesteps)), [f"{t:.0f}" for t in timesteps], fontsize=6, rotation=90)
    axes.set_xlabel("timestep")
    axes.set_title(f"{table.recipe}: relative error of each layer's output", fontsize=9)
    figure.colorbar(image, ax=axes, label="norm(difference) / norm(exact)")
    figure.savefig(path, dpi=150)


def _twins(quantized: Subject) -> dict[str, Callable[..., Tensor]]:
    """Path in the reference -> what computes the same there in the quantized module."""
    twins: dict[str, Callable[..., Tensor]] = {}
    for group in quantized.groups:
        front = quantized.module.get_submodule(group.shared) if group.shared else nn.Identity()
        for name in group.linears:
            linear = quantized.module.get_submodule(name)
            if isinstance(linear, Columns):  # by its own name, and without computing all the others
                assert isinstance(front, QuantizedLinear)
                twins[name] = front.columns(linear.start, linear.stop)
            else:
                twins[name] = nn.Sequential(front, linear)
    for name in quantized.attentions:
        twins[name] = quantized.module.get_submodule(name)
    return twins


def _comparing(
    table: ErrorTable, now: list[float], name: str, twin: Callable[..., Tensor]
) -> Callable[[nn.Module, Any, Any], None]:
    dtype = _dtype_of(twin)

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        cast = [arg if arg is None else arg.to(dtype or arg.dtype) for arg in args]
        table.add(name, now[0], output, twin(*cast))

    return hook


def _dtype_of(module: Any) -> torch.dtype | None:
    for name, tensor in (*module.named_buffers(), *module.named_parameters()):
        if name.endswith(("scale", "weight")) and tensor.dtype in (
            torch.float32,
            torch.float16,
            torch.bfloat16,
        ):
            found: torch.dtype = tensor.dtype
            return found
    return None


def _label(subject: Subject, forward: Forward, index: int) -> float:
    """The timestep of a forward (that of its noisiest frame), else its number."""
    names = [tensor.name for tensor in subject.spec.inputs]
    return float(forward[names.index("timestep")].max()) if "timestep" in names else float(index)


def _first(output: Any) -> Tensor:
    tensor = output[0] if isinstance(output, tuple) else output
    assert isinstance(tensor, Tensor)
    return tensor


def _short(name: str) -> str:
    return name.removeprefix("transformer.").replace(".processor.core", "")


@contextmanager
def _pre_hooks(hooks: Iterable[tuple[nn.Module, Callable[..., None]]]) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _hooks(hooks: Iterable[tuple[nn.Module, Callable[..., None]]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def worst(table: ErrorTable, count: int = 5) -> Mapping[str, float]:
    """The layers with the largest relative error at any timestep."""
    peak = {
        name: max(table.cells[name, t].relative for t in table.timesteps)
        for name in table.layers
        if name != OUTPUT
    }
    return dict(sorted(peak.items(), key=lambda item: -item[1])[:count])
