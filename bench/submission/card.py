"""The submission card: written as a form with what is known filled in, read, and checked as a whole.

Knows no clip and no run. Invariants: what is not known is a marker that the check refuses, and nothing that
only the submitter can declare (terms, warranties) is ever filled in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.submission.card_fields import BLOCKS, FIELDS, METRICS, Field, never
from engine.errors import ConfigError, nearest
from engine.words import counted

MARK = "<fill in>"
DECLARED = ("terms", "warranties")
SCORE_TOLERANCE = 0.01  # cards round to two decimals


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A value that the runs tell, and how."""

    value: Any
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    field: str
    value: str
    allowed: str
    fix: str


def card_text(known: Mapping[str, Known]) -> str:
    """The YAML form; `known` by field, as in "public_info.fps". Lines that are left to fill hold `MARK`."""
    lines = [
        f"# Physics-IQ Verified submission card. Replace every {MARK}, by null where a field does not apply."
    ]
    info = _assumed(known)
    for block in BLOCKS:
        lines += ["", f"{block}:"]
        for field in (field for field in FIELDS if field.block == block):
            found = None if block in DECLARED else known.get(field.key)
            lines.append(
                f"  # {field.meaning}: {field.allowed}" + (", optional" if field.needed is never else "")
            )
            if found is not None:
                lines.append(f"  {field.name}: {_yaml(found.value)}  # {found.source}")
            else:
                lines.append(f"  {field.name}: {_yaml(MARK if field.needed(info) else None)}")
    return "\n".join(lines) + "\n"


def unfilled(known: Mapping[str, Known]) -> list[str]:
    """The fields that `card_text` leaves to fill."""
    info = _assumed(known)
    return [
        field.key
        for field in FIELDS
        if field.needed(info) and (field.block in DECLARED or field.key not in known)
    ]


def _assumed(known: Mapping[str, Known]) -> dict[str, Any]:
    """The block public_info of a form; what is not known is taken to need the most fields."""
    info = {
        key.partition(".")[2]: fact.value for key, fact in known.items() if key.startswith("public_info.")
    }
    return {"prompt_upsampling": True, "bon_sampling": 2} | info


def read_card(path: Path) -> Any:
    """What the YAML holds. Raises ConfigError when it is none."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}", fix="correct it at the place named") from error


def check_card(card: Any, *, num_runs: int, computed: Mapping[str, float]) -> list[Problem]:
    """Every problem of the card at once. `computed` are the reported scores as the runs' own files say."""
    if not isinstance(card, dict):
        form = f"a mapping with the blocks {', '.join(BLOCKS)}"
        return [_problem("card", type(card).__name__, form, "begin with the form that is written for you")]
    problems = _strangers("", card, BLOCKS)
    blocks: dict[str, dict[str, Any]] = {}
    for block in BLOCKS:
        content = card.get(block)
        blocks[block] = content if isinstance(content, dict) else {}
        if content is not None and not isinstance(content, dict):
            problems.append(_problem(block, content, "a mapping", "indent its fields below it"))
        names = [field.name for field in FIELDS if field.block == block]
        problems += _strangers(f"{block}.", blocks[block], names)
    info = blocks["public_info"]
    for field in FIELDS:
        problem = _check_field(field, blocks[field.block].get(field.name), info)
        problems += [] if problem is None else [problem]
    return problems + _check_scores(blocks["reported_scores"], num_runs, computed)


def _check_field(field: Field, value: Any, info: Mapping[str, Any]) -> Problem | None:
    needed = field.needed(info)
    fix = f"state {field.meaning}"
    if isinstance(value, str) and value.strip() == MARK:
        return _problem(field.key, "not filled in", field.allowed, fix)
    if value is None or value == "":
        return _problem(field.key, "empty", field.allowed, fix) if needed else None
    return None if field.accepts(value) else _problem(field.key, repr(value), field.allowed, fix)


def _check_scores(scores: Mapping[str, Any], num_runs: int, computed: Mapping[str, float]) -> list[Problem]:
    """What the fields together say: a unit, a deviation, agreement with the files."""
    problems = []
    means = [scores.get(f"{metric}_mean") for metric in METRICS]
    if all(isinstance(mean, int | float) and 0 < mean <= 1 for mean in means):
        problems.append(
            _problem("reported_scores", "all means at most 1", "percent, 0 to 100", "multiply them by 100")
        )
    for metric in METRICS:
        deviation = scores.get(f"{metric}_std")
        if num_runs > 1 and isinstance(deviation, float) and math.isnan(deviation):
            problems.append(
                _problem(
                    f"reported_scores.{metric}_std",
                    deviation,
                    "0 to 100",
                    f"give the sample standard deviation of the {counted(num_runs, 'run')}",
                )
            )
    for name, value in computed.items():
        found = scores.get(name)
        if not isinstance(found, int | float) or not math.isfinite(value):
            continue
        if not abs(found - value) <= SCORE_TOLERANCE:
            problems.append(
                _problem(
                    f"reported_scores.{name}",
                    found,
                    f"{value:.4f} ± {SCORE_TOLERANCE}, by scores.json of the runs",
                    "report what the scorer found, or score the runs again",
                )
            )
    return problems


def _strangers(prefix: str, content: Mapping[Any, Any], allowed: Any) -> list[Problem]:
    return [
        _problem(
            f"{prefix}{name}",
            "no field of the card",
            ", ".join(allowed),
            f"remove or rename it{nearest(str(name), allowed)}",
        )
        for name in content
        if name not in allowed
    ]


def _problem(field: str, value: Any, allowed: str, fix: str) -> Problem:
    return Problem(field=field, value=str(value), allowed=allowed, fix=fix)


def _yaml(value: Any) -> str:
    """One scalar on one line; JSON's are YAML's, but for not-a-number."""
    if isinstance(value, float) and math.isnan(value):
        return ".nan"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
