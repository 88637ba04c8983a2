"""How ONNX Runtime is told to run a graph: the settings an artifact states, and the others there are.

Knows no subject. Invariant: a session has exactly the settings that it is given, and torch's threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from export.artifacts.device_identity import present_machine
from export.spec import ExportError, Recipe
from export.targets.onnx_graph import require

PROVIDER: Final = "CPUExecutionProvider"
LEVELS: Final = ("disable_all", "enable_basic", "enable_extended", "enable_layout", "enable_all")
"""Graph optimizations by their name in ONNX Runtime, without its ORT_; each does what those before it do."""
MATMUL_4BIT_ACCURACY: Final = "session.qdq_matmulnbits_accuracy_level"
"""In which type 4-bit products are summed: 4, the default, is int8; 0 the type of the activations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """level: one of LEVELS. config: entries of a session by their names in ONNX Runtime."""

    level: str
    config: Mapping[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        return {"level": self.level, "config": dict(self.config)}

    def __str__(self) -> str:
        return ", ".join([self.level, *(f"{name}={value}" for name, value in self.config.items())])


def options_of(recipe: Recipe) -> SessionOptions:
    """What a graph of the recipe is verified with and run with.

    No optimization: ONNX Runtime 1.32 computes garbage from FP8 graphs with two of them, and zeros from some
    4-bit ones with the extended level. The accuracy matters to those who raise the level.
    """
    config = {MATMUL_4BIT_ACCURACY: "0"} if recipe.linear == "int4" else {}
    return SessionOptions(level="disable_all", config=config)


def others(own: SessionOptions) -> tuple[SessionOptions, ...]:
    """Every other level, with the entries of `own`, and without them where it has some."""
    configs = [own.config, {}] if own.config else [{}]
    all_of_them = (SessionOptions(level=level, config=config) for config in configs for level in LEVELS)
    return tuple(options for options in all_of_them if options != own)


def options_from_record(record: Any) -> SessionOptions:
    """The inverse of `SessionOptions.record`; ExportError when it is none."""
    try:
        options = SessionOptions(**record)
        known = options.level in LEVELS and all(
            isinstance(part, str) for entry in options.config.items() for part in entry
        )
    except (TypeError, AttributeError) as error:
        raise ExportError(f"session options {record!r}: {error}", fix="export again") from error
    if not known:
        raise ExportError(f"session options {record!r}", fix=f"use a level of: {', '.join(LEVELS)}")
    return options


def open_session(model: Path, options: SessionOptions) -> Any:
    """A session on the CPU with torch's number of threads: else it takes every core, beside other lanes.

    ExportError when ONNX Runtime cannot open the graph, or knows no such option.
    """
    runtime = require("onnxruntime")
    settings = runtime.SessionOptions()
    settings.graph_optimization_level = getattr(
        runtime.GraphOptimizationLevel, f"ORT_{options.level.upper()}"
    )
    settings.log_severity_level = 3
    settings.intra_op_num_threads = torch.get_num_threads()
    for name, value in options.config.items():
        settings.add_session_config_entry(name, value)
    try:
        return runtime.InferenceSession(str(model), settings, providers=[PROVIDER])
    except _errors(runtime) as error:
        raise ExportError(
            f"onnxruntime {runtime.__version__} cannot open {model} with {options}: {str(error)[:500]}",
            fix="export again, or install the version of onnxruntime that it was verified with",
        ) from error


def place(options: SessionOptions) -> dict[str, str]:
    """Where a session of this process runs: runtime with version, provider, settings and processor."""
    return {
        "runtime": f"onnxruntime {require('onnxruntime').__version__}",
        "device": f"{PROVIDER}, {present_machine().cpu}",
        "options": str(options),
    }


def _errors(runtime: Any) -> tuple[type[Exception], ...]:
    """They share no base of their own."""
    kinds = vars(runtime.capi.onnxruntime_pybind11_state).values()
    return tuple(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception))
