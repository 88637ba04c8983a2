"""The section on the seconds of `retake demo`, on a GPU and on two cores.

Measures nothing and holds no number: every figure comes from the file.
"""

from __future__ import annotations

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile

TITLE = "How long does the demo take?"
HEADER = ("on", "first run s", "each run after it s", "scenarios", "takes", "mean score")


def demo_seconds(file: ResultFile) -> md.Section:
    """A row a device, every run in it; the aims beside what was reached."""
    summary, aims = file.document["summary"], file.document["aims"]
    rows = [
        [
            "the GPU" if device == "gpu" else f"{file.document['cores']} cores of the CPU",
            md.ms(runs[0]["seconds"]),
            ", ".join(md.ms(run["seconds"]) for run in runs[1:]) or md.NONE,
            str(runs[0]["scenarios"]),
            str(runs[0]["takes"]),
            md.ms(runs[0]["mean_score"]),
        ]
        for device, runs in file.document["runs"].items()
        if runs
    ]
    reached = [[name, md.ms(value), md.ms(aims.get(name))] for name, value in summary.items()]
    return md.Section(
        title=TITLE,
        headline=_headline(summary),
        body=md.paragraphs(
            md.table(HEADER, rows),
            md.table(["summary", "measured", "aim"], reached),
        ),
    )


def _headline(summary: dict[str, float]) -> str:
    told = f"{md.ms(summary['gpu_warm_s'])} s on a GPU" if "gpu_warm_s" in summary else "no warm run on a GPU"
    if "cpu_over_gpu" in summary:
        told += f", {md.times(summary['cpu_over_gpu'])} as fast as on two cores"
    return told
