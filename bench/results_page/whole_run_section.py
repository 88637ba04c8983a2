"""The section of whole runs: variants side by side, what each part is worth, why the device's lane waited.

Measures nothing and holds no number: every figure comes from the file or is a ratio of two in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.results_page import markdown as md
from bench.results_page.result_files import ResultFile
from bench.results_page.speed_sections import PLOTS
from bench.results_page.waterfall import Bar, Scale, waterfall
from engine.words import counted

TITLE = "How fast is a whole run?"
RATIOS = {
    "exact_over_script": "exact against the user's script",
    "fast_over_script": "fast against the user's script",
    "fast_over_best_stock": "fast against the best stock script",
    "patches_over_script": "fast with patches against the user's script",
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
COST_HEADER = (
    "first scenario s",
    "later ones s",
    "lanes overlap %",
    "first take s",
    "peak allocated GiB",
    "peak reserved GiB",
    "GPU busy %",
    "W",
    "SM MHz",
)
AN_HOUR = Scale(unit="an hour", rising=True)
CAUSES = {
    "working_s": "steps at their fastest",
    "slowed_s": "steps slowed",
    "no_job_s": "no take begun",
    "not_launched_s": "next step not launched",
    "not_started_s": "launched, not begun",
    "before_first_s": "before the first step",
    "after_last_s": "after the last step",
}
"""Parts of a run's time as its generate lane spent it (engine/runs/idle.py)."""
TOLD_WAITS = 3


def whole_run(file: ResultFile) -> md.Section:
    """A ratio that the file lacks, since a variant was not measured, is left out."""
    document = file.document
    summary: Mapping[str, float] = document["summary"]
    ratios = [f"{md.times(summary[name])} {words}" for name, words in RATIOS.items() if name in summary]
    steps, parts = document.get("steps", ()), document["parts"]
    plots = _plots(file.name, steps)
    return md.Section(
        title=TITLE,
        headline="; ".join(ratios[:4]) or "no two variants can be compared",
        body=md.paragraphs(
            _settings(document["settings"]),
            md.bullets([*ratios, *_others(summary)]),
            *(f"![What each part of a whole run is worth]({PLOTS}/{name})" for name in plots),
            _worth(steps),
            md.table([*HEADER, *COST_HEADER], [_row(part) for part in parts], num_text_columns=2),
            md.bullets([_check(check) for check in document["checks"]]),
            _waits([part for part in parts if part.get("idle")]),
            *(_start(part) for part in parts if not part["warm_up"] and "process_to_first_take_s" in part),
        ),
        plots=plots,
    )


def _start(part: Mapping[str, Any]) -> str | None:
    """From the start of the process to its first take on disk: the phases, then what its lanes did.

    None for a script, and for files of before the phases were noted.
    """
    before: Mapping[str, float] = part["seconds_before"]
    if "hash" not in before or "first_denoise_step_s" not in part:
        return None
    rows = [
        ["&nbsp;" * 4 * path.count("/") + path.rpartition("/")[2], md.ms(s)] for path, s in before.items()
    ]
    left_s = part["process_to_window_s"] - sum(s for path, s in before.items() if "/" not in path)
    rows += [
        ["between the phases", md.ms(left_s)],
        ["to the end of the first denoise step", md.ms(part["first_denoise_step_s"])],
        ["to the first take on disk", md.ms(part["first_take_s"] - part["first_denoise_step_s"])],
        ["**all**", md.ms(part["process_to_first_take_s"])],
    ]
    return md.paragraphs(
        f"Where the seconds before the first take of {_named(part)} went:", md.table(["phase", "s"], rows)
    )


