"""The sections of quality: what speed costs, the bundled models, the scorer's exactness, the selectors.

Measures nothing and holds no number: every figure comes from the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bench.results_page import markdown as md
from bench.results_page import selector_tables
from bench.results_page.reliability import reliability_plot
from bench.results_page.result_files import ResultFile
from bench.results_page.speed_sections import PLOTS
from bench.results_page.waterfall import Bar, Scale, waterfall
from engine.words import counted

ARMS = {
    "frozen": "the last frame of the prefix, held",
    "extrapolated": "its motion, continued",
    "first_take": "first take",
    "plan_prompt": "take of the plan's prompt",
    "chosen": "take that the loop chose",
    "oracle": "best take by the score itself (a bound, not a result)",
}
PROBABILITY = "probability that the run tells"
NO_MODEL = ("frozen", "extrapolated")
POINTS = Scale(unit="points", rising=True, ratios=False)  # a score is no amount
GROUPS = {
    "by_category": "category",
    "by_simple": "scenes",
    "by_failure": "failure that they invite",
    "by_kind": "kind",
}
"""Of scenes: what they are grouped by. Simple and failures as the benchmark's paper has them."""
PAIRS = {
    "plan_minus_first": "Take of the plan's prompt minus first take",
    "chosen_minus_plan": "Chosen take minus that of the plan's prompt",
}
"""Differences within scenarios beside that of chosen and first take."""
CRITIC = {
    "verdict_accuracy": "verdicts that are right",
    "balanced_accuracy": "the same, acceptable and unacceptable takes weighed equally",
    "true_attributes": "attributes that are right",
    "true_attributes_plan": "attributes of the plan that are right",
    "unreadable": "replies that could not be read",
}
CONTROLS = {
    "true_takes": "verdicts on true continuations",
    "planted_takes": "verdicts on planted wrong physics",
    "swapped_takes": "verdicts on a take of another scene",
}


def denoiser_quality(file: ResultFile) -> md.Section:
    """Every optimization alone and each preset against the exact one."""
    title = "What does speed cost in quality"
    title += ", of another generator?" if file.document.get("of") else "?"
    return _compared(file, title=title, base="exact")


def export_quality(file: ResultFile) -> md.Section:
    """Every exported form against the module it was made of."""
    return _compared(file, title="What does an exported denoiser cost in quality?", base="eager")


def _compared(file: ResultFile, *, title: str, base: str) -> md.Section:
    document = file.document
    header = ["setting", "Verified (95 %)", f"minus {base} (95 %)", "Original", "PSNR dB", "relative error"]
    rows = [
        [
            row["name"],
            md.interval(row.get("score")),
            md.interval(row.get("difference"), digits=2, sign="+"),
            md.two(row.get("physics_iq")),
            md.ms(_middle(row.get("psnr_db"))),
            md.small(_middle(row.get("relative_error"))),
            md.ms(row.get("ms_per_take")),
            md.ms(row.get("steps")),
        ]
        for row in document["rows"]
    ]
    first = document["rows"][0].get("settings", {}) if document["rows"] else {}
    settings = [
        f"**{row['name']}**: {', '.join(changed)}"
        for row in document["rows"]
        if (changed := _changed(row.get("settings", {}), first))
    ]
    not_run = [f"{name}: {reason}" for name, reason in document.get("not_run", {}).items()]
    n = document.get("num_scenarios")
    whose = document.get("of") or "the bundled generator"
    count = f"{counted(n, 'held-out scenario')} of {whose}, same seeds." if n else None
    return md.Section(
        title=title,
        headline=_price(document["rows"], base),
        body=md.paragraphs(
            count,
            md.table([*header, "ms per take", "steps"], rows),
            md.paragraphs("Settings that differ from the first row's:", md.bullets(settings))
            if settings
            else None,
            md.paragraphs("Not run:", md.bullets(not_run)) if not_run else None,
        ),
    )


