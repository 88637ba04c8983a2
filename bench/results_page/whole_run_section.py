"""The section of whole runs: variants side by side, the ratios, and whether all did the same work.

Measures nothing and holds no number: every figure comes from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile

TITLE = "How fast is a whole run?"
RATIOS = {
    "exact_over_script": "exact against the user's script",
    "fast_over_script": "fast against the user's script",
    "fast_over_best_stock": "fast against the best stock script",
    "patches_over_script": "fast with critiques as patches against the user's script",
    "fastest_over_script": "fastest against the user's script",
    "exact_overlap_over_sequential": "overlap against one job at a time, exact",
    "fast_overlap_over_sequential": "overlap against one job at a time, fast",
    "fast_over_script_cold": "fast against the user's script, first scenarios of a process",
}
HEADER = (
    "variant",
    "what it is",
    "scenarios",
    "s per scenario",
    "scenarios per hour",
    "tokens/s of the critic",
)
COST_HEADER = ("lanes overlap %", "first take s", "peak allocated GiB", "GPU busy %", "W", "SM MHz")


def whole_run(file: ResultFile) -> md.Section:
    """A ratio that the file lacks, since a variant was not measured, is left out."""
    document = file.document
    summary: Mapping[str, float] = document["summary"]
    ratios = [f"{md.times(summary[name])} {words}" for name, words in RATIOS.items() if name in summary]
    return md.Section(
        title=TITLE,
        headline="; ".join(ratios[:4]) or "no two variants can be compared",
        body=md.paragraphs(
            _settings(document["settings"]),
            md.bullets([*ratios, *_others(summary)]),
            md.table([*HEADER, *COST_HEADER], [_row(part) for part in document["parts"]], num_text_columns=2),
            md.bullets([_check(check) for check in document["checks"]]),
        ),
    )


def _settings(settings: Mapping[str, Any]) -> str:
    takes = settings["loops"] + 1
    patch = settings.get("patch_tokens")  # older files do not have it
    shorter = f" ({patch} a critique that is a patch)" if patch else ""
    return (
        f"Models of size {settings['size']}, {settings['steps']} denoise steps, a critic in format "
        f"{settings['quantization']} that writes {settings['reply_tokens']} tokens a reply{shorter}; of each "
        f"scenario one plan, {takes} takes and {takes} critiques."
    )


def _others(summary: Mapping[str, float]) -> list[str]:
    told = []
    if (whole := summary.get("fast_makespan_over_generation")) is not None:
        told.append(f"fast takes {whole:.2f} times as long as its takes alone, without the critic")
    if (first := summary.get("first_take_s_warm")) is not None:
        told.append(f"first take on disk {md.ms(first)} s after the start of the process, caches filled")
    return told


def _row(part: Mapping[str, Any]) -> list[str]:
    samples: Mapping[str, Mapping[str, float]] = part["gpu_samples"]
    done, asked = part["num_done"], part["num_asked"]
    share = part.get("overlap_share")
    return [
        part["variant"] if part["warm_up"] else f"{part['variant']}, no warm-up",
        part["says"],
        str(done) if part["complete"] else f"{done} of {asked}",
        md.ms(part.get("seconds_per_scenario")),
        md.ms(part.get("scenarios_per_hour")),
        md.ms(part.get("tokens_per_critique_second")),
        md.whole(None if share is None else 100 * share),
        md.ms(part.get("first_take_s" if part["warm_up"] else "process_to_first_take_s")),
        md.gib(part.get("peak_allocated_bytes")),
        *(md.whole(samples.get(name, {}).get("mean")) for name in ("gpu_percent", "power_w", "sm_clock_mhz")),
    ]


def _check(check: Mapping[str, Any]) -> str:
    found = check["found"]
    if isinstance(found, Mapping):
        found = "; ".join(f"{name} {_listed(value)}" for name, value in found.items())
    return f"{check['name']}: {'yes' if check['holds'] else '**no**'} ({found})"


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
