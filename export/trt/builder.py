"""Runs the builder in a child process and turns whatever happens to it into a result or an ExportError.

Knows neither gates nor artifacts. Invariant: a crash, a kill or a full disk ends in an ExportError with the
end of the builder's log; files in the work folder are the caller's to remove.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.spec import ExportError
from export.trt import build_child
from export.trt.library import Library

LOG_TAIL_LINES = 25

OnProgress = Callable[[str, int], None]
"""(phase of the build, largest resident memory of the builder so far in bytes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What changes the engine beside graph and profiles; all of it belongs to the artifact's key."""

    weight_streaming: bool = False
    workspace_bytes: int | None = None
    max_aux_streams: int | None = None

    def record(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A plan on disk and what its making cost."""

    plan: Path
    log: Path
    plan_sha256: str
    plan_bytes: int
    num_network_layers: int
    parse_s: float
    build_s: float
    peak_rss_bytes: int


def run_builder(
    library: Library,
    onnx: Path,
    work: Path,
    *,
    compute_capability: int | None,
    profiles: Sequence[Mapping[str, Sequence[int]]],
    options: BuildOptions,
    timing_cache: Path | None,
    on_progress: OnProgress | None,
) -> Built:
    """Build `work/engine.plan` from the graph; the full log is `work/build.log`.

    profiles: for each, input name -> shape. compute_capability: None only where the builder asks the GPU.
    """
    plan, log, outcome_path = work / "engine.plan", work / "build.log", work / "outcome.json"
    request = {
        "module": library.module_name,
        "onnx": str(onnx),
        "plan": str(plan),
        "log": str(log),
        "outcome": str(outcome_path),
        "compute_capability": compute_capability,
        "profiles": [{name: list(shape) for name, shape in shapes.items()} for shapes in profiles],
        "timing_cache": None if timing_cache is None else str(timing_cache),
        **options.record(),
    }
    request_path, stderr_path = work / "request.json", work / "stderr.log"
    request_path.write_text(json.dumps(request), encoding="utf-8")
    status, peak = _run([build_child.__file__, str(request_path)], stderr_path, on_progress)
    if status != 0 or not outcome_path.is_file():
        raise _crash(library, onnx, status, peak, [log, stderr_path])
    outcome = json.loads(outcome_path.read_text(encoding="utf-8"))
    if not outcome["ok"]:
        raise _failure(library, onnx, outcome, log)
    for path in (request_path, stderr_path, outcome_path):
        path.unlink(missing_ok=True)
    return Built(
        plan=plan,
        log=log,
        plan_sha256=outcome["plan_sha256"],
        plan_bytes=plan.stat().st_size,
        num_network_layers=outcome["num_network_layers"],
        parse_s=outcome["parse_s"],
        build_s=outcome["build_s"],
        peak_rss_bytes=outcome["peak_rss_bytes"],
    )


def _run(arguments: Sequence[str], stderr: Path, on_progress: OnProgress | None) -> tuple[int, int]:
    """Exit status (negative: the signal) and the largest resident memory that was reported."""
    peak = 0
    # -P: the script's own folder is not searched for modules, so that no file in it can shadow a library's
    with (
        stderr.open("wb") as errors,
        subprocess.Popen(  # nosec B603 # our own interpreter and module
            [sys.executable, "-P", *arguments], stdout=subprocess.PIPE, stderr=errors, text=True
        ) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                if line.startswith("{"):
                    event = json.loads(line)
                    peak = max(peak, event["peak_rss_bytes"])
                    if on_progress is not None:
                        on_progress(event["phase"], peak)
            return child.wait(), peak
        finally:
            if child.poll() is None:  # an interrupt, or the callback raised
                child.kill()


def tail(paths: Sequence[Path], num_lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of the logs, each cut to a readable length."""
    lines: list[str] = []
    for path in paths:
        if path.is_file():
            lines += path.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:]
    return "\n".join(f"  | {line[:300]}" for line in lines[-num_lines:])


def _crash(library: Library, onnx: Path, status: int, peak: int, logs: Sequence[Path]) -> ExportError:
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    memory = f"largest resident memory reported: {peak / 2**30:.1f} GiB"
    fix = (
        "free memory or use a machine with more (a build takes about 3 times the weights), then export again"
        if -status == signal.SIGKILL
        else "the log names the step: change that part of the graph, or use another library version"
    )
    return ExportError(
        f"the {library.target} {library.version} builder of {onnx.name} {how} ({memory}); "
        f"its log ends:\n{tail(logs)}",
        fix=fix,
    )


_FIXES = {
    "parse": "the graph uses what this library cannot import: replace these operators in the subject",
    "profile": "export the ONNX graph for the shapes that are built, or name them in the profile",
    "disk": "free disk space (an engine takes about as much as its weights), or give another --out",
    "write": "make the output folder writable, or give another --out",
}


def _failure(library: Library, onnx: Path, outcome: Mapping[str, Any], log: Path) -> ExportError:
    """The child's own account of why there is no engine."""
    kind, details = outcome["kind"], "\n".join(f"  {line}" for line in outcome["details"])
    name = f"{library.target} {library.version}"
    if kind == "build":
        hopeless = f"{name} built no engine from {onnx.name}:\n{details or '  (no error message)'}"
        fix = "the messages name the cause: a memory limit, a type the target lacks, or an unsupported shape"
        return ExportError(f"{hopeless}\n its log ends:\n{tail([log])}", fix=fix)
    problem = {
        "parse": f"{name} cannot import {onnx}:\n{details}",
        "profile": f"the profiles do not fit the graph {onnx.name}:\n{details}",
        "disk": f"the disk is full while the engine of {onnx.name} is written:\n{details}",
        "write": f"the engine of {onnx.name} cannot be written:\n{details}",
    }[kind]
    return ExportError(problem, fix=_FIXES[kind])
