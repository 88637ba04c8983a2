"""TensorRT on the present card: build, parity, time against torch.compile, overlap; one JSON document.

`make gpu-acceptance` runs it. The engines could not be executed where this project was written, so this is
what a user's card has to show. A recipe that fails is a record with its reason, and the others go on. Beside
them INT8 attention, ours and comfy-kitchen's, is timed against the library's: which is faster, a card says.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.console import user_error
from bench.perf import attention_table
from engine.errors import RetakeError
from engine.runs.manifest import code_state, gpus, package_versions
from engine.settings.environment import cache_folder, offline
from export import generator_inputs, pipeline
from export.forms import DENSE
from export.spec import ExportError, recipe_of
from export.targets import tensorrt
from export.trt.library import find, is_installed
from export.verify import eager_side, verify
from kernels import dispatch
from kernels.descriptors import AttentionProblem, Target

WARM_UP, MEASURED = 5, 30
MIN_OVERLAP = 0.05
"""Share of the shorter of two workloads that must run beside the longer one, else streams are serialized."""

ATTENTIONS = ("sdpa_cudnn", "sdpa_flash", "triton_int8", "comfy_int8")
"""The library's, exact; ours and comfy-kitchen's, in INT8."""
ATTENTION_SIZES = ((12, 32760, 128), (12, 8190, 128))
"""Heads, tokens and head size of Wan2.1-1.3B at 480x832x81 and at a quarter of its pixels."""
ROUNDS = 20

Call = Callable[[], object]


def main() -> None:
    arguments = parse_arguments()
    offline()
    document = run(arguments)
    text = json.dumps(document, allow_nan=False)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(text + "\n", encoding="utf-8")
    print(f"written: {arguments.json}", file=sys.stderr)
    print(text)
    sys.exit(0 if document["passed"] else 1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.perf.gpu_acceptance", description=__doc__)
    parser.add_argument("--generator", default="demo", help="'demo' or a diffusers folder")
    parser.add_argument("--quant", default="fp16,fp8,fp8-attention,int8", help="recipes, separated by commas")
    parser.add_argument("--target", default="auto", help="auto, tensorrt or tensorrt-rtx")
    parser.add_argument("--shape", help="HEIGHTxWIDTHxFRAMES; default: the generator's own")
    parser.add_argument("--scenes", type=int, default=1, help="scenes to compare on")
    parser.add_argument("--out", type=Path, default=Path("exports"))
    parser.add_argument("--json", type=Path, default=Path("gpu_acceptance.json"))
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole document. ExportError where nothing can be tried at all."""
    capability = present_capability()
    target = choose_target(arguments.target, capability)
    records = []
    for name in arguments.quant.split(","):
        print(f"{target} {name}", file=sys.stderr)
        records.append(try_recipe(name, target, capability, arguments))
    return {
        "schema": 1,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "code": code_state(Path(__file__).resolve().parents[2]),
        "gpus": gpus(),
        "packages": package_versions(),
        "compute_capability": capability,
        "target": target,
        "generator": arguments.generator,
        "recipes": records,
        "attention": attention(),
        "passed": all(record["passed"] for record in records) and bool(records),
    }


def present_capability() -> int:
    if not torch.cuda.is_available():
        raise ExportError("torch sees no NVIDIA GPU", fix="run on the machine whose card is to be tested")
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def choose_target(asked: str, capability: int) -> str:
    """RTX where it is installed and knows the card, else full TensorRT."""
    if asked != "auto":
        return find(asked).target
    if is_installed("tensorrt-rtx") and capability in find("tensorrt-rtx").capabilities:
        return "tensorrt-rtx"
    if is_installed("tensorrt"):
        return "tensorrt"
    raise ExportError(
        f"neither tensorrt-rtx (which must know compute capability {capability}) nor tensorrt is installed",
        fix="pip install tensorrt-rtx on cards of 8.0, 8.6, 8.9 and 12.x, else pip install tensorrt",
    )


