"""The command that turns any model's clips into submissions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from engine.commands._app import app, console, print_line
from engine.words import command_line, counted

if TYPE_CHECKING:
    from bench.submission.prepare import Result


@app.command(
    epilog="Example: [cyan]retake prepare runs/first/chosen --dataset scenes/test --fps 8 --out clips[/]"
    "   then   [cyan]retake score clips --dataset scenes/test[/]"
)
def prepare(
    videos: Annotated[
        Path, typer.Argument(help="A folder of clips of any tool, or a run folder.", show_default=False)
    ],
    dataset: Annotated[Path, typer.Option(help="The benchmark: its descriptions.csv names the clips.")],
    fps: Annotated[int, typer.Option(help="Frames per second of the submission: 8, 16, 24 or 30.")],
    out: Annotated[Path, typer.Option(help="Folder for the clips. Inputs are never changed.")],
    prefix: Annotated[
        str,
        typer.Option(
            metavar="auto|keep|cut",
            help="Whether the first 3 s are the conditioning part. auto: cut what shows the dataset's clip.",
        ),
    ] = "auto",
    skip_seconds: Annotated[float | None, typer.Option(help="Cut this much at the start instead.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Resize. Default: as it is, less an odd row or column.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--map", help="CSV of file,generated_video_name, for names of your own.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace outputs that are there.")] = False,
) -> None:
    """Make valid submissions of any model's clips: exactly 5.000 s, H.264, even size, the right names.

    Files are matched by generated_video_name, by the benchmark's name of the scenario, or by the id in
    front (0001_...). A clip that is valid already keeps its bytes. Another frame rate is reached by taking
    the frame nearest in time, never by blending. Call again to go on after an interrupt. Status 1 when a
    clip failed or is missing.
    """
    from bench.submission.convert import make_settings
    from bench.submission.names import find_videos, match_names, read_map
    from bench.submission.prepare import prepare as prepare_clips
    from bench.submission.prepare import succeeded
    from engine.datasets.physics_iq import cases_of, conditioning_clips, read_descriptions
    from engine.settings.environment import usable_cores

    settings = make_settings(fps=fps, prefix=prefix, skip_s=skip_seconds, size=size)
    rows = read_descriptions(dataset)
    if table is None:
        found, others = find_videos(videos)
        matches = match_names(found, rows)
    else:
        matches, others = read_map(table, videos, rows), []
    cases = cases_of(rows)
    names = [row.output_name for row in cases]
    given = conditioning_clips(dataset, cases, fps)
    for warning in [*_others(others), *_rate_warnings(dataset, fps)]:
        print_line(warning, "yellow")
    with _bar(len(names)) as step:
        results = prepare_clips(
            matches, names, out, settings, given, force=force, workers=min(4, usable_cores()), progress=step
        )
    _summarize(results, out)
    good = sum(result.size is not None for result in results)
    print_line(f"{good} of {counted(len(names), 'clip is', 'clips are')} in {out}")
    if not succeeded(results):
        raise typer.Exit(1)
    print_line(f"score them with: {command_line('retake', 'score', out, '--dataset', dataset)}")


@contextmanager
def _bar(total: int) -> Iterator[Callable[[Result], None]]:
    """A bar on a terminal, a line for each clip elsewhere. An interrupt says how to go on."""
    columns = (TextColumn("clips"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("clips", total=total)

        def step(result: Result) -> None:
            bar.advance(task)
            if not console.is_terminal and result.action != "missing":
                print_line(f"{result.name}: {result.action}")

        try:
            yield step
        except KeyboardInterrupt:
            print_line("stopped; the same call goes on")
            raise typer.Exit(130) from None


def _summarize(results: Sequence[Result], out: Path) -> None:
    """A row for each way of treatment, then every clip that is not there, then what costs points."""
    ways = Counter(
        (result.action, result.notes, result.size) for result in results if result.size is not None
    )
    summary = Table("clips", "what", "size", "how", title=str(out))
    for (action, notes, size), count in sorted(ways.items(), key=lambda item: -item[1]):
        assert size is not None
        summary.add_row(str(count), action, f"{size[0]}x{size[1]}", Text("\n".join(notes)))
    if ways:
        console.print(summary)
    reasons: dict[tuple[str, ...], list[str]] = {}
    for result in results:
        if result.action == "failed":
            reasons.setdefault(result.notes, []).append(result.source.name if result.source else result.name)
    for notes, sources in reasons.items():
        print_line(f"failed: {', '.join(sources)}: {'; fix: '.join(notes)}", "red")
    missing = [result.name.removesuffix(".mp4") for result in results if result.action == "missing"]
    if missing:
        print_line(
            f"missing: {len(missing)} of {counted(len(results), 'case has', 'cases have')} no file: "
            f"{', '.join(missing)}",
            "red",
        )
    if any(" fps by the nearest frame" in note for result in results for note in result.notes):
        print_line(
            "the frame rate was changed, and the score depends on it: compare with clips of this rate only, "
            "and say so where you publish it",
            "yellow",
        )
    sizes = Counter(result.size for result in results if result.size is not None)
    if len(sizes) > 1:
        named = ", ".join(f"{size[0]}x{size[1]}: {count}" for size, count in sizes.most_common() if size)
        print_line(
            f"the clips have several sizes ({named}); the Verified card allows one: give --size", "yellow"
        )


def _others(names: Sequence[str]) -> list[str]:
    return [f"left out, as no videos: {', '.join(names)}"] if names else []


def _rate_warnings(dataset: Path, fps: int) -> list[str]:
    from engine.datasets.physics_iq import PUBLISHED_FPS, benchmark_tree, frame_rates

    testing = benchmark_tree(dataset) / "split-videos" / "testing"
    rates = frame_rates(testing)
    if fps in rates:
        return []
    published = (
        ""
        if fps in PUBLISHED_FPS
        else f"; the benchmark publishes {', '.join(map(str, PUBLISHED_FPS))} and no other"
    )
    return [
        f"{testing} has no {fps} FPS clips (found: {', '.join(map(str, rates)) or 'none'}), "
        f"without which these cannot be scored{published}"
    ]