def demo_quality(file: ResultFile) -> md.Section:
    """The bundled models on held-out scenes."""
    document, critic = file.document, file.document.get("critic", {})
    arms = [
        [label, md.interval(document[key]), md.two(document[key].get("physics_iq"))]
        for key, label in ARMS.items()
        if key in document
    ]
    known = [key for key in ARMS if key in document and key != "oracle"]
    groups = [
        md.table([label, "n", *(ARMS[key] for key in known), "chosen minus first"], rows)
        for key, label in GROUPS.items()
        if (rows := _rows_of(document.get(key, {}), known))
    ]
    gain = document.get("chosen_minus_first")
    words = f"{counted(document['n'], 'scenario')}, {document.get('num_takes', '?')} takes."
    if document.get("num_pending"):
        lacking = counted(document["num_pending"], "more scenario is", "more scenarios are")
        words += f" The run is not finished: {lacking} not in it."
    if gain:
        words += f" Chosen take minus first take, paired: {md.interval(gain, digits=2, sign='+')}."
    for key, label in PAIRS.items():
        if key in document:
            words += f" {label}: {md.interval(document[key], digits=2, sign='+')}."
    replies = _replies(critic)
    if "num_truly_acceptable" in critic:
        words = f"{words} {counted(critic['num_truly_acceptable'], 'take is', 'takes are')} truly acceptable."
    plots = _arms_plot(file.name, document)
    scored = critic.get("by_case_score", {})
    calibrated = critic.get("calibrated", {})
    reliable = {
        **reliability_plot(file.name, scored),
        **reliability_plot(f"{file.name}-calibrated", calibrated, PROBABILITY),
    }
    return md.Section(
        title="How good are the bundled models?",
        headline=f"chosen take {md.interval(document.get('chosen'))} Verified, first take "
        f"{md.interval(document.get('first_take'))}",
        body=md.paragraphs(
            words,
            *(f"![What each step of the loop is worth]({PLOTS}/{name})" for name in plots),
            md.table(["take", "Verified (95 %)", "Original"], arms),
            *groups,
            md.table([f"critic, {critic.get('num_critiques', '?')} replies", "share"], replies)
            if replies
            else None,
            _worth_of_score(scored, calibrated),
            *(f"![How far the critic's score can be believed]({PLOTS}/{name})" for name in reliable),
        ),
        plots={**plots, **reliable},
    )


def _rows_of(groups: Mapping[str, Any], arms: Sequence[str]) -> list[list[str]]:
    """A group of scenes with its arms and what its loop gained."""
    return [
        [
            name,
            str(found["n"]),
            *(md.interval(found.get(arm)) for arm in arms),
            md.interval(found.get("chosen_minus_first"), sign="+"),
        ]
        for name, found in groups.items()
    ]


def _replies(critic: Mapping[str, Any]) -> list[list[str]]:
    """What share of the critic's replies is right, in which respect; nothing where that was not measured."""
    replies = [
        [label, md.percent(critic[key])] for key, label in CRITIC.items() if critic.get(key) is not None
    ]
    if faults := critic.get("faults"):
        takes = counted(faults["num"], "take that is", "takes that are")
        label = f"faults named right, of {takes} not acceptable"
        replies.append([label, md.share(faults["fault_accuracy"])])
    controls = critic.get("controls", {})
    replies += [
        [f"{label} ({counted(controls['n'], 'scene')})", md.percent(controls[key])]
        for key, label in CONTROLS.items()
        if key in controls
    ]
    return replies


def _worth_of_score(scored: Mapping[str, Any], calibrated: Mapping[str, Any]) -> str | None:
    """What the critic's score says of the benchmark's; None where that was not measured."""
    if not scored:
        return None
    shares = [
        ["verdicts right, both kinds of takes weighed equally", md.percent(scored["balanced_accuracy"])],
        [
            "the same, of takes more than ten points from the threshold",
            md.percent(scored["balanced_accuracy_sure"]),
        ],
        ["correlation with the case score within a scene", md.two(scored["within_scene"])],
        ["calibration error of its score, points", md.ms(scored["calibration_error"])],
        [
            "the same of the probability that a run tells, which is fitted on tuning scenes",
            md.ms(calibrated.get("calibration_error")),
        ],
    ]
    head = f"critic against a case score of {scored['threshold']:g}, {counted(scored['num'], 'take')}"
    return md.table([f"{head}, {scored['num_acceptable']} acceptable", "value"], shares)


def _arms_plot(name: str, document: Mapping[str, Any]) -> dict[str, str]:
    """A bar for each way to answer a scene, from nothing to the loop; nothing where arms are missing."""
    shown = [key for key in ARMS if key != "oracle" and key in document]
    if len(shown) < 2:
        return {}
    bars = [
        Bar(
            name=ARMS[key],
            adds=f"95 %: {' to '.join(md.ms(bound) for bound in document[key]['ci95'])}",
            value=document[key]["mean"],
            stock=key in NO_MODEL,
        )
        for key in shown
    ]
    limits = {"oracle": document["oracle"]["mean"]} if "oracle" in document else {}
    title = f"Physics-IQ Verified score of {counted(document['n'], 'held-out simulated scene')}"
    return {f"waterfall-{md.slug(name)}.svg": waterfall(title, bars, limits, POINTS)}


