"""A tiny generator's exported graph in a store, and another checkpoint of the same config; no test here."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file

from export import generator_inputs
from export import pipeline as job


def build_graph(generator: Path, out: Path, *, recipe: str = "fp16") -> Path:
    """An fp32 graph for the generator's own video, one row at a time: the folder of the artifact."""
    source, made = generator_inputs.outline(str(generator))
    request = job.Request(
        source=source,
        subject="wan_dit",
        target="onnx",
        recipe=recipe,
        profiles=generator_inputs.profiles_of(made, None, (1,)),
        out=out,
        dtype="fp32",
    )
    (artifact,) = job.run(request, None, lambda text, peak_bytes: None)
    return artifact.folder


def perturb(generator: Path) -> None:
    """Change one weight of the transformer in place."""
    (path,) = (generator / "transformer").glob("*.safetensors")
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + 0.01
    save_file(tensors, path, metadata={"format": "pt"})
