"""`retake export`: a generator as ONNX graph, TensorRT engines or native package; and the check of one.

Parse, call, print. What is made, and in which order, is decided by `export.pipeline`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from engine.commands._app import app, console, print_line
from engine.commands._options import names
from engine.commands._output import Commands, result_file
from engine.errors import ConfigError
from engine.settings.environment import exports_folder, offline
from engine.words import command_line, counted
from export.forms import Form
from export.spec import ExportError

if TYPE_CHECKING:
    from export.artifacts.store import Artifact
    from export.parity import Parity
    from export.pipeline import Request


class _Verbs(TyperGroup):
    """What is no verb is the generator of `build`: `retake export demo` is `retake export build demo`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_verb = not args or args[0] in self.commands or args[0] in ("-h", "--help")
        return super().parse_args(ctx, args if is_verb else ["build", *args])


exports = Commands(
    cls=_Verbs,
    no_args_is_help=True,
    help="""Export a generator: ONNX, TensorRT, TensorRT for RTX, or a package of native code.

    `retake export GENERATOR ...` is `retake export build GENERATOR ...`, whose help has the options.
    """,
    epilog="Example: [cyan]retake export demo --target onnx --quant int8 --out exports[/]",
)
app.add_typer(exports, name="export")

Generator = Annotated[str, typer.Argument(help="'demo' (bundled) or a diffusers folder.")]
Loras = Annotated[
    list[str] | None, typer.Option("--lora", metavar="FILE[:STRENGTH]", help="Merged first; repeatable.")
]
Dataset = Annotated[
    Path | None,
    typer.Option(help="Scenes whose trajectories are recorded. Default: those of retake demo."),
]
Device = Annotated[str, typer.Option(help="Where the module runs: auto, cpu or cuda.")]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder of the artifacts; --denoiser TARGET finds them there. Default: in the cache."),
]


@exports.command(epilog="Example: [cyan]retake export demo --target onnx --quant int8 --out exports[/]")
def build(
    generator: Generator,
    target: Annotated[str, typer.Option(help="onnx, tensorrt, tensorrt-rtx or aoti.")],
    quant: Annotated[str, typer.Option(help="bf16, fp16, fp8, fp8-attention, int8, int4 or nvfp4.")] = "bf16",
    attention: Annotated[
        str,
        typer.Option(
            help="dense, or triton_prefix_sparse for a package: of the keys behind the prefix a share is "
            "exact, and the others are means. A prefix of its own is the model's, and told by it."
        ),
    ] = "dense",
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Of the rest of an onnx graph: fp32 is the fastest in ONNX Runtime. Default: by --quant."
        ),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(metavar="HxWxFRAMES", help="Pixels. Default: the generator's own video.")
    ] = None,
    cc: Annotated[
        str, typer.Option(metavar="CC,...", help="Compute capabilities of tensorrt-rtx: 89 is 8.9.")
    ] = "",
    out: Out = None,
    subject: Annotated[str, typer.Option(help="wan_dit, cosmos3, vae_decoder or text_encoder.")] = "wan_dit",
    rows: Annotated[
        str, typer.Option(metavar="N,...", help="Rows of guidance at a time: 1, 2, or 1,2.")
    ] = "1",
    lora: Loras = None,
    scales: Annotated[
        Path | None,
        typer.Option(help="Magnitudes of activations. Default: bundled, or recorded once and kept in --out."),
    ] = None,
    dataset: Dataset = None,
    scenes: Annotated[int, typer.Option(help="Scenes to record for calibration.", min=1)] = 2,
    device: Device = "auto",
    low_memory: Annotated[
        bool, typer.Option("--low-memory", help="Stream weights into the graph; for models beyond the RAM.")
    ] = False,
    weight_streaming: Annotated[
        bool, typer.Option("--weight-streaming", help="Engines whose weights need not all lie on the GPU.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be made.")] = False,
) -> None:
    """Build what is not in --out yet: calibration, ONNX graph, one gated engine for each capability.

    An artifact is kept under a key of weights, recipe, scales, shapes, target, library, card and LoRAs; the
    same call costs nothing the second time. A build whose gates fail keeps nothing.
    """
    offline()  # before the model libraries are imported
    from engine.denoise.lora import read_loras
    from engine.machine.device import resolve_device
    from export import generator_inputs, pipeline
    from export.artifacts import places
    from export.trt.builder import BuildOptions

    source, made = generator_inputs.outline(generator)
    request = pipeline.Request(
        source=source,
        subject=subject,
        target=target,
        recipe=quant,
        profiles=generator_inputs.profiles_of(made, shape, _rows(rows)),
        out=out or exports_folder(),
        capabilities=_capabilities(cc),
        loras=read_loras(lora or ()),
        options=BuildOptions(weight_streaming=weight_streaming),
        device=resolve_device(device),
        low_memory=low_memory,
        dtype=dtype,
        form=generator_inputs.form_of(source, made, attention, subject, target),
    )
    pipeline.check(request)
    given = _known_scales(request, scales)
    _print_plan(request, given)
    if dry_run:
        return
    with _progress() as step:
        if given is None and pipeline.needs_scales(request):
            step(f"recording {counted(scenes, 'scene')} and observing activations", None)
            observed = generator_inputs.calibrate(request, made, dataset=dataset, num_scenes=scenes)
            given = pipeline.keep_scales(request, observed)
        artifacts = pipeline.run(request, given, step)
    try:
        places.note(exports_folder(), request.out)
    except ExportError as error:  # what was made stands
        print_line(f"`--denoiser {target}` will not find it: {error}", "yellow")
    _print_artifacts(artifacts, f"In {request.out}")


