"""The process that builds one engine: reads a request in JSON, writes plan, log and outcome. Run as a script.

A process of its own, because the builder can crash and takes gigabytes. Imports nothing of ours and no torch;
gates, artifacts and error texts are the parent's. One JSON line on stdout for each phase of the build.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

MAX_ERRORS = 20


class Failure(Exception):
    """The build cannot go on. `kind` is a word that the parent turns into an error with a fix."""

    def __init__(self, kind: str, *details: str) -> None:
        super().__init__(*details)
        self.kind = kind
        self.details = details


def main(request_path: str) -> None:
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    outcome: dict[str, Any] = {"ok": True}
    with Path(request["log"]).open("w", encoding="utf-8", buffering=1) as log:
        try:
            outcome |= build(request, log)
        except Failure as failure:
            outcome = {"ok": False, "kind": failure.kind, "details": list(failure.details)}
    outcome["peak_rss_bytes"] = peak_rss_bytes()
    Path(request["outcome"]).write_text(json.dumps(outcome), encoding="utf-8")


def peak_rss_bytes() -> int:
    """Not getrusage: its maximum survives the exec, so that it would be the parent's where that is larger."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def tell(phase: str, num_steps: int) -> None:
    line = {"phase": phase, "num_steps": num_steps, "peak_rss_bytes": peak_rss_bytes()}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def build(request: Mapping[str, Any], log: TextIO) -> dict[str, Any]:
    trt = importlib.import_module(request["module"])
    errors: list[str] = []
    logger = make_logger(trt, log, errors)
    builder = trt.Builder(logger)
    # TensorRT 10 builds weakly typed without this flag; later ones and RTX know no other way and ignore it.
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    started = time.perf_counter()
    tell("parsing", 1)
    parse(trt, network, logger, request["onnx"])
    parse_s = time.perf_counter() - started
    config = configure(trt, builder, network, request)
    cache = attach_timing_cache(config, request["timing_cache"])
    started = time.perf_counter()
    digest = hashlib.sha256()
    with Path(request["plan"]).open("wb") as plan:
        writer, problem = make_writer(trt, plan.write, digest.update)
        built = builder.build_serialized_network_to_stream(network, config, writer)
        if problem:
            raise Failure("disk" if problem[0].errno == errno.ENOSPC else "write", str(problem[0]))
    if not built:
        raise Failure("build", *errors[-MAX_ERRORS:])
    if cache is not None:
        Path(request["timing_cache"]).write_bytes(bytes(config.get_timing_cache().serialize()))
    return {
        "plan_sha256": digest.hexdigest(),
        "num_network_layers": network.num_layers,
        "parse_s": parse_s,
        "build_s": time.perf_counter() - started,
        "inputs": [network.get_input(i).name for i in range(network.num_inputs)],
        "outputs": [network.get_output(i).name for i in range(network.num_outputs)],
    }


def make_logger(trt: Any, log: TextIO, errors: list[str]) -> Any:
    """Keeps every message: the verbose ones carry the layer table."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.write(f"[{severity.name}] {message}\n")
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                errors.append(message)

    return Logger()


def make_writer(
    trt: Any, write: Callable[[bytes], int], digest: Callable[[bytes], None]
) -> tuple[Any, list[OSError]]:
    """Streams the plan to a file; no exception may cross the library, so a full disk is noted in the list."""
    problem: list[OSError] = []

    class Writer(trt.IStreamWriter):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)

        def write(self, data: bytes) -> int:
            try:
                write(data)
            except OSError as error:
                problem.append(error)
                return 0
            digest(data)
            return len(data)

    return Writer(), problem


def make_monitor(trt: Any) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            tell(phase_name, num_steps)

        def phase_finish(self, phase_name: str) -> None: ...

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True

    return Monitor()


def parse(trt: Any, network: Any, logger: Any, onnx: str) -> None:
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(onnx):  # from a file, since external data is found beside it
        return
    found = [parser.get_error(index) for index in range(min(parser.num_errors, MAX_ERRORS))]
    named = [
        f"node {e.node_name()!r}, operator {e.node_operator()}: {e.desc()} ({e.code().name})" for e in found
    ]
    raise Failure("parse", *named)


def configure(trt: Any, builder: Any, network: Any, request: Mapping[str, Any]) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = make_monitor(trt)
    if request["compute_capability"] is not None:
        config.num_compute_capabilities = 1
        name = f"SM{request['compute_capability']}"
        if not config.set_compute_capability(getattr(trt.ComputeCapability, name), 0):
            raise Failure("build", f"the builder refuses {name}")
    if request["weight_streaming"]:
        config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    if request["workspace_bytes"] is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request["workspace_bytes"])
    if request["max_aux_streams"] is not None:
        config.max_aux_streams = request["max_aux_streams"]
    add_profiles(builder, network, config, request["profiles"])
    return config


def add_profiles(builder: Any, network: Any, config: Any, profiles: list[dict[str, list[int]]]) -> None:
    """One static profile for each entry; a graph without dynamic inputs takes its own shapes and none."""
    inputs = {t.name: t for t in (network.get_input(i) for i in range(network.num_inputs))}
    for shapes in profiles:
        if set(shapes) != set(inputs):
            raise Failure(
                "profile", f"the graph's inputs are {sorted(inputs)}, the profile's {sorted(shapes)}"
            )
        for name, tensor in inputs.items():
            fits = len(tensor.shape) == len(shapes[name]) and all(
                mine in (-1, wanted) for mine, wanted in zip(tensor.shape, shapes[name], strict=True)
            )
            if not fits:
                raise Failure("profile", f"input {name}: graph {list(tensor.shape)}, profile {shapes[name]}")
    if not any(-1 in tuple(tensor.shape) for tensor in inputs.values()):
        if len(profiles) > 1:
            raise Failure("profile", f"{len(profiles)} profiles, but no input of the graph is dynamic")
        return
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, shape in shapes.items():
            profile.set_shape(name, tuple(shape), tuple(shape), tuple(shape))
        if config.add_optimization_profile(profile) < 0:
            raise Failure("profile", f"the builder refuses the shapes {shapes}")


def attach_timing_cache(config: Any, path: str | None) -> Any:
    """The cache must live as long as the build; RTX has one too, which it leaves empty."""
    if path is None:
        return None
    file = Path(path)
    cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    config.set_timing_cache(cache, False)
    return cache


if __name__ == "__main__":
    main(sys.argv[1])
