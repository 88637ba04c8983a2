"""A built engine on the GPU that it was built for: torch tensors in by address, torch tensors out.

One class for `tensorrt` and `tensorrt_rtx`; knows no subject. Invariants: work runs on a stream of its own
that waits for the caller's and is waited for by it; the host never waits; activation memory is torch's, for
the memory plan to see. Never executed by its authors: TensorRT for RTX refuses the GPU at hand (9.0), and
full TensorRT cannot be installed there.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.profiles import profile_of
from export.spec import ExportError, ExportSpec
from export.trt.library import import_library
from kernels.files import whole_file

_TORCH = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT64": torch.int64,
    "INT32": torch.int32,
    "INT8": torch.int8,
    "BOOL": torch.bool,
    "FP8": torch.float8_e4m3fn,
}


class Engine:
    """The engine of one plan file. Close it to write the runtime cache and free its memory."""

    def __init__(
        self,
        plan: Path,
        spec: ExportSpec,
        *,
        target: str,
        device: torch.device,
        weight_streaming_bytes: int | None,
        runtime_cache: Path | None,
        cuda_graph: bool,
    ) -> None:
        """weight_streaming_bytes: how much of the weights may lie on the GPU; None: all.

        runtime_cache: where RTX keeps the kernels that it compiles at first use; full TensorRT has none.
        """
        if device.type != "cuda" or not torch.cuda.is_available():
            raise ExportError(
                f"a {target} engine runs on an NVIDIA GPU, not on {device}",
                fix="run where torch sees the GPU, or use --denoiser onnx or aoti on this machine",
            )
        self._trt = import_library(target)
        self.spec = spec
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._messages = _Messages(self._trt)
        with torch.cuda.device(device):
            self._runtime = self._trt.Runtime(self._messages.logger)
            self._engine = _deserialize(self._trt, self._runtime, plan, self._messages)
            if weight_streaming_bytes is not None:
                stream_weights(self._engine, plan, weight_streaming_bytes)
            self._runtime_cache_file = runtime_cache
            self._runtime_cache: Any = None
            self._context = self._make_context(cuda_graph)
        self._outputs = self._output_dtypes()
        self._profile: int | None = None
        self._static: dict[int, _Captured] = {}
        self._cuda_graph = cuda_graph
        self._scratch = torch.empty(self.activation_bytes, dtype=torch.uint8, device=device)
        self._context.set_device_memory(self._scratch.data_ptr(), self._scratch.numel())

    @property
    def activation_bytes(self) -> int:
        """Of the largest profile, at the present streaming budget."""
        return int(self._engine.device_memory_size_v2)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name; ExportError when shapes, dtypes or devices are those of no profile.

        The engine is given addresses, so it cannot look. Only an input that is not contiguous is copied.
        """
        profile = profile_of(self.spec, inputs, self._device)
        inputs = {name: tensor.contiguous() for name, tensor in inputs.items()}
        caller = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream):
            self._choose_profile(profile)
            if self._cuda_graph:
                outputs = self._replay(profile, inputs)
            else:
                outputs = self._make_outputs(profile)
                self._enqueue(inputs, outputs)
        for tensor in inputs.values():
            tensor.record_stream(self._stream)
        for tensor in outputs.values():
            tensor.record_stream(caller)
        caller.wait_stream(self._stream)
        return outputs

    def close(self) -> None:
        """Write the runtime cache. The engine cannot be called afterwards."""
        torch.cuda.synchronize(self._device)
        if self._runtime_cache is not None and self._runtime_cache_file is not None:
            with whole_file(self._runtime_cache_file) as part:
                part.write_bytes(bytes(self._runtime_cache.serialize()))
        self._static.clear()
        # The order matters: a context must not outlive its engine, nor an engine its runtime.
        del self._context, self._runtime_cache, self._engine, self._runtime, self._scratch

    def _make_context(self, cuda_graph: bool) -> Any:
        """A context whose activation memory we give; RTX takes its settings in a config."""
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(self._trt, "IRuntimeCache"):
            return _created(self._engine.create_execution_context(strategy), self._messages)
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        if cuda_graph:
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        cache, file = config.create_runtime_cache(), self._runtime_cache_file
        # A cache of another driver or GPU is refused by `deserialize`, and kernels are compiled anew.
        if file is not None and file.is_file():
            cache.deserialize(file.read_bytes())
        config.set_runtime_cache(cache)
        self._runtime_cache = cache
        return _created(self._engine.create_execution_context(config), self._messages)

    def _output_dtypes(self) -> dict[str, torch.dtype]:
        """Checked against the spec both ways."""
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        outputs = [n for n in names if self._engine.get_tensor_mode(n) == self._trt.TensorIOMode.OUTPUT]
        wanted = {t.name for t in (*self.spec.inputs, *self.spec.outputs)}
        if set(names) != wanted:
            raise ExportError(
                f"the engine has tensors {sorted(names)}, the spec {sorted(wanted)}", fix="export again"
            )
        return {name: _TORCH[self._engine.get_tensor_dtype(name).name] for name in outputs}

    def _choose_profile(self, index: int) -> None:
        if self._profile != index:
            chosen = self._context.set_optimization_profile_async(index, self._stream.cuda_stream)
            self._require(chosen, f"profile {index} cannot be chosen")
            for tensor in self.spec.inputs:
                shape = tensor.shape(self.spec.profiles[index].sizes)
                accepted = self._context.set_input_shape(tensor.name, shape)
                self._require(accepted, f"input {tensor.name} cannot be {list(shape)}")
            self._profile = index

    def _make_outputs(self, profile: int) -> dict[str, Tensor]:
        sizes = self.spec.profiles[profile].sizes
        return {
            tensor.name: torch.empty(
                tensor.shape(sizes), dtype=self._outputs[tensor.name], device=self._device
            )
            for tensor in self.spec.outputs
        }

    def _enqueue(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        for name, tensor in (*inputs.items(), *outputs.items()):
            placed = self._context.set_tensor_address(name, tensor.data_ptr())
            self._require(placed, f"tensor {name} cannot be placed")
        self._require(
            self._context.execute_async_v3(self._stream.cuda_stream), "the engine cannot be enqueued"
        )

    def _require(self, done: bool, problem: str) -> None:
        if not done:
            raise ExportError(f"{problem}: {self._messages.last()}", fix="export again, or run eagerly")

    def _replay(self, profile: int, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A graph wants fixed addresses: inputs are copied into its buffers, outputs out of them."""
        captured = self._static.get(profile)
        if captured is None:
            captured = self._capture(profile, inputs)
            self._static[profile] = captured
        for name, tensor in inputs.items():
            captured.inputs[name].copy_(tensor)
        if captured.graph is None:
            self._enqueue(captured.inputs, captured.outputs)
        else:
            captured.graph.replay()
        return {name: tensor.clone() for name, tensor in captured.outputs.items()}

    def _capture(self, profile: int, inputs: Mapping[str, Tensor]) -> _Captured:
        buffers = {name: tensor.clone() for name, tensor in inputs.items()}
        outputs = self._make_outputs(profile)
        if self._runtime_cache is not None:  # RTX captures by itself once it is told to, see `_make_context`
            return _Captured(buffers, outputs, None)
        self._enqueue(buffers, outputs)  # the first run of a shape may allocate, which a capture forbids
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._enqueue(buffers, outputs)
        return _Captured(buffers, outputs, graph)


class _Captured:
    """Buffers of one profile at fixed addresses, kept as long as the graph that reads them."""

    def __init__(
        self, inputs: dict[str, Tensor], outputs: dict[str, Tensor], graph: torch.cuda.CUDAGraph | None
    ) -> None:
        self.inputs, self.outputs, self.graph = inputs, outputs, graph


class _Messages:
    """The library's errors, for the text of ours."""

    def __init__(self, trt: Any) -> None:
        lines: list[str] = []

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if int(severity) <= int(trt.ILogger.Severity.ERROR):
                    lines.append(message)

        self.logger = Logger()
        self._lines = lines

    def last(self) -> str:
        return "; ".join(self._lines[-3:]) or "no message"


def stream_weights(engine: Any, plan: Path, budget_bytes: int) -> None:
    """Let only `budget_bytes` of the weights lie on the GPU; ExportError when the plan cannot stream."""
    streamable = int(engine.streamable_weights_size)
    if streamable == 0:
        raise ExportError(
            f"{plan.name} was built without weight streaming", fix="export again with --weight-streaming"
        )
    engine.weight_streaming_budget_v2 = min(budget_bytes, streamable)


def _created(context: Any, messages: _Messages) -> Any:
    if context is None:
        raise ExportError(
            f"no execution context could be made: {messages.last()}", fix="free GPU memory, or stream weights"
        )
    return context


def _deserialize(trt: Any, runtime: Any, plan: Path, messages: _Messages) -> Any:
    """Through a memory map, so that a plan of 30 GB is not copied on the host first."""
    with plan.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        engine = runtime.deserialize_cuda_engine(data)
        if engine is not None:
            return engine
        reason = messages.last()
        if hasattr(runtime, "get_engine_validity"):
            reason = f"{_validity(trt, runtime, data)}; {reason}"
    raise ExportError(
        f"{plan} cannot be loaded by {trt.__name__} {trt.__version__}: {reason}",
        fix="export again on this machine: an engine is of one library version and of one kind of card",
    )


def _validity(trt: Any, runtime: Any, data: Any) -> str:
    """What RTX says is wrong with a plan: the names of the bits that it sets."""
    validity, bits = runtime.get_engine_validity(data)
    members = trt.EngineInvalidityDiagnostics.__members__
    named = [name for name, member in members.items() if int(bits) & int(member)]
    return " ".join([str(validity.name), *named])