@exports.command(epilog="Example: [cyan]retake export verify exports/wan_dit-int8-onnx-*[/]")
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An artifact, as `retake export list` says.")],
    generator: Annotated[str, typer.Option(help="The model it was made of.")] = "demo",
    lora: Loras = None,
    dataset: Dataset = None,
    scenes: Annotated[int, typer.Option(help="Scenes to compare on.", min=1)] = 1,
    device: Device = "auto",
    files_only: Annotated[
        bool, typer.Option("--files-only", help="Check digests and gates; execute nothing.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", callback=result_file, help="Write the comparison there.")
    ] = None,
) -> None:
    """Check an artifact: every byte, then its outputs against the eager module on takes of real scenes.

    What came out, and where, is noted beside it. A graph is also run with the other session options of ONNX
    Runtime, and those that break it are named. Status 1 when an output is out of tolerance.
    """
    offline()  # before the model libraries are imported
    from engine.machine.device import resolve_device
    from export import parity
    from export.artifacts import verified
    from export.artifacts.store import read_artifact, require_intact

    artifact = read_artifact(folder)
    require_intact(artifact)
    print_line(f"{folder.name}: {counted(len(artifact.files), 'file is', 'files are')} intact")
    if files_only:
        _print_artifacts([artifact], "Not executed")
        return
    with _progress() as step:
        found = parity.compare(
            artifact,
            generator,
            lora or (),
            dataset=dataset,
            num_scenes=scenes,
            device=resolve_device(device),
            on_progress=step,
        )
    _print_parity(found)
    try:
        verified.note(artifact, found.record())
    except ExportError as error:  # somebody else's store; the comparison stands
        print_line(f"not noted: {error}", "yellow")
    if json_file is not None:
        json_file.write_text(json.dumps(found.record(), indent=1), encoding="utf-8")
        print_line(f"written: {json_file}")
    if found.verification.failures:
        raise typer.Exit(1)


@exports.command("list", epilog="Example: [cyan]retake export list --out exports[/]")
def list_artifacts(
    out: Out = None,
) -> None:
    """Show what is stored, and where it was verified; without --out in every folder that one was put into."""
    from export.artifacts.places import places
    from export.artifacts.store import Store

    for place in places(exports_folder()) if out is None else [out]:
        store = Store(place)
        _print_artifacts(store.list(), f"In {store.root}")
        for error in store.damaged():
            print_line(str(error), "red")


def _known_scales(request: Request, given: Path | None) -> Path | None:
    """The file the user named, else the one that an earlier call kept, else the bundled one if it fits."""
    from export import pipeline
    from export.generator_inputs import bundled_scales

    if given is not None and not given.is_file():
        raise ConfigError(f"--scales {given} is no file", fix="leave it out to record trajectories")
    if given is not None or not pipeline.needs_scales(request):
        return given
    kept = pipeline.scales_path(request)
    return kept if kept.is_file() else bundled_scales(request)


@contextmanager
def _progress() -> Iterator[Callable[[str, int | None], None]]:
    """What is being done and the largest memory so far: a live line, or one line for each elsewhere."""
    with console.status("starting") as status:

        def step(text: str, peak_bytes: int | None) -> None:
            memory = "" if peak_bytes is None else f", peak memory {peak_bytes / 2**30:.2f} GiB"
            status.update(f"{text}{memory}")
            if not console.is_terminal and peak_bytes is None:
                print_line(text)

        yield step


def _print_plan(request: Request, scales: Path | None) -> None:
    from export import pipeline

    form = "" if request.form.is_plain else f", {request.form}"
    table = Table("step", title=f"{request.subject} as {request.recipe}{form}")
    table.add_column("artifact", overflow="fold")
    table.add_column("state")
    if pipeline.needs_scales(request):
        state = "to be recorded" if scales is None else "there"
        table.add_row("scales", str(scales or pipeline.scales_path(request)), state)
    for entry in pipeline.plan(request, scales):
        state = "there" if entry.present else f"to be made, about {entry.need_bytes / 1e9:.2f} GB"
        table.add_row(entry.name, entry.folder.name if entry.folder else "named by the scales", state)
    console.print(table)
    for profile in request.profiles:
        sizes = ", ".join(f"{name} {size}" for name, size in profile.sizes.items())
        print_line(f"profile {profile.name}: {sizes}")


