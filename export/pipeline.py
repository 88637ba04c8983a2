"""One export from a model folder to stored artifacts: which steps there are, and their execution in order.

Knows no generator and no command: who records trajectories passes scales. Invariant: everything that can be
refused without reading a weight is refused by `check`, before the first minute is spent.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from engine.denoise.lora import Lora, lora_key, merge_into
from engine.denoise.lora_grid import grid_of
from engine.errors import nearest
from engine.generators.cosmos3 import lora_names as cosmos3_names
from engine.generators.wan import lora_names as wan_names
from export.artifacts.device_identity import present_machine
from export.artifacts.store import Artifact, Key, Store, make_key, text_digest
from export.artifacts.weights import FolderWeights, folder_digest
from export.dtypes import MODULE_DTYPES
from export.form_fit import require_form
from export.forms import PLAIN, Form
from export.quantization.quantize import with_spec_digest
from export.quantization.scales import Scales, read_scales, write_scales
from export.spec import ExportError, ExportSpec, Profile, Subject, recipe_of
from export.subjects import cosmos3, text_encoder, vae_decoder, wan_dit, wan_forms
from export.subjects._loading import component_folder
from export.targets import aoti, onnx, tensorrt
from export.targets.onnx_graph import require
from export.trt.builder import BuildOptions
from export.trt.library import check_capability, find
from export.verify import whole
from kernels.files import file_digest

ONNX: Final = "onnx"
TARGETS: Final = (ONNX, *tensorrt.TARGETS, aoti.TARGET)
COMPONENTS: Final = {
    wan_dit.SUBJECT: "transformer",
    cosmos3.SUBJECT: "transformer",
    vae_decoder.SUBJECT: "vae",
    text_encoder.SUBJECT: "text_encoder",
}
"""Subject -> the folder of a pipeline that holds its weights."""
SIZES: Final = {
    wan_dit.SUBJECT: ("B", "F", "h", "w", "L"),
    cosmos3.SUBJECT: ("B", "F", "h", "w", "S", "L"),
    vae_decoder.SUBJECT: ("B", "F", "h", "w"),
    text_encoder.SUBJECT: ("B", "L"),
}
"""Subject -> the sizes of a video that its profiles are made of."""
ALIASES: Final[Mapping[str, Callable[[Any], Mapping[str, str]]]] = {
    wan_dit.SUBJECT: wan_names.lora_aliases,
    cosmos3.SUBJECT: cosmos3_names.lora_aliases,
}
"""Subject that LoRAs change -> the names of other tools for its parts."""

Built = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]

OnProgress = Callable[[str, int | None], None]
"""(what is being done, largest resident memory so far in bytes where known)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to export. `source`: a pipeline's folder. `capabilities`: 89 is 8.9; empty: none is stated.

    A profile may have more sizes than the subject takes: one serves the transformer and what is around it.
    """

    source: Path
    subject: str
    target: str
    recipe: str
    profiles: tuple[Profile, ...]
    out: Path
    capabilities: tuple[int, ...] = ()
    loras: tuple[Lora, ...] = ()
    options: BuildOptions = field(default_factory=BuildOptions)
    device: str = "cpu"
    low_memory: bool = False
    """Stream weights from disk into the graph instead of loading the module first; not with LoRAs."""
    dtype: str | None = None
    """Of what is not quantized, for graphs alone; None: the recipe's. ONNX Runtime on a CPU is twice as fast
    in fp32 as in fp16, which it converts back and forth."""
    form: Form = PLAIN
    """Of a Wan transformer; any other than the plain one for packages alone."""

    @property
    def component(self) -> str:
        return COMPONENTS[self.subject]

    @property
    def element_type(self) -> str:
        return self.dtype or recipe_of(self.recipe).dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One artifact of a request. `folder` None: its name needs the scales, which are part of its key."""

    name: str
    folder: Path | None
    present: bool
    """Stored already, so it costs nothing."""
    need_bytes: int


def check(request: Request) -> None:
    """ExportError for whatever is wrong with the request; reads no weight."""
    for what, value, allowed in (
        ("target", request.target, TARGETS),
        ("subject", request.subject, tuple(COMPONENTS)),
    ):
        if value not in allowed:
            raise ExportError(
                f"{value!r} is not a {what}{nearest(value, allowed)}", fix=f"use one of: {', '.join(allowed)}"
            )
    recipe = recipe_of(request.recipe)
    _check_dtype(request)
    require_form(request.form, request.subject, request.target)
    if request.loras and request.subject not in ALIASES:
        raise ExportError(f"LoRAs change no {request.subject}", fix=f"give them with {' or '.join(ALIASES)}")
    if request.loras and request.low_memory:
        raise ExportError("merging LoRAs needs the weights in memory", fix="leave out --low-memory or --lora")
    if grid_of(request.loras) is not None:
        raise ExportError(
            "a LoRA of step distillation brings steps, which an artifact does not keep",
            fix="put its timesteps and guidance_scale into retake.json of the model, and {} beside the LoRA",
        )
    if request.target in tensorrt.TARGETS:
        library = find(request.target)
        if not library.needs_gpu and not request.capabilities:
            raise ExportError(
                f"target {request.target} builds for stated compute capabilities and none is given",
                fix=f"give --cc with some of: {', '.join(map(str, library.capabilities))}",
            )
        for capability in request.capabilities:
            check_capability(library, recipe, capability)
    elif request.capabilities:
        raise ExportError(
            f"target {request.target} takes no compute capability", fix="leave --cc out, or use tensorrt-rtx"
        )
    if request.target != aoti.TARGET:
        require("onnx")
        require("onnxscript")