def attention(
    sizes: Sequence[tuple[int, int, int]] = ATTENTION_SIZES, rounds: int = ROUNDS
) -> list[dict[str, Any]]:
    """Rows of `attention_table` at each size: times, and error to the reference, or the reason why not. They
    inform and decide nothing, so none makes the acceptance fail."""
    target = Target.of(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    rows: list[dict[str, Any]] = []
    for heads, tokens, head_dim in sizes:
        problem = AttentionProblem(
            batch=1, heads=heads, q_len=tokens, kv_len=tokens, head_dim=head_dim,
            dtype="bf16", mask="none", target=target,
        )  # fmt: skip
        print(f"attention {problem}", file=sys.stderr)
        try:
            found = attention_table.table(problem, rounds, cache_folder() / "kernels", ATTENTIONS)
        except dispatch.failures() as error:  # such as a card without the memory for the reference
            reason = f"{type(error).__name__}: {error}"
            found = [{"problem": str(problem), "name": name, "reason": reason} for name in ATTENTIONS]
        for row in found:
            print(f"  {told(row)}", file=sys.stderr)
        rows += found
    return rows


def told(row: Mapping[str, Any]) -> str:
    """A row in words."""
    if "summary" not in row:
        return f"{row['name']}: not timed: {row['reason']}"
    return (
        f"{row['name']}: {row['summary']['median']:.3f} ms, {row['accuracy']}, "
        f"relative error {row['relative_error']:.4f}"
    )


def try_recipe(name: str, target: str, capability: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One recipe from calibration to overlap. What it raises becomes its record: the next one is tried."""
    try:
        return {"recipe": name, **measure(name, target, capability, arguments)}
    except (RetakeError, RuntimeError, AssertionError) as error:
        return {"recipe": name, "passed": False, "error": f"{type(error).__name__}: {error}"}


def request_of(
    name: str, target: str, capability: int, arguments: argparse.Namespace
) -> tuple[pipeline.Request, Any]:
    """What is exported, and the generator without weights."""
    source, made = generator_inputs.outline(arguments.generator)
    request = pipeline.Request(
        source=source,
        subject="wan_dit",
        target=target,
        recipe=recipe_of(name).name,
        profiles=generator_inputs.profiles_of(made, arguments.shape, (1,)),
        out=arguments.out,
        capabilities=(capability,) if target == "tensorrt-rtx" else (),
        device="cuda",
        form=generator_inputs.form_of(source, made, DENSE, "wan_dit", target),
    )
    pipeline.check(request)
    return request, made


def measure(name: str, target: str, capability: int, arguments: argparse.Namespace) -> dict[str, Any]:
    request, made = request_of(name, target, capability, arguments)
    scales = pipeline.scales_path(request) if pipeline.needs_scales(request) else None
    if scales is not None and not scales.is_file():
        seen = generator_inputs.calibrate(request, made, dataset=None, num_scenes=2)
        scales = pipeline.keep_scales(request, seen)
    artifact = pipeline.run(request, scales, lambda text, peak: print(f"  {text}", file=sys.stderr))[-1]
    started = time.perf_counter()
    engine = tensorrt.load_module(artifact.folder, caches=arguments.out / "caches")
    load_s = time.perf_counter() - started
    graphed = tensorrt.load_module(artifact.folder, caches=arguments.out / "caches", cuda_graph=True)
    subject = pipeline.subject_of(request, dtype=recipe_of(name).dtype)
    subject.module.cuda()
    inputs = example(subject.spec.inputs, subject.spec.profiles[0].sizes)
    started = time.perf_counter()
    engine(inputs)
    torch.cuda.synchronize()
    first_call_s = time.perf_counter() - started
    parity = compare(request, engine, arguments)
    timing = side_by_side(subject.module, inputs, engine, graphed)
    overlap = overlap_test(lambda: engine(inputs))
    same_output = bool(torch.equal(graphed(inputs)["velocity"], engine(inputs)["velocity"]))
    engine.close()
    graphed.close()
    return {
        "artifact": artifact.folder.name,
        "build": dict(artifact.details),
        "load_s": load_s,
        "first_call_s": first_call_s,
        "parity": parity,
        "timing_ms": timing,
        "overlap": overlap,
        "cuda_graph_gives_the_same": same_output,
        "passed": not parity["failures"] and overlap["passed"] and same_output,
    }


def example(tensors: Sequence[Any], sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Noise in every input; a mask of zeros hides nothing."""
    source = torch.Generator("cuda").manual_seed(0)
    made = {
        tensor.name: torch.randn(tensor.shape(sizes), generator=source, device="cuda") for tensor in tensors
    }
    made["text_mask"].zero_()
    made["timestep"].abs_().mul_(100)
    return made


def compare(request: pipeline.Request, engine: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """The engine against the eager module in fp32, on takes that calibration did not see."""
    exact = pipeline.subject_of(request, dtype="fp32")
    exact.module.cuda()
    forwards = generator_inputs.record(
        request, engine.spec, dtype="fp32", dataset=None, num_scenes=arguments.scenes, seed=1
    )
    moved = (tuple(tensor.cuda() for tensor in forward) for forward in forwards)
    return verify(engine.spec, request.recipe, eager_side(exact), engine, moved).record()


def side_by_side(
    module: nn.Module, inputs: Mapping[str, Tensor], engine: Any, graphed: Any
) -> dict[str, dict[str, float]]:
    """Eager, torch.compile and the engine in turn, so that a card that warms up slows all of them alike."""
    ordered = list(inputs.values())
    compiled = torch.compile(module)
    calls: dict[str, Call] = {
        "eager": lambda: module(*ordered),
        "torch_compile": lambda: compiled(*ordered),
        "engine": lambda: engine(inputs),
        "engine_cuda_graph": lambda: graphed(inputs),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for call in calls.values():
            for _ in range(WARM_UP):
                call()
        for _ in range(MEASURED):
            for name, call in calls.items():
                times[name].append(gpu_ms(call))
    return {name: spread(values) for name, values in times.items()}


def gpu_ms(call: Call) -> float:
    """On the calling stream, which the engine makes wait for its own: so its events bracket the engine."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def spread(times: Sequence[float]) -> dict[str, float]:
    """Median, 10th and 90th percentile, and how many."""
    ordered = sorted(times)
    tenth = len(ordered) // 10
    return {
        "median": statistics.median(ordered),
        "p10": ordered[tenth],
        "p90": ordered[-1 - tenth],
        "n": len(ordered),
    }


def overlap_test(call: Call) -> dict[str, Any]:
    """Whether other work runs beside the engine: both alone, then at once on two streams.

    The other work is many small GEMMs that leave most of the card free, as a critic's decoding does.
    """
    other = torch.cuda.Stream()
    small = torch.randn(512, 512, device="cuda", dtype=torch.float16)
    engine_ms = statistics.median(gpu_ms(call) for _ in range(WARM_UP))
    product_ms = statistics.median(gpu_ms(lambda: chain(small, 100)) for _ in range(WARM_UP)) / 100
    length = max(1, int(engine_ms / product_ms))
    alone_ms = statistics.median(gpu_ms(lambda: chain(small, length)) for _ in range(WARM_UP))
    together_ms = statistics.median(
        gpu_ms(lambda: beside(call, lambda: chain(small, length), other)) for _ in range(WARM_UP)
    )
    hidden = hidden_share(engine_ms, alone_ms, together_ms)
    return {
        "engine_ms": engine_ms,
        "other_ms": alone_ms,
        "together_ms": together_ms,
        "hidden_share": hidden,
        "passed": hidden >= MIN_OVERLAP,
    }


def hidden_share(one_ms: float, other_ms: float, together_ms: float) -> float:
    """What part of the shorter work the longer one hid: 1 when it cost nothing, 0 when they ran in turn."""
    return (one_ms + other_ms - together_ms) / min(one_ms, other_ms)


def chain(matrix: Tensor, length: int) -> Tensor:
    out = matrix
    for _ in range(length):
        out = torch.mm(out, matrix)
    return out


def beside(call: Call, work: Call, other: torch.cuda.Stream) -> None:
    """Both enqueued before either is waited for; the calling stream then waits for both."""
    current = torch.cuda.current_stream()
    other.wait_stream(current)
    with torch.cuda.stream(other):
        work()
    call()
    current.wait_stream(other)


if __name__ == "__main__":
    try:
        main()
    except RetakeError as error:
        sys.exit(user_error(error))
