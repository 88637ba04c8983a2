"""A subject as an ONNX graph with its weights beside it, and the same run by ONNX Runtime on the CPU.

The graph is also what the TensorRT targets parse. Knows no subject by name. Invariant: the folder appears
whole (model, weights, record) or not at all, and a graph that the ONNX checker refuses never appears.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.artifacts.documents import read_document
from export.model_inputs import ExportedDenoiser
from export.profiles import profile_of
from export.quantization.quantize import quantize, stream_state
from export.quantization.quantized import DEQUANTIZING, FP4_SUFFIX, INT4_SUFFIX
from export.quantization.scales import Scales
from export.spec import ExportError, ExportSpec, Profile, Subject, recipe_of, spec_from_record
from export.targets.onnx_graph import check, require
from export.targets.onnx_session import SessionOptions, open_session, options_from_record, options_of, place

OPSET = 23
"""The first with Attention and RMSNormalization as operators, which builders fuse or refuse."""

MODEL, WEIGHTS, RECORD = "model.onnx", "model.onnx.data", "onnx.json"
SCHEMA = 2
"""Of the record; it is in the key, so that a graph with an older record is built again."""

Progress = Callable[[str, float], None]
"""Called with the name of a finished stage and its seconds."""


def key_options(recipe: str, dtype: str | None) -> dict[str, Any]:
    """What changes a graph beside subject, scales and versions. dtype: None is the recipe's own."""
    asked = {} if dtype is None else {"dtype": dtype}
    return {"opset": OPSET, "record": SCHEMA, **recipe_of(recipe).key_options, **asked}


