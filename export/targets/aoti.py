"""AOTInductor packages: a subject compiled ahead of time to native code, loaded without a compiler in sight.

The exported form that runs on every GPU, and on a processor. Compiles whatever module it is given, so our
kernels and quantized linears are inside. Invariant: one static package for each profile; a package is stored
only once a process of its own, which knows nothing of Retake, has loaded it, since torch's loader may end the
process instead of raising; it is loaded only by the torch version, on the card and with the driver that it
was made for.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch._inductor.package.package import package_aoti
from torch.export.pt2_archive._package import AOTICompiledModel

from engine.generators.wan.recipes import wan_recipe
from engine.machine.compilers import cpp_fault
from engine.quant import surgery
from export.artifacts.device_identity import Machine, present_machine
from export.artifacts.store import Artifact, Key, Store, make_key, read_artifact, require_current
from export.dtypes import TORCH_DTYPES
from export.forms import Form
from export.model_inputs import KEYS, ExportedDenoiser, OwnPrefixExport
from export.profiles import profile_of
from export.spec import ExportError, ExportSpec, Profile, Subject, recipe_of, spec_from_record
from export.targets import aoti_weights
from kernels.fused import kernels_inside

TARGET: Final = "aoti"
SETTINGS: Final = {
    "aot_inductor.package": True,
    "aot_inductor.package_constants_in_so": False,
    "aot_inductor.package_constants_on_disk_format": "pickle_weights",
}
"""Of every package: its weights lie beside it (aoti_weights.py); the format makes torch hand them over."""
CODE_BYTES: Final = 2**28
"""More than the code of one profile takes on disk while it is compiled and packed."""

TRY_TO_LOAD: Final = (
    "import sys, torch; path, index = sys.argv[1], int(sys.argv[2]); index < 0 or torch.cuda.init(); "
    "torch._C._aoti.AOTIModelPackageLoader(path, 'model', True, 1, index)"
)
"""As `Package` does, with nothing of Retake."""

OnProgress = Callable[[str, int], None]
"""(stage, largest resident memory of this process so far in bytes)."""


def key_of(
    subject: Subject,
    *,
    recipe: str,
    scales: str | None,
    loras: tuple[tuple[str, float], ...],
    settings: Mapping[str, Any],
) -> Key:
    """The artifact's key: of torch, the machine, and the inductor settings. `subject` is on its device."""
    return key_for(
        subject.spec,
        _device_of(subject.module),
        recipe=recipe,
        scales=scales,
        loras=loras,
        settings=settings,
    )


def key_for(
    spec: ExportSpec,
    device: torch.device,
    *,
    recipe: str,
    scales: str | None,
    loras: tuple[tuple[str, float], ...],
    settings: Mapping[str, Any],
) -> Key:
    """As `key_of`, before a weight is read."""
    return make_key(
        spec,
        recipe=recipe,
        scales=scales,
        target=TARGET,
        library=torch.__version__,
        machine=_machine(device),
        loras=loras,
        options=settings,
    )


def quantize(subject: Subject, recipe_name: str) -> Subject:
    """The subject with the linears of its inner blocks in 8 bits, in place, run by our kernels.

    These quantize activations per token as they come, so no calibration is needed. ExportError for a recipe
    that has no such kernel, or a subject without a table of layers.
    """
    subject.spec.tolerance_of(recipe_name)
    recipe = recipe_of(recipe_name)
    if recipe.linear == "none":
        return subject
    if recipe.linear not in ("fp8", "int8") or recipe.fp8_attention:
        raise ExportError(
            f"target {TARGET} has no kernels for recipe {recipe.name}",
            fix="use one of: bf16, fp16, fp8, int8",
        )
    transformer = getattr(subject.module, "transformer", None)
    if transformer is None:
        raise ExportError(f"{subject.spec.subject} has no table of 8-bit layers", fix="use bf16 or fp16")
    table = wan_recipe(transformer)
    inner_blocks = len(transformer.blocks) - table.num_first_kept - table.num_last_kept
    expect = inner_blocks * len(table.quantized)
    surgery.quantize_linears(transformer, table, recipe.linear, expect=expect)
    return subject


