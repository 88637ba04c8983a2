"""The commands that run the loop: run, resume, and plan, which says what a run would need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from engine.commands._app import app, console, execute, finish, print_line
from engine.commands._options import ConfigFile, RunFolder, new_folder, with_settings
from engine.commands._output import DryRun, JsonFile, write_json
from engine.errors import ModelError, StoreError
from engine.settings.config import BUNDLED, MACHINE, NO_DATASET, DenoiseConfig, RunConfig, load_config
from engine.settings.notation import is_hub_name
from engine.settings.presets import DenoiseSettings
from engine.words import counted

MAX_REASONS = 3  # of unusable scenarios, in words

if TYPE_CHECKING:
    from engine.machine.cards import Card

Moved = Annotated[
    str | None,
    typer.Option(
        "--denoiser", metavar="DIR", help="The present place of the artifact that the run was started with."
    ),
]


AcceptChanges = Annotated[
    bool,
    typer.Option(
        "--accept-changes",
        help="Go on with changed weights, settings, texts or versions, and note them in the manifest.",
    ),
]

RemakeTakes = Annotated[
    bool,
    typer.Option(
        "--remake-takes",
        help="Make takes again whose video is missing or changed, and those that followed from them.",
    ),
]

Gpus = Annotated[
    int | None,
    typer.Option(
        "--gpus",
        metavar="N",
        min=1,
        help="N engines, each on a GPU of its own, share the scenarios; it needs Ray.",
        rich_help_panel=MACHINE,
    ),
]

CpuWorkers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="With --device cpu: N engines that share the CPU, to try out what --gpus does.",
        rich_help_panel=MACHINE,
    ),
]

RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Place these engines on the Ray cluster there, on all GPUs that are free unless --gpus says how "
        "many; default: on this machine.",
        rich_help_panel=MACHINE,
    ),
]

Download = Annotated[
    bool,
    typer.Option(
        "--download",
        help="Fetch named models that are not here from the hub.",
    ),
]


@app.command(
    epilog="Example: "
    "[cyan]retake run scenes/test --loops 1 --steps 8 --first-prompt brief --out runs/first[/]"
)
@with_settings()
def run(
    given: Mapping[str, object],
    config: ConfigFile = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check settings, models, clips and memory, say what would run, write nothing."
        ),
    ] = False,
    gpus: Gpus = None,
    workers: CpuWorkers = None,
    ray: RayAddress = None,
    download: Download = False,
    json_file: JsonFile = None,
) -> None:
    """Run the refinement loop over a dataset: plan, generate, critique, rewrite, generate again, choose."""
    loaded = _load(config, given)
    if dry_run:
        _say_needs(loaded, timed=False, json_file=json_file)
        return
    _fetch(loaded, download)
    if (gpus, workers, ray) == (None, None, None):
        from engine.build.run import build_run

        finish(loaded.out, execute(lambda: build_run(loaded)), json_file)
        return
    from engine.cluster.pool import Workers
    from engine.cluster.run import build_cluster_run

    several = Workers(gpus=gpus, cpus=workers, address=ray)
    finish(loaded.out, execute(lambda: build_cluster_run(loaded, several)), json_file)


@app.command(epilog="Example: [cyan]retake resume runs/first[/]")
def resume(
    folder: RunFolder,
    denoiser: Moved = None,
    accept_changes: AcceptChanges = False,
    remake_takes: RemakeTakes = False,
    dry_run: DryRun = False,
    gpus: Gpus = None,
    workers: CpuWorkers = None,
    ray: RayAddress = None,
    json_file: JsonFile = None,
) -> None:
    """Go on with a run that was stopped or killed; finished attempts are kept, failed scenarios retried.

    Weights, settings, texts, prefixes and versions must be those that the run was started with.
    """
    if dry_run:
        _say_rest(folder, json_file)
        return
    how: dict[str, Any] = {
        "denoiser": denoiser,
        "accept_changes": accept_changes,
        "remake_takes": remake_takes,
    }
    if (gpus, workers, ray) == (None, None, None):
        from engine.build.run import resume_run

        finish(folder, execute(lambda: resume_run(folder, **how)), json_file)
        return
    from engine.cluster.pool import Workers
    from engine.cluster.run import resume_cluster_run

    several = Workers(gpus=gpus, cpus=workers, address=ray)
    finish(folder, execute(lambda: resume_cluster_run(folder, several, **how)), json_file)


def _say_rest(folder: Path, json_file: Path | None) -> None:
    from engine.runs.listing import summary_of

    found = summary_of(folder)
    if found.fault is not None:
        raise StoreError(found.fault, fix="see `retake runs list` for runs that can be read")
    pending = found.num_scenarios - found.num_done - found.num_failed
    takes = counted(found.num_takes, "take is", "takes are")
    scouts = f" and {counted(found.num_scouts, 'scout')}" if found.num_scouts else ""
    print_line(
        f"{pending} pending and {found.num_failed} failed of {counted(found.num_scenarios, 'scenario')} "
        f"would be run, {takes} there{scouts}"
    )
    write_json(asdict(found), json_file)


@app.command(
    epilog="Example: [cyan]retake plan scenes/test --loops 1 --steps 8[/]   or, for the memory of a card: "
    '[cyan]retake plan --gpu "RTX 4090"[/]'
)
@with_settings()
def plan(
    given: Mapping[str, object],
    config: ConfigFile = None,
    timed: Annotated[bool, typer.Option("--time/--no-time", help="Load the models and time them.")] = True,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu", metavar="NAME", help="Plan for a card that need not be here, such as RTX 4090; no time."
        ),
    ] = None,
    download: Download = False,
    json_file: JsonFile = None,
) -> None:
    """Say what a run with these settings would need: memory part by part, and time at most.

    What does not fit is changed as the run would change it, and told with what that saves and costs. The time
    is taken on a clip of the dataset; memory alone, with --no-time or --gpu, needs none.
    """
    from engine.machine import cards

    card = None if gpu is None else cards.find(gpu)
    loaded = _load(config, given, needs_dataset=False)
    _fetch(loaded, download)
    _say_needs(loaded, timed=timed, json_file=json_file, card=card)


def _load(config: Path | None, given: Mapping[str, object], *, needs_dataset: bool = True) -> RunConfig:
    """The settings. A dataset without texts is refused here, before the seconds that model libraries take."""
    from engine.build.opened_dataset import open_dataset

    loaded = load_config(config, given, default_out=new_folder("run"), needs_dataset=needs_dataset)
    if loaded.dataset == NO_DATASET:
        return loaded
    open_dataset(loaded.dataset)
    if not _is_simulated(loaded.dataset):
        _say_what_they_know(loaded)
    return loaded


def _fetch(loaded: RunConfig, wanted: bool) -> None:
    """What is not here, if the user asked for that; said before it begins."""
    from engine.build import hub
    from engine.build.model_folders import find_critic, find_generator

    for find, name in ((find_generator, loaded.generator.name), (find_critic, loaded.critic.name)):
        if not wanted or Path(name).is_dir() or not is_hub_name(name):
            continue
        try:
            find(name)
        except ModelError:  # not here, or not whole
            repo, size = hub.repository(name), hub.describe(name)
            print_line(f"fetching {repo} ({size}) into {hub.cache()}: {hub.command(name)}", "yellow")
            hub.download(name)


def _is_simulated(root: Path) -> bool:
    """Whether `retake scenes` rendered it: the truth of each scene lies beside the benchmark's tree."""
    return any((folder / "truth").is_dir() for folder in (root, root.absolute().parent))


