"""What exporting and building full-size Wan transformers takes: time, memory, sizes, gates, layer tables.

Weights are random and scales made up, so nothing here speaks of quality: cost and fusion depend on shapes
alone. Each export runs in a fresh process, so that its peak memory is its own; the builder is one anyway.
What no machine here could hold is extrapolated from smaller models of the same width, as a row that says so.

    python -m bench.perf.export_build --work DIR --out bench/results/export_build.json [--only NAME ...]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor

from bench.console import FAILED
from bench.files import write_whole
from engine.errors import RetakeError
from engine.runs.manifest import collect
from export import pipeline
from export.artifacts.store import Artifact
from export.artifacts.weights import FolderWeights
from export.quantization.scales import Scales, write_scales
from export.spec import Profile, Subject, recipe_of
from export.trt.build_child import peak_rss_bytes

RTX: Final = "tensorrt-rtx"
SHAPE: Final = "480x832x81"
PROFILE: Final = Profile(name=SHAPE, sizes={"B": 1, "F": 21, "h": 60, "w": 104, "L": 512})
SHARD_BYTES: Final = 2**30
INPUT_AMAX, ATTENTION_AMAX = 8.0, 16.0
"""Made-up magnitudes; a graph has the same operators for any."""
NOTES: Final = (
    "Weights are random and scales made up: cost and fusion depend on shapes alone, and nothing is said of "
    "quality. No engine was executed: TensorRT for RTX runs on cards of 8.x and 12.x alone.",
    "Times are wall times of a machine that others used meanwhile; CPU seconds stand beside them. An export "
    "streams the weights into a graph that was made without them (--low-memory) unless a row says otherwise.",
    "Quantized linears are layers of the model; FP8 GEMMs are kernels of the engine: the graph has one "
    "product of linears that read one tensor.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A Wan transformer by its sizes; `of_layers` are those of the released one when fewer are built."""

    name: str
    num_layers: int
    num_heads: int
    ffn_dim: int
    of_layers: int
    head_dim: int = 128
    text_dim: int = 4096
    freq_dim: int = 256
    num_channels: int = 16

    def config(self) -> dict[str, Any]:
        return {
            "num_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "attention_head_dim": self.head_dim,
            "ffn_dim": self.ffn_dim,
            "text_dim": self.text_dim,
            "freq_dim": self.freq_dim,
            "in_channels": self.num_channels,
            "out_channels": self.num_channels,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One graph and its engines."""

    model: Model
    recipe: str
    capabilities: tuple[int, ...] = (89,)
    low_memory: bool = True

    @property
    def name(self) -> str:
        return f"{self.model.name}, {self.recipe}"


SMALL = Model(name="Wan2.1-1.3B", num_layers=30, num_heads=12, ffn_dim=8960, of_layers=30)
LARGE = Model(name="Wan2.1-14B", num_layers=40, num_heads=40, ffn_dim=13824, of_layers=40)


def cut(model: Model, num_layers: int) -> Model:
    """The first layers at full width."""
    return replace(
        model, name=f"{model.name}, {num_layers} of {model.of_layers} layers", num_layers=num_layers
    )


CASES = (
    Case(model=SMALL, recipe="fp8-attention", capabilities=(89, 120)),
    Case(model=SMALL, recipe="fp16", capabilities=(89,)),
    Case(model=cut(LARGE, 4), recipe="fp8-attention"),
    Case(model=cut(LARGE, 8), recipe="fp8-attention"),
)


def write_model(folder: Path, model: Model, *, seed: int = 0) -> int:
    """A transformer's folder of random bf16 weights in shards; returns the number of parameters.

    Never in memory as a whole. Names and shapes are the library's; nothing else of it is used.
    """
    with torch.device("meta"):
        outline = WanTransformer3DModel(**model.config())
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    outline.save_config(partial)
    source = torch.Generator().manual_seed(seed)
    shard: dict[str, Tensor] = {}
    places: dict[str, str] = {}
    num_shards = total = 0
    for name, like in outline.state_dict().items():
        shard[name] = torch.empty(like.shape, dtype=torch.bfloat16).uniform_(-0.03, 0.03, generator=source)
        places[name] = f"diffusion_pytorch_model-{num_shards:05d}.safetensors"
        total += like.numel()
        if sum(tensor.nbytes for tensor in shard.values()) >= SHARD_BYTES:
            save_file(shard, str(partial / places[name]))
            shard, num_shards = {}, num_shards + 1
    if shard:
        save_file(shard, str(partial / f"diffusion_pytorch_model-{num_shards:05d}.safetensors"))
    index = {"metadata": {"total_size": 2 * total}, "weight_map": places}
    path = partial / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps(index), encoding="utf-8")
    partial.rename(folder)
    return total


def write_made_up_scales(request: pipeline.Request) -> Path:
    """Magnitudes for every group and attention of the subject, under the digest of its weights."""
    subject = pipeline.subject_of(request, dtype=recipe_of(request.recipe).dtype, with_weights=False)
    path = request.out / "made-up-scales.safetensors"
    write_scales(path, made_up_scales(subject))
    return path


def made_up_scales(subject: Subject) -> Scales:
    """The same magnitude for every input of every group, and another for every q, k and v."""
    return Scales(
        subject=subject.spec.subject,
        weights_digest=subject.spec.weights_digest,
        producer="made up for random weights",
        num_forwards=0,
        input_amax={group.name: torch.full((group.in_features,), INPUT_AMAX) for group in subject.groups},
        attention_amax={name: torch.full((3,), ATTENTION_AMAX) for name in subject.attentions},
    )


def measure(case: Case, work: Path) -> list[dict[str, Any]]:
    """The rows of a case, one for each engine."""
    folder, out = work / "models" / _slug(case.model.name), work / "artifacts" / _slug(case.name)
    if not folder.is_dir():
        _say(f"writing random weights of {case.model.name}")
        write_model(folder, case.model)
    shutil.rmtree(out, ignore_errors=True)  # what is found there would cost nothing
    out.mkdir(parents=True)
    request = pipeline.Request(
        source=folder,
        subject="wan_dit",
        target=pipeline.ONNX,
        recipe=case.recipe,
        profiles=(PROFILE,),
        out=out,
        low_memory=case.low_memory,
    )
    scales = write_made_up_scales(request) if pipeline.needs_scales(request) else None
    graph = in_child(request, scales)
    _say(f"{case.name}: graph after {graph['wall_s']:.0f} s, {graph['peak_rss_bytes'] / 1e9:.2f} GB")
    rows = []
    for capability in case.capabilities:
        engine = _build(replace(request, target=RTX, capabilities=(capability,)), scales)
        rows.append(_row(case, capability, request, graph, engine))
        _say(f"{rows[-1]['name']}: {json.dumps(rows[-1]['summary'])}")
    return rows


def in_child(request: pipeline.Request, scales: Path | None) -> dict[str, Any]:
    """The graph's details, with time and peak memory of a process that made nothing else."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        try:
            return pool.submit(export_alone, request, scales).result()
        except BrokenProcessPool as error:
            raise RetakeError(
                f"the export of {request.source.name} was ended from outside ({error})",
                fix="free memory, or measure a smaller model",
            ) from error


def export_alone(request: pipeline.Request, scales: Path | None) -> dict[str, Any]:
    """Runs in the child: the ONNX step alone."""
    started = time.perf_counter()
    artifact = pipeline.run(request, scales, _progress)[-1]
    return {
        **artifact.details,
        "wall_s": time.perf_counter() - started,
        "cpu_s": time.process_time(),
        "peak_rss_bytes": peak_rss_bytes(),
    }


def _build(request: pipeline.Request, scales: Path | None) -> dict[str, Any]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    artifact: Artifact = pipeline.run(request, scales, _progress)[-1]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        **artifact.details,
        "wall_s": time.perf_counter() - started,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "checks": json.loads(artifact.file("gates.json").read_text(encoding="utf-8")),
    }