def _check_dtype(request: Request) -> None:
    if request.dtype is None:
        return
    if request.dtype not in MODULE_DTYPES:
        raise ExportError(
            f"{request.dtype!r} is not a dtype{nearest(request.dtype, MODULE_DTYPES)}",
            fix=f"use one of: {', '.join(MODULE_DTYPES)}",
        )
    if request.target != ONNX:
        raise ExportError(
            f"target {request.target} takes the dtype of the recipe", fix=f"leave --dtype out, or use {ONNX}"
        )


def needs_scales(request: Request) -> bool:
    """Whether activations have to be seen first: by the recipes that quantize them with fixed scales."""
    recipe = recipe_of(request.recipe)
    return request.target != aoti.TARGET and (
        recipe.fp8_attention or recipe.linear in ("fp8", "int8", "nvfp4")
    )


def digest_of(request: Request) -> str:
    """Of the checkpoint with the LoRAs of the request: independent of the dtype it is loaded in."""
    base = folder_digest(component_folder(request.source, request.component))
    if not request.loras:
        return base
    parts = "+".join(f"{digest}*{strength}" for digest, strength in lora_key(request.loras))
    return f"{base}+{parts}"


def subject_of(request: Request, *, dtype: str, with_weights: bool = True) -> Subject:
    """The subject of the request with its LoRAs merged, under the digest of both."""
    source = request.source
    profiles = [
        Profile(name=given.name, sizes={dim: given.sizes[dim] for dim in SIZES[request.subject]})
        for given in request.profiles
    ]
    if request.subject == vae_decoder.SUBJECT:
        return vae_decoder.prepare(source, profiles=profiles, dtype=dtype)
    if request.subject == text_encoder.SUBJECT:
        return text_encoder.prepare(source, profiles=profiles, dtype=dtype)
    options: dict[str, Any] = {"profiles": profiles, "dtype": dtype, "with_weights": with_weights}
    if request.subject == cosmos3.SUBJECT:
        made = cosmos3.prepare(source, **options)
    else:
        made = wan_forms.prepare(source, form=request.form, **options)
    if request.loras and with_weights:
        transformer = made.module.get_submodule("transformer")
        merge_into(transformer, request.loras, ALIASES[request.subject](transformer))
    return with_spec_digest(made, digest_of(request))


def spec_of(request: Request) -> ExportSpec:
    """Without reading a weight for the transformer; the small subjects are loaded."""
    return subject_of(request, dtype=request.element_type, with_weights=False).spec


def scales_path(request: Request) -> Path:
    """Where the magnitudes of this checkpoint (and LoRA set) are kept: they serve every recipe and shape."""
    digest = digest_of(request)
    name = text_digest(digest)[:16]
    return request.out / f"scales-{request.subject}-{name}.safetensors"


def keep_scales(request: Request, scales: Scales) -> Path:
    path = scales_path(request)
    write_scales(path, scales)
    return path


def plan(request: Request, scales: Path | None) -> list[Step]:
    """The artifacts that `run` will make, in order. Reads no weight of the transformer beyond its digest."""
    spec = spec_of(request)
    store = Store(request.out)
    weights = _weights_bytes(request)
    keys = _keys(request, spec, None if scales is None else file_digest(scales))
    nameless = needs_scales(request) and scales is None
    return [
        Step(
            name=name,
            folder=None if nameless else request.out / key.folder_name,
            present=not nameless and store.find(key) is not None,
            need_bytes=int(weights * _share(request)),
        )
        for name, key in keys.items()
    ]


def run(request: Request, scales: Path | None, on_progress: OnProgress) -> list[Artifact]:
    """Make what is not stored yet; the last artifacts are those of the target."""
    check(request)
    if needs_scales(request) and scales is None:
        raise ExportError(
            f"recipe {request.recipe} needs the magnitudes of activations", fix="calibrate, or give --scales"
        )
    if request.target == aoti.TARGET:
        return [_run_aoti(request, on_progress)]
    graph = _run_onnx(request, scales, on_progress)
    if request.target == ONNX:
        return [graph]
    return [graph, *_run_tensorrt(request, graph, scales, on_progress)]


def load_built(made: Artifact, device: str) -> Built:
    """Named inputs -> named outputs of any artifact; ExportError when this machine cannot run it."""
    target = made.key["target"]
    if target == ONNX:
        return onnx.load_module(made.folder)
    if target == aoti.TARGET:
        package = aoti.load_module(made.folder, made.details["device"])
        return whole(package, package.once, package.spec)
    return tensorrt.load_module(made.folder, device)


