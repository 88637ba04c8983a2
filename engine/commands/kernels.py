"""`retake kernels`: what every attention kernel answers to a problem on this machine, and which would run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from engine.commands._app import app, console, print_line
from engine.commands._output import JsonFile, write_json
from engine.errors import ConfigError

if TYPE_CHECKING:
    from kernels.descriptors import AttentionProblem
    from kernels.dispatch import Verdict

SHAPE = "1x12x32760x128"


@app.command(epilog="Example: [cyan]retake kernels --shape 1x12x8190x128 --json kernels.json[/]")
def kernels(
    shape: Annotated[
        str,
        typer.Option(
            metavar="BxAxNxD",
            help="Batch, heads, tokens, head size; BxAxNxMxD with M keys for cross-attention.",
        ),
    ] = SHAPE,
    dtype: Annotated[str, typer.Option(help="bf16, fp16 or fp32.")] = "bf16",
    mask: Annotated[str, typer.Option(help="none or lengths.")] = "none",
    prefix: Annotated[
        int, typer.Option(min=0, help="Leading keys that sparse kernels keep exact: tokens of the prefix.")
    ] = 0,
    time: Annotated[bool, typer.Option("--time/--no-time", help="Time them; only on a GPU.")] = True,
    tune: Annotated[
        bool, typer.Option("--tune", help="Search tile sizes of our Triton kernels and keep them.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Say which attention kernels this machine supports, how exact and fast each is, and which would run.

    Tests each against a reference on small tensors and, on a GPU, times it at the given shape.
    """
    import torch

    from engine.settings.environment import cache_folder
    from kernels.descriptors import Target
    from kernels.dispatch import pick, survey

    target = Target.of(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    problem = _problem(shape, dtype, mask, prefix, target)
    timed = time and target.kind == "cuda"
    with console.status(f"testing the attention kernels on {problem}"):
        verdicts = survey(problem, timed=timed, cache=cache_folder() / "kernels" if tune else None)
    # Without times a GPU has no fastest kernel to name.
    chosen = pick(verdicts) if timed or target.kind == "cpu" else None
    _print(problem, verdicts, chosen)
    if json_file is not None:
        write_json(_document(problem, verdicts, chosen), json_file)


def _problem(shape: str, dtype: str, mask: str, prefix: int, target: Any) -> AttentionProblem:
    from kernels.descriptors import DTYPES, MASKS, AttentionProblem

    sizes = shape.lower().split("x")
    if len(sizes) not in (4, 5) or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise ConfigError(
            f"--shape {shape!r} is not batch x heads x tokens x head size",
            fix=f"give four whole numbers such as {SHAPE}, or five with the number of keys before the last",
        )
    for option, value, allowed in (("--dtype", dtype, DTYPES), ("--mask", mask, MASKS)):
        if value not in allowed:
            raise ConfigError(f"{option} {value!r} is unknown", fix=f"use one of: {', '.join(allowed)}")
    batch, heads, q_len, *kv_len, head_dim = map(int, sizes)
    if prefix > (kv_len or [q_len])[0]:
        raise ConfigError(
            f"--prefix {prefix} is more than the keys of --shape {shape}", fix="give fewer, or a longer shape"
        )
    return AttentionProblem(
        batch=batch,
        heads=heads,
        q_len=q_len,
        kv_len=kv_len[0] if kv_len else q_len,
        head_dim=head_dim,
        dtype=dtype,
        mask=mask,
        target=target,
        prefix=prefix,
    )


def _print(problem: AttentionProblem, verdicts: list[Verdict], chosen: Verdict | None) -> None:
    table = Table("", "kernel", "accuracy", title=f"attention {problem}")
    for title in ("error", "ms", "TFLOP/s"):
        table.add_column(title, justify="right")
    table.add_column("why not", overflow="fold")
    for verdict in verdicts:
        mark = Text("chosen", "bold green") if verdict is chosen else Text("" if verdict.reason else "ok")
        measured = verdict.test.errors if verdict.test is not None else None
        error = "" if measured is None else f"{measured.relative:.2g}"
        # Only without a mask is the number of operations known.
        rate = f"{problem.flops / verdict.ms / 1e9:.0f}" if verdict.ms and problem.mask == "none" else ""
        ms = "" if verdict.ms is None else f"{verdict.ms:.3f}"
        table.add_row(mark, verdict.name, verdict.accuracy, error, ms, rate, Text(verdict.reason or ""))
    console.print(table)
    print_line(
        "error: relative, on small tensors, against 64 bits; 8-bit and sparse kernels run only when asked for"
    )


def _document(
    problem: AttentionProblem, verdicts: list[Verdict], chosen: Verdict | None
) -> dict[str, object]:
    from kernels.timing import machine

    return {
        "problem": dataclasses.asdict(problem),
        "machine": machine(),
        "chosen": None if chosen is None else chosen.name,
        "kernels": [dataclasses.asdict(verdict) for verdict in verdicts],
    }