def _print_artifacts(artifacts: Sequence[Artifact], title: str) -> None:
    """A line with the whole name, to be copied, and one with what it took."""
    print_line(f"{title}:")
    for artifact in artifacts:
        details = artifact.details
        facts = [f"{artifact.num_bytes / 1e9:.3f} GB"]
        facts.append(f"built in {details.get('build_s') or _total(details.get('seconds', 0.0)):.1f} s")
        if "peak_rss_bytes" in details:
            facts.append(f"peak memory {details['peak_rss_bytes'] / 2**30:.2f} GiB")
        if "gates" in details:
            facts.append(f"{counted(details['gates'], 'gate')} passed")
        if not (form := Form(**artifact.key["spec"].get("form", {}))).is_plain:
            facts.append(str(form))
        if details.get("summary"):
            facts.append(_kernels(details["summary"][0]))
        print_line(artifact.folder.name, "bold")
        print_line(f"  {', '.join(facts)}")
        for line in (*details.get("fusions", ()), *_verified_where(artifact)):
            print_line(f"  {line}")
    if not artifacts:
        print_line("  nothing yet; `retake export demo --target onnx --quant fp8` makes one")


def _kernels(summary: dict[str, Any]) -> str:
    gemms = ", ".join(f"{count} {kind}" for kind, count in summary["matrix_products"].items())
    inputs = "/".join(summary["fused_attention_inputs"])
    fused = f"{summary['fused_attention']} fused attention {inputs}"
    return f"{counted(summary['rows'], 'kernel')}: {fused}, {gemms}"


def _total(seconds: Any) -> float:
    """Of stages, or of stages for each profile."""
    return sum(map(_total, seconds.values())) if isinstance(seconds, dict) else float(seconds)


def _verified_where(artifact: Artifact) -> list[str]:
    """A line for each place where it was compared with its module."""
    from export.artifacts.verified import verifications

    try:
        found = verifications(artifact)
    except ExportError as error:
        return [str(error)]
    if not found:
        return [f"not verified yet: {command_line('retake', 'export', 'verify', artifact.folder)}"]
    return [
        f"{'FAILED' if entry['failures'] else 'verified'} on {', '.join(entry['place'].values())}: "
        f"{counted(entry['num_forwards'], 'forward')}, {entry['inputs_are']}, "
        + ", ".join(f"{output['name']} off by {output['relative']:.2g}" for output in entry["outputs"])
        for entry in found
    ]


def _print_parity(found: Parity) -> None:
    result = found.verification
    table = Table(
        "output",
        "max |difference|",
        "mean",
        "relative",
        "cosine",
        title=f"{result.subject} as {result.recipe} against eager, {counted(result.num_forwards, 'forward')}",
    )
    for output in result.outputs:
        values = (output.max_absolute, output.mean_absolute, output.relative, output.cosine)
        table.add_row(output.name, *(f"{value:.4g}" for value in values))
    console.print(table)
    allowed = result.tolerance
    print_line(f"allowed: relative {allowed.relative:.4g}, cosine {allowed.cosine:.4g}")
    for failure in result.failures:
        print_line(failure, "red")
    print_line(f"on {', '.join(found.place.values())}; inputs: {found.inputs_are}")
    for one in result.inputs:
        spread = f"mean {one.mean:.3g}, deviation {one.deviation:.3g}, largest {one.max_absolute:.3g}"
        print_line(f"  {one.name}: {spread}")
    for other in found.others:
        if other.problem:
            print_line(f"with {other.options} it breaks: {other.problem}", "yellow")
    fitting = [other.options for other in found.others if not other.problem]
    if fitting:
        print_line(f"within tolerance on one forward as well: {'; '.join(fitting)}")


def _capabilities(text: str) -> tuple[int, ...]:
    """89,120 or 8.9,12.0"""
    found = [part.replace(".", "") for part in names(text)]
    wrong = [part for part in found if not part.isdecimal()]
    if wrong:
        raise ConfigError(f"--cc {wrong[0]!r} is no compute capability", fix="give such as 89,120")
    return tuple(dict.fromkeys(map(int, found)))


def _rows(text: str) -> tuple[int, ...]:
    found = names(text)
    if not found or not set(found) <= {"1", "2"}:
        raise ConfigError(f"--rows {text!r}", fix="give 1, 2, or 1,2")
    return tuple(dict.fromkeys(map(int, found)))
