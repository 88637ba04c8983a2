"""Made-up measurement files for the tests of the results page; no test of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MANIFEST: dict[str, Any] = {
    "started": "2026-01-02T03:04:05+00:00",
    "argv": [],
    "code": {"commit": "0123456789abcdef", "dirty": False},
    "machine": {"gpus": [{"name": "NVIDIA X", "driver_version": "1.2", "compute_cap": "9.0"}], "cpu": "some"},
    "packages": {"torch": "2.13"},
    "timing": {"cudnn": "91900"},
}


def variant(name: str, ms: float, **more: Any) -> dict[str, Any]:
    """Five times around `ms`, whose median is `ms`, p10 0.994 and p90 1.006 times as much."""
    times = [ms * factor for factor in (0.99, 0.995 + 0.005, 1.0, 1.0, 1.01)]
    return {"name": name, "adds": f"adds {name}", "cumulative": True, "ms": times} | more


def denoiser(variants: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    if variants is None:
        variants = [
            variant("diffusers eager", 800.0),
            variant("diffusers compiled", 500.0),
            variant("ours bf16", 400.0),
            variant("ours fp8", 320.0),
            variant("ours graph", 328.0),
            variant("ours int8", 400.0, cumulative=False, against="ours bf16", note="No room left."),
            {"name": "other card", "cumulative": False, "reason": "compute capability 9.0 is not 12.0"},
        ]
    subject = {
        "name": "wan 480x832x81",
        "tokens": 32760,
        "tflop_per_forward": 200.0,
        "roofline_ms": {"bf16": 250.0, "fp8": 160.0},
        "variants": variants,
    }
    base = {"schema": 1, "kind": "denoiser", "command": "python -m x", "manifest": MANIFEST}
    return {**base, "subjects": [subject | more]}


def kernel_rows() -> list[dict[str, Any]]:
    return [
        variant("sdpa_flash", 8.0, problem="[1, 12, 32760, 128] bf16", tflops=357.0, relative_error=0.002),
        variant("sdpa_cudnn", 5.0, problem="[1, 12, 32760, 128] bf16", tflops=560.0),
        variant("triton_int8", 4.0, problem="[1, 12, 32760, 128] bf16", tflops=700.0, relative_error=0.013),
        variant("sdpa_flash", 0.5, problem="[1, 12, 8190, 128] bf16"),
        {"name": "fa3", "problem": "[1, 12, 8190, 128] bf16", "reason": "fa3_fwd is not installed"},
    ]


def put(folder: Path, name: str, document: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path