def build(
    subject: Subject,
    recipe: str,
    folder: Path,
    *,
    scales: Scales | None = None,
    weights: Mapping[str, Tensor] | None = None,
    weights_prefix: str = "transformer.",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Export into `folder` (new or empty) and return what is written to its onnx.json. Consumes the subject.

    A subject on `meta` needs the `weights` of its checkpoint: then memory holds the quantized weights and one
    group of float ones. Raises ExportError for bad recipes and scales, an operator without an ONNX form, a
    graph that fails the checker, a folder in use and a full disk.
    """
    onnx = require("onnx")
    require("onnxscript")
    if folder.exists() and any(folder.iterdir()):
        raise ExportError(f"{folder} is not empty", fix="name a new folder")
    on_meta = any(parameter.is_meta for parameter in subject.module.parameters())
    if on_meta and weights is None:
        raise ExportError(f"the weights of {subject.spec.subject} are not loaded", fix="give the weights")
    clock = _Clock(progress)
    dtype = _dtype_name(subject)
    with torch.no_grad(), _without_chatter():
        quantize(subject, recipe, scales)
        clock.lap("quantize")
        program = _program(subject)
        _require_quantized(program.model, subject, recipe)
        clock.lap("export")
        if on_meta:
            assert weights is not None
            _fill(program, subject, recipe, scales, weights, weights_prefix)
            clock.lap("weights")
        program.optimize()
        retype_packed(program.model)
        clock.lap("optimize")
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "spec": subject.spec.record(),
        "recipe": recipe,
        "dtype": dtype,
        "opset": OPSET,
        "session": options_of(recipe_of(recipe)).record(),
        "weights_in": "checkpoint stream" if on_meta else "module",
        "versions": {"torch": torch.__version__, "onnx": onnx.__version__},
        "num_nodes": sum(1 for _ in program.model.graph),
    }
    return _save(program, folder, record, clock)


def load(folder: Path, device: str = "cpu") -> ExportedDenoiser:
    """The Denoiser over a built Wan transformer, run by ONNX Runtime with torch's number of threads.

    device: cpu.
    """
    module = load_module(folder, device)

    def run(profile: Profile, inputs: Mapping[str, Tensor]) -> Tensor:
        return module(inputs)["velocity"]

    return ExportedDenoiser(spec=module.spec, run=run)


def load_module(folder: Path, device: str = "cpu", *, session: SessionOptions | None = None) -> OnnxModule:
    """Any built subject, run by ONNX Runtime with the inputs and outputs of its spec.

    session: other options than those that the record states.
    """
    record = require_runnable(folder, device)
    options = options_from_record(record["session"]) if session is None else session
    return OnnxModule(spec_from_record(record["spec"]), open_session(folder / MODEL, options))


def stated_options(folder: Path) -> SessionOptions:
    """The session options that a built folder is to be run with."""
    return options_from_record(read_record(folder)["session"])


def place_of(folder: Path) -> dict[str, str]:
    """Where `load_module` runs a built folder."""
    return place(stated_options(folder))


def require_runnable(folder: Path, device: str) -> dict[str, Any]:
    """The record of a graph that `load_module` can run on `device`; else ExportError. Reads no graph."""
    if device != "cpu":
        problem = f"{folder.name} is run by ONNX Runtime on the CPU, not on {device}"
        raise ExportError(problem, fix="use --device cpu, and the tensorrt or aoti target on a GPU")
    require("onnxruntime")
    record = read_record(folder)
    recipe = recipe_of(record["recipe"])
    if not recipe.runs_in_onnxruntime or record["dtype"] == "bf16":
        problem = f"recipe {recipe.name} with dtype {record['dtype']} does not run in ONNX Runtime on a CPU"
        raise ExportError(problem, fix="export with dtype fp16 or fp32 and another recipe")
    return record


def read_record(folder: Path) -> dict[str, Any]:
    """onnx.json of a built folder; ExportError when it is missing, damaged or of another schema."""
    path = folder / RECORD
    kinds = {"spec": dict, "recipe": str, "dtype": str, "session": dict, "bytes": dict}
    record = read_document(path, kinds, fix="export again", schema=SCHEMA)
    missing = [name for name in record["bytes"] if not (folder / name).is_file()]
    sizes = {name: (folder / name).stat().st_size for name in record["bytes"] if name not in missing}
    if missing or sizes != record["bytes"]:
        problem = f"{folder} is incomplete: sizes {sizes}, recorded {record['bytes']}"
        raise ExportError(problem, fix="export again")
    return record


class OnnxModule:
    """Named tensors in, named tensors out; each call is one run of the session."""

    def __init__(self, spec: ExportSpec, run: Any) -> None:
        self.spec = spec
        self._session = run

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name, on the CPU. ExportError when shapes or dtypes are those of no profile: what the
        profiles differ in is open in the graph, which takes any other size as well."""
        profile_of(self.spec, inputs)
        values = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in inputs.items()}
        outputs = self._session.run([tensor.name for tensor in self.spec.outputs], values)
        return {
            tensor.name: torch.from_numpy(value)
            for tensor, value in zip(self.spec.outputs, outputs, strict=True)
        }


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Hides what the exporter tells its own developers (skipped registrations, skipped folding): nobody who
    exports a model can do anything about it. Errors are raised as before."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _program(subject: Subject) -> Any:
    """The unoptimized program: the optimizer cannot work while the weights are missing."""
    spec = subject.spec
    exporter = torch.onnx
    try:
        return exporter.export(
            subject.module,
            subject.inputs,
            f=None,
            dynamo=True,
            opset_version=OPSET,
            optimize=False,
            verbose=False,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            dynamic_shapes=_dynamic_shapes(spec),
        )
    except exporter.OnnxExporterError as error:
        problem = f"{spec.subject} has no ONNX form: {str(error)[:600]}"
        raise ExportError(problem, fix="report the operator it names") from error


def _require_quantized(model: Any, subject: Subject, recipe: str) -> None:
    """ExportError when a linear computes with rounded values in place of Q/DQ operators.

    The exporter falls back to a capture that does not know it is one, whenever its first fails: nothing then
    looks wrong, the numbers agree, and no engine has an 8-bit kernel.
    """
    if recipe_of(recipe).linear == "none":
        return
    wanted = sum(isinstance(module, DEQUANTIZING) for module in subject.module.modules())
    found = sum(node.op_type == "DequantizeLinear" for node in model.graph)
    if found < wanted:
        problem = (
            f"the graph of {subject.spec.subject} has {found} DequantizeLinear for {wanted} quantized parts"
        )
        raise ExportError(problem, fix="report this export, and the versions of torch and onnxscript")


