"""The commands over model files: what one is, and a name for those that make a model together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from engine.commands._app import app, console, print_line
from engine.commands._output import Commands, JsonFile, Yes, confirm, write_json
from engine.settings.environment import cache_folder, models_folder, offline
from engine.words import command_line

group = Commands(no_args_is_help=True, help="Say what model files are, and name models of several files.")
app.add_typer(group, name="models")

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the model is called.", show_default=False)]


@group.command(epilog="Example: [cyan]retake models check wan2.2_ti2v_5B_fp16.safetensors[/]")
def check(
    path: Annotated[
        Path, typer.Argument(help="A weight file, the folder of a model, or its name.", show_default=False)
    ],
    json_file: JsonFile = None,
) -> None:
    """Say what a file or folder is, how its weights are stored, what it lacks, and how to go on."""
    offline()
    from engine.build.examined import examine
    from engine.build.libraries import without_unused
    from engine.runs.digests import FileDigests

    with without_unused(), console.status("reading headers"):
        found = examine(path, FileDigests(cache_folder() / "digests").digest)
    print_line(f"{path}: {found.what}")
    if found.stored:
        print_line(f"stored: {found.stored}")
    if found.weights:
        counts = ", ".join(f"{count / 1e6:.1f} M {kind}" for kind, count in found.weights.items())
        print_line(f"weights: {counts}")
    for fault in found.faults:
        print_line(f"{fault.problem}\n  fix: {fault.fix}", "red")
    if found.use and found.ok:
        print_line(f"use it: {found.use}")
    write_json({**asdict(found), "ok": found.ok}, json_file)
    if not found.ok:
        raise typer.Exit(1)


@group.command(
    epilog="Example: [cyan]retake models add wan2.2_ti2v_5B_fp16.safetensors wan --vae wan2.2_vae.safetensors"
    " --text-encoder umt5_xxl_fp8_e4m3fn_scaled.safetensors --tokenizer tokenizer[/]"
)
def add(
    path: Annotated[
        Path, typer.Argument(help="The transformer's file, or a model folder.", show_default=False)
    ],
    name: Name,
    transformer_2: Annotated[
        Path | None,
        typer.Option("--transformer-2", help="Of two experts the one for the last steps: a file."),
    ] = None,
    vae: Annotated[
        Path | None, typer.Option("--vae", help="Its autoencoder: a file, or a library's folder.")
    ] = None,
    text_encoder: Annotated[
        Path | None, typer.Option("--text-encoder", help="Its text encoder: a file, or a library's folder.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="Its tokenizer: the folder, or tokenizer.json.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Make a folder of links under a name for --generator or --critic. Nothing is copied or converted."""
    offline()
    from engine.build import added
    from engine.build.libraries import without_unused
    from engine.runs.digests import FileDigests

    given: Mapping[str, Path | None] = {
        "transformer_2": transformer_2,
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
    }
    parts = {kind: place for kind, place in given.items() if place is not None}
    with without_unused(), console.status("reading headers, and digests of all files"):
        made = added.add(path, name, parts, FileDigests(cache_folder() / "digests").digest)
    for kind, what in made.parts.items():
        print_line(f"{kind.replace('_', ' ')}: {what}")
    print_line(f"{len(made.links)} links in {made.folder}")
    print_line(f"use it: {command_line('retake', 'run', 'CLIPS', f'--{made.kind}', name)}")
    write_json({**asdict(made), "name": name}, json_file)


@group.command("list", epilog="Example: [cyan]retake models list[/]")
def list_models(json_file: JsonFile = None) -> None:
    """Show the models that were added, and whether the files that they are made of are as they were."""
    from engine.errors import RetakeError
    from engine.settings.model_names import added_models
    from engine.weights.linked import read_links, require_unchanged

    table, documents = Table("", "name", "links", "state"), []
    for folder in added_models():
        try:
            require_unchanged(folder)
            state, links = "as it was", read_links(folder)
        except RetakeError as error:
            state, links = error.problem, {}
        mark = Text("ok", "green") if links else Text("no", "bold red")
        table.add_row(mark, folder.name, str(len(links)), Text(state, overflow="fold"))
        documents.append({"name": folder.name, "folder": folder, "state": state, "links": len(links)})
    if documents:
        console.print(table)
    else:
        print_line(f"no model was added; they would lie in {models_folder()}")
    write_json(documents, json_file)


@group.command("remove", epilog="Example: [cyan]retake models remove wan --yes[/]")
def remove_model(name: Name, yes: Yes = False) -> None:
    """Remove a folder of links. The files that they lead to stay where they are."""
    from engine.build import added

    added.require_added(name)
    if confirm(f"remove the links of {name}?", yes):
        added.remove(name)
        print_line(f"removed {models_folder() / name}; its files are where they were")
