"""TensorRT engines: one gated plan for each compute capability, kept as an artifact, loaded as a denoiser.

Serves the targets `tensorrt` (10 and 11, on the GPU that runs it) and `tensorrt-rtx` (builds without a GPU).
Knows no subject: graph, spec and gate are given. Invariant: what is stored passed every gate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from engine.words import counted
from export.artifacts.device_identity import Machine, present_machine
from export.artifacts.store import Artifact, Key, Store, make_key, read_artifact, require_current
from export.model_inputs import ExportedDenoiser
from export.spec import ExportError, ExportSpec, Gate, Profile, recipe_of, spec_from_record
from export.trt import gates
from export.trt.builder import BuildOptions, Built, OnProgress, run_builder
from export.trt.engine import Engine
from export.trt.fusion_report import record, report
from export.trt.layer_table import LayerTable, parse, summary
from export.trt.library import MODULES, Library, check_capability, find

TARGETS: Final = tuple(MODULES)
MAX_PROFILES: Final = 3
"""Each static profile is optimized on its own: build time and plan grow, and a benchmark has few sizes."""

PLAN: Final = "engine.plan"
LAYERS: Final = "layers.json"
GATES: Final = "gates.json"
FUSIONS: Final = "fusions.json"

WEIGHT_SLACK: Final = 1.25
FIXED_BYTES: Final = 2**23
"""An engine's weights may exceed the graph's by a quarter and 8 MiB (packed layouts, folded constants); if
they were widened, say FP8 to FP16, they would double."""


def key_of(
    spec: ExportSpec,
    library: Library,
    *,
    recipe: str,
    capability: int | None,
    machine: Machine,
    scales: str | None,
    loras: tuple[tuple[str, float], ...],
    options: BuildOptions,
) -> Key:
    """The artifact's key: of stated capabilities where the library builds for them, else of this machine.

    Raises ExportError when the library cannot build for `capability`, or the recipe cannot run there.
    """
    if not 1 <= len(spec.profiles) <= MAX_PROFILES:
        raise ExportError(
            f"{counted(len(spec.profiles), 'profile')} in one engine",
            fix=f"give 1 to {MAX_PROFILES} shapes, or build again",
        )
    capability = _capability(library, capability, machine)
    check_capability(library, recipe_of(recipe), capability)
    return make_key(
        spec,
        recipe=recipe,
        scales=scales,
        target=library.target,
        library=library.version,
        capabilities=() if library.needs_gpu else (capability,),
        machine=machine if library.needs_gpu else None,
        loras=loras,
        options={**options.record(), **recipe_of(recipe).key_options},
    )


def build(
    onnx: Path,
    spec: ExportSpec,
    gate: Gate,
    store: Store,
    *,
    target: str,
    recipe: str,
    capability: int | None,
    scales: str | None,
    loras: tuple[tuple[str, float], ...] = (),
    options: BuildOptions | None = None,
    timing_cache: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Artifact:
    """The stored engine of the graph at `onnx`, built if it is not there; ExportError if a gate fails.

    capability: 89 for 8.9; None only for `tensorrt`, which builds for the GPU it finds. timing_cache: a file
    that full TensorRT reads and extends; RTX measures nothing and needs none. scales: digest of the scales.
    """
    library = find(target)
    options = options or BuildOptions()
    key = key_of(
        spec,
        library,
        recipe=recipe,
        capability=capability,
        machine=present_machine(),
        scales=scales,
        loras=loras,
        options=options,
    )
    graph_bytes = onnx_bytes(onnx)
    profiles = [{t.name: t.shape(profile.sizes) for t in spec.inputs} for profile in spec.profiles]

    def make(folder: Path) -> Mapping[str, Any]:
        built = run_builder(
            library,
            onnx,
            folder,
            compute_capability=key.capabilities[0] if key.capabilities else None,
            profiles=profiles,
            options=options,
            timing_cache=timing_cache if library.needs_gpu else None,
            on_progress=on_progress,
        )
        return {**_costs(built), "graph_bytes": graph_bytes, **_inspect(built, gate, library, graph_bytes)}

    return store.store(key, make, need_bytes=_most_weights(graph_bytes))


def build_all(
    onnx: Path,
    spec: ExportSpec,
    gates_by_capability: Mapping[int, Gate],
    store: Store,
    *,
    target: str,
    recipe: str,
    scales: str | None,
    loras: tuple[tuple[str, float], ...] = (),
    options: BuildOptions | None = None,
    timing_cache: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Sequence[Artifact]:
    """One plan for each capability: a common one for several loses fusions (merged QKV for 12.x)."""
    library = find(target)
    for capability in gates_by_capability:  # all are refused before the first minute is spent
        check_capability(library, recipe_of(recipe), capability)
    return [
        build(
            onnx,
            spec,
            gate,
            store,
            target=target,
            recipe=recipe,
            capability=capability,
            scales=scales,
            loras=loras,
            options=options,
            timing_cache=timing_cache,
            on_progress=on_progress,
        )
        for capability, gate in gates_by_capability.items()
    ]


def load(
    folder: Path,
    device: str = "cuda",
    *,
    weights: str | None = None,
    weight_streaming_bytes: int | None = None,
    caches: Path | None = None,
    cuda_graph: bool = False,
) -> ExportedDenoiser:
    """The engine of a Wan transformer in `folder` as a Denoiser; arguments and errors as `load_module`."""
    module = load_module(
        folder,
        device,
        weights=weights,
        weight_streaming_bytes=weight_streaming_bytes,
        caches=caches,
        cuda_graph=cuda_graph,
    )

    def run(profile: Profile, inputs: Mapping[str, Tensor]) -> Tensor:
        return module(inputs)["velocity"]

    return ExportedDenoiser(spec=module.spec, run=run)


def load_module(
    folder: Path,
    device: str = "cuda",
    *,
    weights: str | None = None,
    weight_streaming_bytes: int | None = None,
    caches: Path | None = None,
    cuda_graph: bool = False,
) -> Engine:
    """Any built subject, with the inputs and outputs of its spec.

    weights: digest of the checkpoint that is to run, if known. weight_streaming_bytes: weights that may lie
    on the GPU; None: all. caches: folder of RTX's compiled kernels. The authors could not execute an engine.
    ExportError names what differs if the engine is of another card, library or checkpoint.
    """
    artifact = read_artifact(folder)
    require_runnable(artifact, device, weights=weights)
    machine = present_machine(torch.device(device).index or 0)
    return Engine(
        artifact.file(PLAN),
        spec_from_record(artifact.key["spec"]),
        target=artifact.key["target"],
        device=torch.device(device),
        weight_streaming_bytes=weight_streaming_bytes,
        runtime_cache=None if caches is None else runtime_cache_path(caches, artifact, machine),
        cuda_graph=cuda_graph,
    )


def require_runnable(artifact: Artifact, device: str, *, weights: str | None = None) -> None:
    """ExportError unless `load_module` would take it: target, installed library, card, driver."""
    target = artifact.key["target"]
    if target not in TARGETS:
        problem = f"{artifact.folder} is a {target} artifact, not an engine"
        raise ExportError(problem, fix=f"use --denoiser {target}")
    wanted = torch.device(device)
    if wanted.type != "cuda":
        problem = f"{artifact.folder.name} runs on a GPU, not on {wanted.type}"
        raise ExportError(problem, fix="run with --device cuda")
    machine = present_machine(wanted.index or 0)
    require_current(artifact, library=find(target).version, machine=machine, weights=weights)


def runtime_cache_path(caches: Path, artifact: Artifact, machine: Machine) -> Path:
    """A file for each engine, GPU and driver: kernels that are compiled at first use belong to all three."""
    return _cache_path(caches, f"runtime-{artifact.digest[:16]}", machine)


def timing_cache_path(caches: Path, version: str, machine: Machine) -> Path:
    """A file for each library version, GPU and driver: times that one build measured serve the next."""
    return _cache_path(caches, f"timing-{version}", machine)


def _cache_path(caches: Path, name: str, machine: Machine) -> Path:
    caches.mkdir(parents=True, exist_ok=True)
    gpu = f"{machine.gpu}-{machine.driver}".replace(" ", "_").replace("/", "_")
    return caches / f"{name}-{gpu}.cache"


def onnx_bytes(onnx: Path) -> int:
    """Size of the graph and of the external data beside it; ExportError when there is no graph."""
    if not onnx.is_file():
        raise ExportError(f"{onnx} is no ONNX file", fix="export the subject with --target onnx first")
    data = onnx.with_name(onnx.name + ".data")
    return onnx.stat().st_size + (data.stat().st_size if data.is_file() else 0)


def _capability(library: Library, asked: int | None, machine: Machine) -> int:
    """What to build for; the library that needs a GPU builds for that one and nothing else."""
    present = machine.compute_capability
    if not library.needs_gpu:
        if asked is None:
            raise ExportError(
                f"{library.target} builds for stated compute capabilities and none is given",
                fix=f"give --cc with some of: {', '.join(map(str, library.capabilities))}",
            )
        return asked
    if present is None:
        raise ExportError(
            f"target {library.target} measures kernels on the GPU, and there is none here",
            fix="build on the machine that will run the engine, or use --target tensorrt-rtx --cc 89,120",
        )
    if asked not in (None, present):
        raise ExportError(
            f"target {library.target} builds for the GPU of this machine ({machine.gpu}, {present}), "
            f"not for {asked}",
            fix=f"leave --cc out or give {present}; build on the other card for the other card",
        )
    return present


def _inspect(built: Built, gate: Gate, library: Library, graph_bytes: int) -> dict[str, Any]:
    """Gate the engine and say what it is made of, in files beside its plan; ExportError when a gate fails."""
    folder = built.plan.parent
    with built.log.open(encoding="utf-8", errors="replace") as lines:
        table = parse(lines)
    checks = gates.check(table, gate, max_weights_bytes=_most_weights(graph_bytes))
    gates.require(checks, table)
    fusions = report(table)
    _write(folder / LAYERS, table.record())
    _write(folder / GATES, [asdict(one) for one in checks])
    _write(folder / FUSIONS, record(fusions, library.version))
    built.log.unlink()  # tens of megabytes, and all that is used of it is in the layer table
    first = [str(one) for one in fusions if one.profile == 0]
    return {**_memory(table), "gates": len(checks), "fusions": first}


def _most_weights(graph_bytes: int) -> int:
    return int(graph_bytes * WEIGHT_SLACK) + FIXED_BYTES


def _costs(built: Built) -> dict[str, Any]:
    return {
        "plan_bytes": built.plan_bytes,
        "plan_sha256": built.plan_sha256,
        "network_layers": built.num_network_layers,
        "parse_s": built.parse_s,
        "build_s": built.build_s,
        "peak_rss_bytes": built.peak_rss_bytes,
    }


def _memory(table: LayerTable) -> dict[str, Any]:
    return {
        "weights_bytes": table.weights_bytes,
        "activation_bytes": list(table.activation_bytes),
        "summary": [summary(table, index) for index in range(table.num_profiles)],
    }


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, allow_nan=False) + "\n", encoding="utf-8")