def _dynamic_shapes(spec: ExportSpec) -> tuple[dict[int, Any], ...] | None:
    """Dimensions that the profiles do not agree on are left open; all others are fixed in the graph."""
    if not spec.varying_dims:
        return None
    return tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, dim in enumerate(t.dims) if dim in spec.varying_dims}
        for t in spec.inputs
    )


def _fill(
    program: Any,
    subject: Subject,
    recipe: str,
    scales: Scales | None,
    weights: Mapping[str, Tensor],
    prefix: str,
) -> None:
    state = {**dict(stream_state(subject, recipe, scales, weights, prefix=prefix)), **subject.constants}
    present = program.model.graph.initializers  # the exporter keeps one of several equal zero points
    program.apply_weights({name: tensor for name, tensor in state.items() if name in present})
    empty = [
        name
        for name, value in program.model.graph.initializers.items()
        if value.const_value is None or _is_meta(value.const_value)
    ]
    if empty:
        raise ExportError(f"no weights for {empty[:3]}", fix="copy or download the whole folder again")


def _is_meta(value: Any) -> bool:
    raw = getattr(value, "raw", None)
    return isinstance(raw, Tensor) and raw.is_meta


def retype_packed(model: Any) -> None:
    """Give 4-bit initializers, exported as int8, their real type, and so the FP4 activations too."""
    ir, ml_dtypes = require("onnx_ir"), require("ml_dtypes")
    kinds = {
        INT4_SUFFIX: (ir.DataType.INT4, ml_dtypes.int4),
        FP4_SUFFIX: (ir.DataType.FLOAT4E2M1, ml_dtypes.float4_e2m1fn),
    }
    for name, value in model.graph.initializers.items():
        for suffix, (kind, numpy_type) in kinds.items():
            if name.endswith(suffix):
                stored = value.const_value.numpy()
                # E2M1 elements are given by their bits, int4 ones by their value
                packed = (
                    stored.astype(numpy_type)
                    if suffix == INT4_SUFFIX
                    else stored.view("uint8").view(numpy_type)
                )
                value.const_value = ir.Tensor(packed, dtype=kind, name=name)
                value.dtype = kind
    for node in model.graph:
        if node.op_type == "TRT_FP4DynamicQuantize":
            node.outputs[0].dtype = ir.DataType.FLOAT4E2M1


def _save(program: Any, folder: Path, record: dict[str, Any], clock: _Clock) -> dict[str, Any]:
    """Write beside `folder`, check there, and move into place; returns the completed record."""
    _require_space(folder, program.model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        program.save(staging / MODEL, external_data=True)
        clock.lap("save")
        check(staging / MODEL)
        clock.lap("check")
        record |= {
            "bytes": {path.name: path.stat().st_size for path in sorted(staging.iterdir())},
            "seconds": clock.seconds,
        }
        (staging / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        staging.chmod(0o755)  # mkdtemp makes it private
        staging.replace(folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _full(folder.parent, error.strerror or "no space left") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return record


def _dtype_name(subject: Subject) -> str:
    """fp32 only when every parameter is: a half-precision module keeps fp32 islands."""
    kinds = {parameter.dtype for parameter in subject.module.parameters()}
    if torch.bfloat16 in kinds:
        return "bf16"
    return "fp16" if torch.float16 in kinds else "fp32"


def _require_space(folder: Path, model: Any) -> None:
    needed = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    parent = next(path for path in (folder.parent, *folder.parent.parents) if path.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise _full(parent, f"{needed / 2**30:.1f} GiB of weights, {free / 2**30:.1f} GiB free")


def _full(folder: Path, detail: str) -> ExportError:
    return ExportError(f"the disk of {folder} is full: {detail}", fix="free space or name another folder")


class _Clock:
    """Seconds per stage, reported as they end."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        self._last = now
        if self._progress is not None:
            self._progress(stage, self.seconds[stage])