def _plots(name: str, steps: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """None where no two steps were measured."""
    bars = [
        Bar(name=step["name"], adds=step["adds"], value=3600 / step["seconds"], stock=step["stock"])
        for step in _known(steps)
    ]
    if len(bars) < 2:
        return {}
    title = "A whole run: scenarios an hour"
    return {f"waterfall-{md.slug(name)}.svg": waterfall(title, bars, {}, AN_HOUR)}


def _known(steps: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The measured steps; one behind others that were not has their names and their worth with its own."""
    found: list[Mapping[str, Any]] = []
    waiting: list[Mapping[str, Any]] = []
    for step in steps:
        if "seconds" not in step:
            waiting += [] if step["stock"] else [step]
            continue
        joined = [*waiting, step]
        what = {key: ", ".join(one[key] for one in joined) for key in ("name", "adds")}
        found.append({**step, **(what if waiting else {})})
        waiting = []
    return found


def _worth(steps: Sequence[Mapping[str, Any]]) -> str | None:
    """Each step against the one before it that was measured; and which were not."""
    known = _known(steps)
    if not steps:
        return None
    rows = []
    for before, step in zip([None, *known], known, strict=False):
        rate, gain = 3600 / step["seconds"], md.NONE
        if before is not None:
            gain = f"{rate - 3600 / before['seconds']:+.1f}"
        ratio = None if before is None else before["seconds"] / step["seconds"]
        rows.append([step["name"], step["adds"], md.ms(rate), gain, md.times(ratio), md.ms(step["seconds"])])
    header = ("part", "what it is", "scenarios per hour", "of them by it", "against before", "s per scenario")
    missing = [f"{step['name']} ({', '.join(step['of'])})" for step in steps if step.get("missing")]
    return md.paragraphs(
        md.table(header, rows, num_text_columns=2) if rows else None,
        f"Not measured warm: {', '.join(missing)}; the worth of such a part is in the one behind it."
        if missing
        else None,
    )


def _waits(parts: Sequence[Mapping[str, Any]]) -> str | None:
    """Of each run where its time went, seen from the lane of the generator; and its longest waits."""
    if not parts:
        return None
    rows, told = [], []
    for part in parts:
        idle = part["idle"]
        rows.append(
            [_named(part), md.ms(idle["makespan_s"]), *(md.ms(idle["parts_s"][key]) for key in CAUSES)]
        )
        if "each_s" in part:  # one job at a time: the lane waits for all others
            continue
        for wait in idle["longest_waits"][:TOLD_WAITS]:
            others = "; ".join(f"{name} {md.ms(s)} s" for name, s in wait["meanwhile_s"].items())
            told.append(
                f"{_named(part)}: {md.ms(wait['seconds'])} s at {md.ms(wait['at_s'])} s, "
                f"{CAUSES[wait['cause'] + '_s']}; meanwhile {others or 'no other lane worked'}"
            )
    return md.paragraphs(
        "Where the seconds of the generator's lane went:",
        md.table(["variant", "makespan s", *CAUSES.values()], rows),
        md.paragraphs("Its longest waits:", md.bullets(told)) if told else None,
    )


def _named(part: Mapping[str, Any]) -> str:
    return part["variant"] if part["warm_up"] else f"{part['variant']}, no warm-up"


def _settings(settings: Mapping[str, Any]) -> str:
    takes = settings["loops"] + 1
    patch = settings.get("patch_tokens")  # older files do not have it
    shorter = f" ({patch} a critique that is a patch)" if patch else ""
    return (
        f"Models of size {settings['size']}, {counted(settings['steps'], 'denoise step')}, a critic in "
        "format "
        f"{settings['quantization']} that writes {settings['reply_tokens']} tokens a reply{shorter}; of each "
        f"scenario one plan, {counted(takes, 'take')} and {counted(takes, 'critique')}."
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
    first, *later = (None if part["warm_up"] else part.get("each_s")) or [None]
    return [
        _named(part),
        part["says"],
        str(done) if part["complete"] else f"{done} of {asked}",
        md.ms(part.get("seconds_per_scenario")),
        md.ms(part.get("scenarios_per_hour")),
        md.ms(part.get("tokens_per_critique_second")),
        md.ms(first),
        md.ms(sum(later) / len(later) if later else None),
        md.whole(None if share is None else 100 * share),
        md.ms(part.get("first_take_s" if part["warm_up"] else "process_to_first_take_s")),
        md.gib(part.get("peak_allocated_bytes")),
        md.gib(part.get("peak_reserved_bytes")),
        *(md.whole(samples.get(name, {}).get("mean")) for name in ("gpu_percent", "power_w", "sm_clock_mhz")),
    ]


def _check(check: Mapping[str, Any]) -> str:
    found = check["found"]
    if isinstance(found, Mapping):
        found = "; ".join(f"{name} {_listed(value)}" for name, value in found.items())
    return f"{check['name']}: {'yes' if check['holds'] else '**no**'} ({found})"


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