def build(
    subject: Subject,
    recipe: str,
    store: Store,
    *,
    scales: str | None = None,
    loras: tuple[tuple[str, float], ...] = (),
    settings: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> Artifact:
    """The stored packages of a subject whose module is quantized already, compiled if they are not there.

    Compiled for the device that the module lies on. settings: inductor options, by their names in torch.
    Raises ExportError when the module cannot be traced or compiled, when torch cannot load what it compiled,
    and when the disk is full.
    """
    settings = {} if settings is None else dict(settings)
    parts = (subject,) if subject.once is None else (subject.once, subject)
    key = key_of(subject, recipe=recipe, scales=scales, loras=loras, settings=settings)
    weights_bytes = module_bytes(subject.module)

    def make(folder: Path) -> Mapping[str, Any]:
        require_compiler()
        seconds: dict[str, dict[str, float]] = {}
        weights: dict[str, Tensor] = {}
        for part in parts:
            for profile in part.spec.profiles:
                path = folder / file_name(profile)
                seconds[profile.name], tensors = _compile(part, profile, path, settings, on_progress)
                require_loadable(path, _device_of(part.module))
                aoti_weights.add(weights, profile.name, tensors)
        aoti_weights.save(weights, folder / aoti_weights.FILE_NAME)
        return {
            "weights_bytes": weights_bytes,
            "seconds": seconds,
            "peak_rss_bytes": _peak_rss_bytes(),
            "device": _device_of(subject.module).type,
            "form": str(subject.spec.form),
        }

    need_bytes = weights_bytes + CODE_BYTES * sum(len(part.spec.profiles) for part in parts)
    return store.store(key, make, need_bytes=need_bytes)


def require_compiler() -> None:
    """ExportError where the C++ compiler makes nothing that torch can load: minutes before `require_loadable`
    would see it, and with the cause."""
    if fault := cpp_fault():
        problem, fix = fault
        raise ExportError(f"target {TARGET} {problem}", fix=fix)


def require_loadable(package: Path, device: torch.device) -> None:
    """ExportError when the process that tries to load the package does not come back, or raises."""
    done = subprocess.run(  # nosec B603 # our own interpreter and script
        [sys.executable, "-c", TRY_TO_LOAD, str(package), str(_index(device))],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return
    how = f"ended by {signal.Signals(-done.returncode).name}" if done.returncode < 0 else "failed"
    raise ExportError(
        f"torch {torch.__version__} compiled {package.name} for {device.type} and cannot load it: the "
        f"process that tried {how}: {_last_line(done.stderr)}",
        fix="export with another version of torch, or use the generator's own module or another target",
    )


def load(
    folder: Path, device: str = "cuda", *, weights: str | None = None, form: Form | None = None
) -> ExportedDenoiser | OwnPrefixExport:
    """The packages of a Wan transformer in `folder` as a Denoiser; arguments and errors as `load_module`."""
    module = load_module(folder, device, weights=weights, form=form)

    def run(profile: Profile, inputs: Mapping[str, Tensor]) -> Tensor:
        return module(inputs)["velocity"]

    if (once := module.once) is None:
        return ExportedDenoiser(spec=module.spec, run=run)
    return OwnPrefixExport(spec=module.spec, run=run, once=lambda latents: once({"latents": latents})[KEYS])


def load_module(
    folder: Path, device: str = "cuda", *, weights: str | None = None, form: Form | None = None
) -> Package:
    """Any built subject, with the inputs and outputs of its spec.

    weights: digest of the checkpoint that is to run, if known; form: what is asked for, None: whichever it
    is. ExportError names what differs if the packages are of another card, driver, torch version, checkpoint
    or form.
    """
    artifact = read_artifact(folder)
    require_runnable(artifact, device, weights=weights)
    spec = spec_from_record(artifact.key["spec"])
    if form is not None:
        spec.require_form(form)
    return Package(artifact, spec, torch.device(device))


def require_runnable(artifact: Artifact, device: str, *, weights: str | None = None) -> None:
    """ExportError unless `load_module` would take it: target, device, card, driver, torch version."""
    folder, target = artifact.folder, artifact.key["target"]
    if target != TARGET:
        raise ExportError(f"{folder} is a {target} artifact, not a package", fix=f"use --denoiser {target}")
    built_for, wanted = artifact.details.get("device"), torch.device(device)
    if wanted.type != built_for:
        raise ExportError(
            f"{folder.name} was compiled for {built_for}, not for {wanted.type}",
            fix=f"run with --device {built_for}, or export again on {wanted.type}",
        )
    require_current(artifact, library=torch.__version__, machine=_machine(wanted), weights=weights)


class Package:
    """Named tensors in, named tensors out. Runs on the current stream and never waits for it.

    `once`: of the spec's `once`, with the same weights in memory.
    """

    once: Package | None = None

    def __init__(
        self,
        artifact: Artifact,
        spec: ExportSpec,
        device: torch.device,
        weights: aoti_weights.Weights | None = None,
    ) -> None:
        self.spec = spec
        self._device = device
        self._weights = weights or aoti_weights.load(artifact.file(aoti_weights.FILE_NAME), device)
        if spec.once is not None:
            self.once = Package(artifact, spec.once, device, self._weights)
        self._models = [
            self._model(artifact.file(file_name(profile)), profile.name, device) for profile in spec.profiles
        ]

    def _model(self, path: Path, profile: str, device: torch.device) -> Any:
        # torch._inductor.aoti_load_package around the same loader first asks the C++ compiler which vector
        # instructions there are, which can take most of a minute; the artifact has compared the machine.
        # Single-threaded: the pool of the other mode makes events that a CUDA graph cannot hold.
        single_threaded, num_runners = True, 1
        model = AOTICompiledModel(
            torch._C._aoti.AOTIModelPackageLoader(
                str(path), "model", single_threaded, num_runners, _index(device)
            )
        )
        weights = aoti_weights.of_profile(profile, model.get_constant_fqns(), self._weights)
        # user_managed: the profiles, and what is computed once, share these tensors, which this object keeps
        model.load_constants(weights, check_full_update=True, user_managed=True)
        return model

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name; ExportError when shapes, dtypes or devices are those of no profile."""
        # The package itself looks at none of them, and computes whatever lies in memory.
        model = self._models[profile_of(self.spec, inputs, self._device)]
        # Compiled code relies on the strides it was traced with.
        found = model(*(inputs[tensor.name].contiguous() for tensor in self.spec.inputs))
        outputs = [found] if isinstance(found, Tensor) else list(found)
        return {spec.name: tensor for spec, tensor in zip(self.spec.outputs, outputs, strict=True)}


def _index(device: torch.device) -> int:
    """As torch's loader counts devices."""
    return -1 if device.type == "cpu" else device.index or 0


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")


def file_name(profile: Profile) -> str:
    return f"{profile.name}.pt2"


def module_bytes(module: nn.Module) -> int:
    tensors = (*module.parameters(), *module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _compile(
    subject: Subject,
    profile: Profile,
    path: Path,
    settings: Mapping[str, Any],
    on_progress: OnProgress | None,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Trace and compile one profile: seconds of each stage, and what the package has to be given."""
    device = _device_of(subject.module)
    example = tuple(
        torch.zeros(tensor.shape(profile.sizes), dtype=TORCH_DTYPES[tensor.dtype], device=device)
        for tensor in subject.spec.inputs
    )
    seconds: dict[str, float] = {}

    def lap(stage: str, started: float) -> None:
        seconds[stage] = time.perf_counter() - started
        if on_progress is not None:
            on_progress(f"{stage} {profile.name}", _peak_rss_bytes())

    try:
        with torch.no_grad():
            started = time.perf_counter()
            program = torch.export.export(subject.module, example, strict=False)
            lap("trace", started)
            started = time.perf_counter()
            with kernels_inside():
                made: Any = torch._inductor.aot_compile(
                    program.module(check_guards=False), example, options={**settings, **SETTINGS}
                )
            package_aoti(str(path), [file for file in made if isinstance(file, str)])
            lap("compile", started)
    except RuntimeError as error:  # of dynamo, inductor and the C++ compiler, all of them
        stage = "compiled" if "trace" in seconds else "traced"
        raise ExportError(
            f"{subject.spec.subject} cannot be {stage} for {profile.name}: {type(error).__name__}: "
            f"{str(error)[:1500]}",
            fix="an unsupported operation has to be rewritten in the subject",
        ) from error
    (weights,) = [weights for weights in made if not isinstance(weights, str)]
    return seconds, {name: tensor for name, (tensor, _) in weights.items()}


def _device_of(module: nn.Module) -> torch.device:
    tensor = next(iter((*module.parameters(), *module.buffers())), None)
    assert tensor is not None and not tensor.is_meta, "the module has weights, and they are loaded"
    return tensor.device


def _machine(device: torch.device) -> Machine:
    """What the code is bound to: for a processor that alone, whatever GPU sits beside it."""
    if device.type == "cpu":
        return replace(present_machine(), gpu=None, compute_capability=None, driver=None)
    return present_machine(device.index or 0)


def _peak_rss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