def _say_what_they_know(loaded: RunConfig) -> None:
    names = {"generator": loaded.generator.name, "critic": loaded.critic.name}
    bundled = [part for part, name in names.items() if name == BUNDLED]
    if bundled:
        print_line(
            f"bundled {' and '.join(bundled)}: made for simulated scenes only, those of `retake scenes`. "
            "What is made or judged of real footage will be wrong; "
            f"give {' and '.join(f'--{part} DIR' for part in bundled)} for that",
            "yellow",
        )


def _say_needs(loaded: RunConfig, *, timed: bool, json_file: Path | None, card: Card | None = None) -> None:
    from engine.build.needs import plan_run

    needs = plan_run(loaded, timed=timed, card=card)
    header, *rows = needs.memory.table()
    table = Table(*header, title="memory")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    again = f", and {needs.num_again} again" if needs.num_again else ""
    print_line(
        f"planned for preset {_preset(needs.denoise)}, denoise steps of a take: {needs.num_steps}{again}"
    )
    for line in needs.told:
        print_line(line)
    for change in needs.changed:
        print_line(f"changed to fit: {change}", "yellow")
    if needs.num_scenarios is None:
        print_line("of no dataset: memory does not depend on its clips")
    else:
        print_line(f"{counted(needs.num_scenarios, 'scenario')}, {len(needs.refused)} of them unusable")
    for scenario_id, reason in islice(needs.refused.items(), MAX_REASONS):
        print_line(f"{scenario_id}: {reason}", "yellow")
    if (more := len(needs.refused) - MAX_REASONS) > 0:
        print_line(f"and {more} more; --json FILE has the reason of each", "yellow")
    if needs.time is not None:
        print_line(needs.time.describe())
    write_json(needs.document() | {"preset": _preset(needs.denoise)}, json_file)


def _preset(denoise: DenoiseConfig) -> str:
    """ "fast", or "fast with linear, vae" where parts of it are given."""
    given = [part.name for part in fields(DenoiseSettings) if getattr(denoise, part.name) is not None]
    return denoise.preset + (f" with {', '.join(given)}" if given else "")
