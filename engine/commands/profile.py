"""The command that says where the time of a run went."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from engine.commands._app import app, console, execute, print_line
from engine.commands._options import ConfigFile, new_folder, with_settings
from engine.commands._output import JsonFile, write_json
from engine.errors import ConfigError
from engine.machine.phases import INSIDE
from engine.runs.folder import DATABASE
from engine.settings.config import load_config
from engine.words import counted

if TYPE_CHECKING:
    from engine.build.profiled import Profiled
    from engine.runs.profile import Profile

FEW = 2
"""Scenarios of a dataset that are run where no limit is given."""
MOST_ROWS = 12
"""Stages of a comparison that are shown."""


@app.command(epilog="Example: [cyan]retake profile runs/first --compare runs/part-1[/]")
@with_settings()
def profile(
    given: Mapping[str, object],
    config: ConfigFile = None,
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="RUN", help="Another run: where it spends other time.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Say where the time of a run went: latencies by stage, lanes, overlap, memory; or of a new run.

    Give a run folder, or a dataset: of that the first two scenarios are run with these settings, unless a
    limit is given.
    """
    from engine.build.profiled import profiled

    named = Path(str(given.get("dataset", "")))
    run = named if (named / DATABASE).is_file() else None
    if run is not None and (config is not None or given.keys() - {"dataset"}):
        raise ConfigError(
            f"{run} is a run that is over, which no setting changes", fix="leave the settings out"
        )
    found = profiled(_new_run(given, config) if run is None else run)
    _say(found)
    document = found.document()
    if compare is not None:
        other = profiled(compare)
        _require_ends(found, other)
        document["compared_with"] = other.document()
        _say_differences(found, other)
    write_json(document, json_file)


def _require_ends(*runs: Profiled) -> None:
    for one in runs:
        if not one.profile.num_scenarios:
            raise ConfigError(
                f"no scenario of {one.run} has ended, so that nothing can be said of a scenario there",
                fix="compare it once one has",
            )


def _new_run(given: Mapping[str, object], config: Path | None) -> Path:
    from engine.build.run import build_run

    loaded = load_config(
        config, {"limit": FEW, **given} if config is None else given, default_out=new_folder("profile")
    )
    execute(lambda: build_run(loaded))
    return loaded.out


def _say(found: Profiled) -> None:
    one = found.profile
    table = Table("lane", "stage", title="latency")
    for title in ("steps", "p50", "p95", "in all", "of its lane"):
        table.add_column(title, justify="right")
    for row in one.latencies:
        values = (str(row.num), _ms(row.p50_s), _ms(row.p95_s), f"{row.total_s:.2f} s", f"{row.share:.0%}")
        table.add_row(row.lane, row.stage, *values)
    console.print(table)
    _say_start(found.setup_s)
    _say_memory(found.memory)
    print_line(_pace(one))
    busy = ", ".join(f"{lane} {seconds:.1f} s" for lane, seconds in one.busy_s.items())
    print_line(f"lanes worked: {busy}")
    if one.launch_s:
        print_line("the host launched: " + ", ".join(f"{lane} {s:.1f} s" for lane, s in one.launch_s.items()))
    print_line(
        f"overlap: {one.efficiency:.0%} of its bound, the {one.bound_s:.1f} s of work of its busiest lane; "
        f"generation alone would take {one.alone_s:.1f} s"
    )
    print_line(f"timeline: {found.picture}")
    print_line(f"trace: {found.trace} opens in ui.perfetto.dev")


def _pace(one: Profile) -> str:
    if not one.num_scenarios:
        return f"none of {counted(one.num_unfinished, 'scenario')} ended in {one.wall_s:.1f} s"
    of_all = f"{one.num_scenarios} of " if one.num_unfinished else ""
    return (
        f"{of_all}{counted(one.num_scenarios + one.num_unfinished, 'scenario')} in {one.wall_s:.1f} s: "
        f"{one.seconds_per_scenario:.1f} s each, {one.gpu_seconds_per_scenario:.1f} s of the device"
    )


def _say_start(setup_s: Mapping[str, float]) -> None:
    """The phases before the first step; one inside another is set in."""
    if not setup_s:
        return
    table = Table("phase", title="start of the process that began the run")
    table.add_column("seconds", justify="right")
    for path, seconds in setup_s.items():
        *outer, name = path.split(INSIDE)
        table.add_row("  " * len(outer) + name, f"{seconds:.2f}")
    console.print(table)


def _say_memory(memory: tuple[Mapping[str, Any], ...]) -> None:
    if not memory or "parts" not in memory[-1]:
        return
    table = Table("part", title="memory of the last process")
    for title in ("planned", "measured", "error"):
        table.add_column(title, justify="right")
    for part in memory[-1]["parts"]:
        sizes = (f"{part[key] / 2**30:.2f} GiB" for key in ("planned_bytes", "measured_bytes"))
        table.add_row(part["part"], *sizes, f"{part['error']:+.0%}")
    console.print(table)


def _say_differences(first: Profiled, second: Profiled) -> None:
    from engine.runs.profile import compare

    print_line(f"{second.run} against {first.run}, a scenario")
    table = Table("lane", "stage")
    for title in ("p50", "", "steps", "", "seconds more"):
        table.add_column(title, justify="right")
    for row in compare(first.profile, second.profile)[:MOST_ROWS]:
        p50 = ["-" if s is None else _ms(s) for s in row.p50_s]
        steps = [f"{number:.1f}" for number in row.per_scenario]
        table.add_row(row.lane, row.stage, *p50, *steps, f"{row.seconds_per_scenario:+.2f}")
    console.print(table)
    print_line(_difference(first.profile, second.profile))


def _difference(first: Profile, second: Profile) -> str:
    return (
        f"{first.seconds_per_scenario:.1f} s a scenario, then {second.seconds_per_scenario:.1f} s; "
        f"overlap {first.efficiency:.0%} of its bound, then {second.efficiency:.0%}"
    )


def _ms(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"