def _row(
    case: Case,
    capability: int,
    request: pipeline.Request,
    graph: Mapping[str, Any],
    engine: Mapping[str, Any],
) -> dict[str, Any]:
    subject = pipeline.subject_of(request, dtype=recipe_of(case.recipe).dtype, with_weights=False)
    summary = engine["summary"][0]
    quantized = recipe_of(case.recipe).linear != "none"
    return {
        "name": f"{case.name} for {capability / 10}",
        "measured": True,
        "model": case.model.name,
        "num_layers": case.model.num_layers,
        "of_layers": case.model.of_layers,
        "num_parameters": _num_parameters(request.source),
        "recipe": case.recipe,
        "capability": capability,
        "shape": SHAPE,
        "sizes": dict(PROFILE.sizes),
        "num_tokens": 21 * 30 * 52,
        "weights": "random",
        "scales": "made up" if quantized else None,
        "num_quantized_linears": sum(len(g.linears) for g in subject.groups) if quantized else 0,
        "num_fp8_products": summary["matrix_products"].get("gemm fp8", 0),
        "export": {
            "low_memory": case.low_memory,
            "stages_s": graph["seconds"],
            "num_nodes": graph["num_nodes"],
            "graph_bytes": sum(graph["bytes"].values()),
            **{key: graph[key] for key in ("wall_s", "cpu_s", "peak_rss_bytes")},
        },
        "build": {
            key: engine[key]
            for key in (
                "parse_s",
                "build_s",
                "wall_s",
                "cpu_s",
                "peak_rss_bytes",
                "network_layers",
                "plan_bytes",
                "weights_bytes",
                "activation_bytes",
            )
        },
        "gates": engine["checks"],
        "summary": summary,
    }