def scoring(file: ResultFile) -> md.Section:
    """Our scorer against the official tool: the same numbers, and the time."""
    document = file.document
    found = document["comparisons"]
    cases = Counter(entry["subject"]["official"] for entry in found)
    rows = []
    for official, count in cases.items():
        mine = [entry for entry in found if entry["subject"]["official"] == official]
        numbers = [max(entry["numbers_difference"], entry["own_csv_difference"]) for entry in mine]
        rows.append(
            [
                official,
                str(count),
                str(sum(entry["text_identical"] for entry in mine)),
                md.small(max(entry["columns_difference"] for entry in mine)),
                md.small(max(numbers)),
                str(sum(_same(entry) for entry in mine)),
            ]
        )
    header = ["official tool", "submissions", "CSV the same bytes", "largest difference in a CSV"]
    header += ["largest difference in an aggregate", "scores equal as printed"]
    largest = md.small(document["largest_columns_difference"])
    headline = f"{counted(len(found), 'comparison')} with the official tool, largest difference {largest}"
    timing = document.get("timing")
    if timing:
        headline += (
            f"; {timing['times_faster_cold']:.2f} times faster, {timing['times_faster_warm']:.2f} warm"
        )
    return md.Section(
        title="Does the scorer give the official numbers, and how fast?",
        headline=headline,
        body=md.paragraphs(
            f"{len(document.get('datasets', []))} made datasets; tolerance of a CSV column "
            f"{md.small(document['tolerances']['columns'])}, of an aggregate "
            f"{md.small(document['tolerances']['numbers'])}.",
            md.table(header, rows),
            _timing(timing) if timing else None,
        ),
    )


def selectors(file: ResultFile) -> md.Section:
    """The table that the suite itself makes."""
    document = file.document
    name, found = next(iter(document["sets"].items()))
    # Every row of the table, for the best one of them would have been picked on the scenes that measure it.
    shares = [
        f"{selector_tables.label_of(chooser, document)} "
        f"{selector_tables.share(found['choosers'][chooser]['share'])}"
        for chooser in selector_tables.shown(document)
    ]
    headline = f"{name.replace('_', ' ')}, share of the oracle's gain: {', '.join(shares)}"
    return md.Section(
        title="How well do selectors choose?",
        headline=headline,
        body=selector_tables.markdown(document).rstrip("\n"),
    )


def _price(rows: list[Mapping[str, Any]], base: str) -> str:
    priced = [
        row for row in rows if row["name"] != base and (row.get("difference") or {}).get("mean") is not None
    ]
    if not priced:
        return f"{counted(len(rows), 'setting')}"
    worst = min(priced, key=lambda row: row["difference"]["mean"])
    return (
        f"{counted(len(priced), 'setting')}; the dearest is {worst['name']}, "
        f"{md.interval(worst['difference'], digits=2, sign='+')} points against {base}"
    )


def _timing(timing: Mapping[str, Any]) -> str:
    per_view = timing["median_wall_s_per_view"]
    rows = [
        [
            name,
            md.ms(per_view[name]),
            md.times(timing.get(f"times_faster_{name}")),
            md.times(timing.get(f"times_less_cpu_{name}")),
            md.gib(timing.get("peak_rss_bytes", {}).get(name)),
        ]
        for name in per_view
    ]
    header = ["run", "s per view, median", "faster", "less CPU time", "peak GiB"]
    return md.paragraphs(
        f"{timing.get('num_views', '?')} views, ours in {timing.get('our_processes', '?')} processes, "
        f"the official tool in {timing.get('official_processes', '?')}.",
        md.table(header, rows),
    )


def _same(entry: Mapping[str, Any]) -> bool:
    pairs = [pair for pair in (entry["physics_iq"], entry["physics_iq_verified"]) if pair is not None]
    return all(len({None if value is None else round(value, 2) for value in pair}) == 1 for pair in pairs)


def _middle(value: object) -> float | None:
    """Of a summary its median or mean; a plain number as it is."""
    if isinstance(value, Mapping):
        found = value.get("median", value.get("mean"))
        return None if found is None else float(found)
    return float(value) if isinstance(value, (int, float)) else None


def _changed(settings: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """Every setting that is not the base's, as "name value"."""
    return [f"{key} {_plain(value)}" for key, value in settings.items() if base.get(key) != value]


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