def place_of(made: Artifact, device: str) -> dict[str, str]:
    """Where `load_built` runs an artifact: runtime with its version, device, and options if there are any."""
    target, machine = made.key["target"], present_machine()
    if target == ONNX:
        return onnx.place_of(made.folder)
    runtime = f"torch {torch.__version__}" if target == aoti.TARGET else f"{target} {find(target).version}"
    on_gpu = torch.device(device).type == "cuda"
    return {
        "runtime": runtime,
        "device": f"{machine.gpu}, driver {machine.driver}" if on_gpu else machine.cpu,
    }


def _run_onnx(request: Request, scales: Path | None, on_progress: OnProgress) -> Artifact:
    def make(folder: Path) -> Mapping[str, Any]:
        streamed = request.low_memory and request.subject == wan_dit.SUBJECT
        on_progress("loading the subject", None)
        subject = subject_of(request, dtype=request.element_type, with_weights=not streamed)
        component = component_folder(request.source, request.component)
        return onnx.build(
            subject,
            request.recipe,
            folder,
            scales=None if scales is None else read_scales(scales),
            weights=FolderWeights(component) if streamed else None,
            progress=lambda stage, seconds: on_progress(f"onnx: {stage} ({seconds:.1f} s)", None),
        )

    key = _onnx_key(request, spec_of(request), None if scales is None else file_digest(scales))
    need = int(_weights_bytes(request) * _share(request))
    return Store(request.out).store(key, make, need_bytes=need)


def _run_tensorrt(
    request: Request, graph: Artifact, scales: Path | None, on_progress: OnProgress
) -> Sequence[Artifact]:
    subject = subject_of(request, dtype=recipe_of(request.recipe).dtype, with_weights=False)
    machine = present_machine()
    capabilities = request.capabilities or (
        () if machine.compute_capability is None else (machine.compute_capability,)
    )
    if not capabilities:
        raise ExportError(
            f"target {request.target} measures kernels on the GPU, and there is none here",
            fix="build on the machine that will run the engine, or use --target tensorrt-rtx --cc 89,120",
        )
    library, caches = find(request.target), request.out / "caches"
    timing = tensorrt.timing_cache_path(caches, library.version, machine) if library.needs_gpu else None
    return tensorrt.build_all(
        graph.file(onnx.MODEL),
        subject.spec,
        {capability: subject.gate(request.recipe, capability) for capability in capabilities},
        Store(request.out),
        target=request.target,
        recipe=request.recipe,
        scales=None if scales is None else file_digest(scales),
        loras=lora_key(request.loras),
        options=request.options,
        timing_cache=timing,
        on_progress=on_progress,
    )


def _run_aoti(request: Request, on_progress: OnProgress) -> Artifact:
    on_progress("loading the subject", None)
    subject = subject_of(request, dtype=recipe_of(request.recipe).dtype)
    subject.module.to(request.device)
    aoti.quantize(subject, request.recipe)
    return aoti.build(
        subject,
        request.recipe,
        Store(request.out),
        loras=lora_key(request.loras),
        on_progress=on_progress,
    )


def _keys(request: Request, spec: ExportSpec, scales: str | None) -> dict[str, Key]:
    """Name of each step -> key of its artifact."""
    loras = lora_key(request.loras)
    if request.target == aoti.TARGET:
        device = torch.device(request.device)
        key = aoti.key_for(spec, device, recipe=request.recipe, scales=None, loras=loras, settings={})
        return {f"aoti for {request.device}": key}
    keys = {ONNX: _onnx_key(request, spec, scales)}
    if request.target == ONNX:
        return keys
    library, machine = find(request.target), present_machine()
    for capability in request.capabilities or (machine.compute_capability,):
        keys[f"{request.target} for {capability or 'no GPU'}"] = tensorrt.key_of(
            spec,
            library,
            recipe=request.recipe,
            capability=capability,
            machine=machine,
            scales=scales,
            loras=loras,
            options=request.options,
        )
    return keys


def _onnx_key(request: Request, spec: ExportSpec, scales: str | None) -> Key:
    return make_key(
        spec,
        recipe=request.recipe,
        scales=scales,
        target=ONNX,
        library=f"torch {torch.__version__}, onnxscript {_version('onnxscript')}",
        loras=lora_key(request.loras),
        options=onnx.key_options(request.recipe, request.dtype),
    )


def _version(package: str) -> str:
    return str(importlib.import_module(package).__version__)


def _weights_bytes(request: Request) -> int:
    """Of the component's files: what it has in 16 bits, or more when it is stored in 32."""
    folder = component_folder(request.source, request.component)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _share(request: Request) -> float:
    """Stored bytes over those of 16 bits, upper bounds: scales, embeddings and norms keep their type."""
    shares = {"none": 1.05, "fp8": 0.65, "int8": 0.65, "int4": 0.45, "nvfp4": 0.45}
    return shares[recipe_of(request.recipe).linear] * (2.0 if request.element_type == "fp32" else 1.0)
