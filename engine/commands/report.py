"""The command that writes a run as a page."""

from __future__ import annotations

from engine.commands._app import app, print_line
from engine.commands._options import RunFolder


@app.command(epilog="Example: [cyan]retake report runs/first[/]")
def report(folder: RunFolder) -> None:
    """Write the run as one HTML page: videos, prompts, critiques, scores, timeline."""
    from engine.report.write import write_report
    from engine.runs.watch_page import page_of

    print_line(f"report: {write_report(folder)}")
    page = page_of(folder)
    if page is not None:
        print_line(f"watch: {page}")
