"""The commands over what is kept between runs, all of which can be made again."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table

from engine.commands._app import app, console, print_line
from engine.commands._output import Commands, DryRun, JsonFile, Yes, confirm, in_units, write_json
from engine.errors import ConfigError, StoreError, unknown_name
from engine.settings.environment import cache_folder
from engine.words import counted

group = Commands(no_args_is_help=True, help="Look after what is kept between runs.")
app.add_typer(group, name="cache")

COMPILED: Final = "compiled"
PARTS: Final = {
    COMPILED: "code that torch has compiled: minutes of the first run of a model",
    "digests": "digests of model files: seconds of each start",
    "exports": "artifacts of retake export: up to hours each",
    "kernels": "which kernel is the fastest here: a minute of a first run",
    "references": "what the scorer needs of reference clips: most of a first scoring",
    "results": "scored cases: the rest of it",
}
"""Folder -> what is in it, and what it saves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    name: str
    folder: Path
    num_bytes: int
    num_files: int


@group.command("list", epilog="Example: [cyan]retake cache list[/]")
def list_cache(json_file: JsonFile = None) -> None:
    """Show what is kept, where, and what it takes on the disk."""
    parts = [_look(name) for name in PARTS]
    print_line(str(cache_folder()))  # whole, where a title would wrap with its table
    table = Table("part", "files", "size", "what it is, and what it saves")
    for part in parts:
        table.add_row(part.name, str(part.num_files), in_units(part.num_bytes), PARTS[part.name])
    console.print(table)
    documents = [
        {"name": part.name, "folder": part.folder, "files": part.num_files, "bytes": part.num_bytes}
        for part in parts
    ]
    write_json(documents, json_file)


@group.command("clear", epilog="Example: [cyan]retake cache clear references results --yes[/]")
def clear_cache(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PART",
            help=f"Of {', '.join(PARTS)}.",
            show_default=False,
            autocompletion=lambda incomplete: [name for name in PARTS if name.startswith(incomplete)],
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All parts.")] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Remove parts of what is kept; it is made again when it is needed."""
    if everything == bool(names):
        raise ConfigError("name the parts to clear, or --all", fix=f"use some of: {', '.join(PARTS)}")
    for name in names or ():
        if name not in PARTS:
            raise unknown_name("part of the cache", name, PARTS)
    parts = [_look(name) for name in (PARTS if everything else dict.fromkeys(names or ()))]
    for part in parts:
        print_line(f"{part.folder}: {counted(part.num_files, 'file')}, {in_units(part.num_bytes)}")
    if dry_run or not confirm("remove them?", yes):
        return
    for part in parts:
        _clear(part)
    print_line(f"{in_units(sum(part.num_bytes for part in parts))} freed")


def _look(name: str) -> _Part:
    folder = cache_folder() / name
    sizes = [path.lstat().st_size for path in folder.rglob("*") if path.is_file()]
    return _Part(name=name, folder=folder, num_bytes=sum(sizes), num_files=len(sizes))


def _clear(part: _Part) -> None:
    if not part.folder.exists() and not part.folder.is_symlink():
        return
    if part.folder.is_symlink():
        raise StoreError(f"{part.folder} is a link", fix="clear the folder that it leads to yourself")
    if part.name == COMPILED:
        from engine.machine import compiled

        if not compiled.clear(part.folder):
            raise StoreError(f"{part.folder} is used by a run", fix="wait for the run to end, or stop it")
        return
    shutil.rmtree(part.folder)