def extrapolate(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for every whole model of which two cuts were measured: a straight line through the two.

    Exact for what each layer adds equally (bytes of weights); an estimate for time and peak memory.
    """
    made = []
    groups: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["measured"] and row["num_layers"] < row["of_layers"]:
            family = row["model"].split(",")[0]
            groups.setdefault((family, row["recipe"], row["capability"]), []).append(row)
    for (family, recipe, capability), cuts in groups.items():
        if len({row["num_layers"] for row in cuts}) < 2:
            continue
        low, *_, high = sorted(cuts, key=lambda row: row["num_layers"])
        made.append(
            {
                "name": f"{family}, {recipe} for {capability / 10}",
                "measured": False,
                "model": family,
                "num_layers": high["of_layers"],
                "of_layers": high["of_layers"],
                "num_parameters": round(_line(low, high, "num_parameters")),
                "recipe": recipe,
                "capability": capability,
                "shape": high["shape"],
                "formula": FORMULA,
                "low": low["name"],
                "high": high["name"],
                "export": {key: _line(low, high, "export", key) for key in EXTRAPOLATED["export"]},
                "build": {key: _line(low, high, "build", key) for key in EXTRAPOLATED["build"]},
            }
        )
    return made


FORMULA: Final = "value(N) = high + (high - low) / (high.num_layers - low.num_layers) * (N - high.num_layers)"
EXTRAPOLATED: Final = {
    "export": ("cpu_s", "peak_rss_bytes", "graph_bytes"),
    "build": ("cpu_s", "peak_rss_bytes", "plan_bytes", "weights_bytes"),
}
"""Activation memory is left out: it is that of one layer, whatever their number. So are wall times: what else
the machine did differs from one cut to the next by more than the layers do."""


def _line(low: Mapping[str, Any], high: Mapping[str, Any], *path: str) -> float:
    """The value at the whole model's layers."""
    first, second = low, high
    for key in path:
        first, second = first[key], second[key]
    slope = (second - first) / (high["num_layers"] - low["num_layers"])  # type: ignore[operator]
    return float(second + slope * (high["of_layers"] - high["num_layers"]))  # type: ignore[operator]


def document(rows: Iterable[Mapping[str, Any]], argv: Sequence[str]) -> dict[str, Any]:
    """The result file: measured rows, then what follows from them."""
    measured = [row for row in rows if row["measured"]]
    manifest = collect({}, {}, seeds={"weights": 0}, argv=argv)
    return {
        "schema": 1,
        "kind": "export_build",
        "command": "python -m bench.perf.export_build --work DIR --out export_build.json",
        "manifest": {
            key: value for key, value in manifest.items() if key not in ("argv", "config", "models")
        },
        "cores": os.cpu_count(),
        "rows": [*measured, *extrapolate(measured)],
        "notes": list(NOTES),
    }


def _num_parameters(folder: Path) -> int:
    return sum(tensor.numel() for tensor in FolderWeights(folder).values())


def _progress(text: str, peak_bytes: int | None) -> None:
    if peak_bytes is None:
        _say(f"  {text}")


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _slug(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.perf.export_build", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="about 30 GB; kept")
    parser.add_argument("--out", type=Path, required=True, help="rows of other cases in it are kept")
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES], metavar="NAME")
    options = parser.parse_args(arguments)
    argv = ["--only", *options.only] if options.only else []
    rows: dict[str, Mapping[str, Any]] = {}
    if options.out.is_file():
        rows = {row["name"]: row for row in json.loads(options.out.read_text(encoding="utf-8"))["rows"]}
    for case in (case for case in CASES if not options.only or case.name in options.only):
        try:
            made = measure(case, options.work)
        except RetakeError as error:
            print(f"{case.name}: {error}", file=sys.stderr)
            return FAILED
        rows |= {row["name"]: row for row in made}
        text = json.dumps(document(rows.values(), argv), indent=1, allow_nan=False)
        write_whole(options.out, f"{text}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
