"""One loop beside itself with a setting changed, on the same scenes: what each change is worth.

Runs of `retake run` over one dataset, each finished; the first is the base. What is compared is the take that
each chose, by its case score, paired by scene and by category; what differs is read from the runs' settings.
Whether a setting becomes a default is decided on tuning scenes, and told with the held-out ones.

    retake run held --first-prompt plan --out base
    retake run held --first-prompt plan --finish-restarts 2 --out again
    python -m bench.quality.loop_variants --run base --variant again --out loop_variants.json
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, cast

from bench.analysis.scored_run import read_finished
from bench.console import page_console, user_error
from bench.files import write_json
from bench.quality.demo_quality import published_manifest, without_folders
from bench.quality.take_comparison import paired
from bench.scoring.physics_iq import score_folder
from bench.scoring.view_metrics import Case
from engine.datasets.physics_iq import read_descriptions
from engine.demo.scenes.seeds import part_of
from engine.errors import ConfigError, RetakeError
from engine.runs.changes import changes
from engine.runs.manifest import MANIFEST, read_manifest
from engine.settings.config import RunConfig
from engine.settings.environment import offline
from engine.types import Outcome
from engine.words import command_line

KIND: Final = "loop_variants"
PLACES: Final = ("dataset", "out", "limit", "shard")
"""Settings of a run that are none of its loop."""
NOTES: Final = (
    "Scores are Physics-IQ Verified case scores in percent, of the take that each loop chose. Intervals: "
    "95 %, percentile bootstrap over scenes; differences are paired by scene.",
    "Seconds are not told: the runs may have shared their machine with other work, each with other work.",
)


def changed(base: RunConfig, other: RunConfig) -> dict[str, Any]:
    """The settings of `other` that are not the base's, by name; of a folder or file its name alone."""
    found: dict[str, Any] = {}
    for entry in fields(base):
        before, after = getattr(base, entry.name), getattr(other, entry.name)
        if entry.name in PLACES or before == after:
            continue
        if not is_dataclass(after):
            found[entry.name] = after
            continue
        then, now = asdict(before), asdict(cast(Any, after))
        found |= {f"{entry.name}.{key}": value for key, value in now.items() if value != then[key]}
    told: dict[str, Any] = without_folders(found)
    return told


def measure(base: Path, variants: Sequence[Path]) -> dict[str, Any]:
    """The document. ConfigError where a variant is the base again, or has other texts; ScorerError where one
    is not finished."""
    config, outcomes, _ = read_finished(base)
    expected, texts = _cases(base, config, outcomes), _texts(config)
    rows = []
    for path in variants:
        other, of_other, _ = read_finished(path)
        settings = changed(config, other)
        if not settings:
            raise ConfigError(f"{path} has the settings of {base}", fix="give runs that differ in some")
        if _texts(other) != texts:
            raise ConfigError(f"{path} is of other texts than {base}", fix="give runs over one dataset")
        own = _cases(path, other, of_other)
        rows.append(
            {
                "name": ", ".join(f"{key} = {value}" for key, value in settings.items()),
                "settings": settings,
                "also_differs": _also_differs(base, path),
                "left_out": sorted((outcomes.keys() | of_other.keys()) - (own.keys() & expected.keys())),
                **difference(own, expected),
                "takes_a_scenario": _takes_a_scenario(of_other),
            }
        )
    return {
        "schema": 1,
        "kind": KIND,
        "base": {
            "num_scenarios": len(outcomes),
            "scenes": scenes_of({case.scene for case in expected.values()}),
            "takes_a_scenario": _takes_a_scenario(outcomes),
        },
        "rows": rows,
        "manifest": published_manifest(base),
        "notes": NOTES,
    }


def scenes_of(names: Iterable[str]) -> dict[str, int]:
    """How many scenes are of which set of simulated ones; "other" are not simulated."""
    return dict(Counter(part_of(name) or "other" for name in sorted(names)))


def difference(own: Mapping[str, Case], expected: Mapping[str, Case]) -> dict[str, Any]:
    """Over the scenarios that both have, by id. ConfigError where there is none."""
    common = own.keys() & expected.keys()
    if not common:
        raise ConfigError("the runs have no scenario in common", fix="give runs over one dataset")
    by_category = {}
    for category in sorted({own[key].category for key in common}):
        of_it = {key: own[key] for key in common if own[key].category == category}
        found = paired(of_it, expected)
        by_category[category] = {"n": found["num_scenarios"]} | found["difference"]
    return paired(own, expected) | {"by_category": by_category}


def _cases(run: Path, config: RunConfig, outcomes: Mapping[str, Outcome]) -> dict[str, Case]:
    """Of the take that the loop chose, by scenario id, whatever the user chose since."""
    scored = score_folder(run, config.dataset, all_attempts=True)
    return {
        case.scenario_id: case
        for index, case in scored.attempts
        if outcomes[case.scenario_id].own.chosen == index
    }


def _texts(config: RunConfig) -> dict[str, str]:
    return {row.scenario_id: row.text for row in read_descriptions(config.dataset)}


def _also_differs(base: Path, other: Path) -> list[str]:
    """Weights, clips, versions and code that are not the base's, in words."""
    first, second = ({**read_manifest(run / MANIFEST), "config": {}} for run in (base, other))
    return changes(first, second)


def _takes_a_scenario(outcomes: Mapping[str, Outcome]) -> float:
    return sum(len(outcome.attempts) for outcome in outcomes.values()) / max(len(outcomes), 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality.loop_variants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--run", type=Path, required=True, help="the base")
    add("--variant", type=Path, required=True, action="append", help="a run with other settings; repeatable")
    add("--out", type=Path, required=True, help="the JSON file to write")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done; 2 the user's error."""
    options, console = _parser().parse_args(arguments), page_console()
    offline()
    variants = ("--variant", "RUN") * len(options.variant)
    command = command_line("python", "-m", "bench.quality.loop_variants", "--run", "RUN", *variants)
    try:
        document = measure(options.run, options.variant)
    except RetakeError as error:
        return user_error(error)
    write_json(options.out, document | {"command": command})
    for row in document["rows"]:
        mean, (low, high) = row["difference"]["mean"], row["difference"]["ci95"]
        console.print(
            f"{row['name']}: {mean:+.2f} ({low:+.2f} to {high:+.2f}) points", markup=False, highlight=False
        )
    console.print(f"wrote {options.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
