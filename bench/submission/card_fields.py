"""The fields of the Physics-IQ Verified submission card: what each means, what it allows, when it is needed.

A table and predicates, nothing else. The format is that of the benchmark's submission script, version 1.0 of
the terms.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench.submission.rules import parse_size

TERMS_VERSION: Final = "1.0"
BLOCKS: Final = ("public_info", "reported_scores", "terms", "warranties")
INPUT_TYPES: Final = ("t2v", "i2v", "v2v")
PROMPTS: Final = ("op", "bpp")
AVAILABILITY: Final = ("public", "api", "research", "private")
METRICS: Final = ("physiq", "spatial_iou", "weighted_spatial_iou", "spatiotemporal_iou", "mse")

Info = Mapping[str, Any]
"""The block public_info of a card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    block: str
    name: str
    meaning: str
    allowed: str
    accepts: Callable[[Any], bool]
    needed: Callable[[Info], bool]

    @property
    def key(self) -> str:
        return f"{self.block}.{self.name}"


def always(info: Info) -> bool:
    return True


def never(info: Info) -> bool:
    return False


def self_run(info: Info) -> bool:
    return info.get("availability") != "api"


def upsampled(info: Info) -> bool:
    return info.get("prompt_upsampling") is True


def upsampled_self_run(info: Info) -> bool:
    return upsampled(info) and self_run(info)


def chosen_among_several(info: Info) -> bool:
    return _is_number(info.get("bon_sampling")) and info["bon_sampling"] > 1


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_unknown(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_cost(value: Any) -> bool:
    return (_is_number(value) and value >= 0) or _is_unknown(value)


def _is_percent(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 100


def _is_deviation(value: Any) -> bool:
    return _is_percent(value) or _is_unknown(value)


def _is_parameters(value: Any) -> bool:
    return _is_count(value) or _is_text(value)


def _is_size(value: Any) -> bool:
    size = parse_size(value) if isinstance(value, str) else None
    return size is not None and not any(side % 2 for side in size)


def _is_date(value: Any) -> bool:
    if isinstance(value, datetime.date):  # YAML reads an unquoted date as one
        return True
    return isinstance(value, str) and _reads(datetime.date.fromisoformat, value)


def _is_moment(value: Any) -> bool:
    if isinstance(value, datetime.datetime):
        return True
    pattern = r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}"
    return (
        isinstance(value, str)
        and re.match(pattern, value) is not None
        and _reads(datetime.datetime.fromisoformat, value)
    )


def _reads(parse: Callable[[str], Any], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _one_of(allowed: tuple[str, ...]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in allowed


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_true(value: Any) -> bool:
    return value is True


_TEXT = "a text"
_LINK = "a link, or null"
_COUNT = "a whole number from 1"
_COST = "dollars from 0, or .nan if unknown"
_UPSAMPLED = "; null without prompt_upsampling"
_SELF_RUN = "; null if availability is api"
_Row = tuple[str, str, str, Callable[[Any], bool], Callable[[Info], bool]]

_PUBLIC: tuple[_Row, ...] = (
    (
        "organization",
        "the company, institute or person that submits, as to be displayed",
        _TEXT,
        _is_text,
        always,
    ),
    ("model", "the model's name as to be displayed", _TEXT, _is_text, always),
    (
        "model_version",
        "the exact identifier of the checkpoint or of the API's model",
        _TEXT,
        _is_text,
        always,
    ),
    ("input_type", "what the model was given", "t2v, i2v or v2v", _one_of(INPUT_TYPES), always),
    (
        "parameters",
        "the number of parameters",
        "a number, a text such as 14B, or null",
        _is_parameters,
        never,
    ),
    ("fps", "the frames per second of the clips", "a number above 0", _is_positive, always),
    ("resolution", "the size of the clips", 'even numbers, as in "1280x720"', _is_size, always),
    (
        "bon_sampling",
        "how many clips were generated for a case, of which one is submitted",
        _COUNT,
        _is_count,
        always,
    ),
    (
        "bon_sampling_method",
        "what chose among the clips of a case; it may not have seen a reference",
        "a text; null if bon_sampling is 1",
        _is_text,
        chosen_among_several,
    ),
    ("bon_sampling_source", "the paper or code of that choice", _LINK, _is_text, never),
    (
        "prompt_upsampling",
        "whether prompts were rewritten before generation",
        "true or false",
        _is_flag,
        always,
    ),
    ("prompt_upsampling_method", "what rewrote the prompts", _TEXT + _UPSAMPLED, _is_text, upsampled),
    ("prompt_upsampling_source", "the paper or code of the rewriting", _LINK, _is_text, never),
    (
        "descriptions",
        "which prompts were used, the original or the best-practice ones",
        "op or bpp",
        _one_of(PROMPTS),
        always,
    ),
    (
        "templater",
        "what compiled the bpp prompts, if not the base templater",
        "a text, or null",
        _is_text,
        never,
    ),
    (
        "availability",
        "who can use the model",
        "public, api, research or private",
        _one_of(AVAILABILITY),
        always,
    ),
    ("model_source", "the model's paper or site", "a link", _is_text, always),
    (
        "provider",
        "whose API was called, if the model did not run on your machines",
        "a text, or null",
        _is_text,
        never,
    ),
    ("date", "the day of the submission", "a date such as 2026-10-07", _is_date, always),
    (
        "tech_report",
        "how the results were made, without which the leaderboard lists none",
        _LINK,
        _is_text,
        never,
    ),
    ("comments", "anything else", "a text, or null", _is_text, never),
    ("upsample_cost", "the dollars for rewriting one case's prompt", _COST + _UPSAMPLED, _is_cost, upsampled),
    ("upsample_gpu", "the GPU that rewrote the prompts", _TEXT + _UPSAMPLED, _is_text, upsampled_self_run),
    ("upsample_ngpu", "how many of those GPUs", _COUNT + _UPSAMPLED, _is_count, upsampled_self_run),
    (
        "upsample_time",
        "the GPU seconds for rewriting one case's prompt, times the number of GPUs",
        "seconds above 0" + _UPSAMPLED,
        _is_positive,
        upsampled_self_run,
    ),
    ("generation_cost", "the dollars for generating one clip", _COST, _is_cost, always),
    ("generation_gpu", "the GPU that generated the clips", _TEXT + _SELF_RUN, _is_text, self_run),
    ("generation_ngpu", "how many of those GPUs", _COUNT + _SELF_RUN, _is_count, self_run),
    (
        "generation_time",
        "the GPU seconds for generating one clip, times the number of GPUs",
        "seconds above 0" + _SELF_RUN,
        _is_positive,
        self_run,
    ),
)
_TERMS: tuple[_Row, ...] = (
    (
        "terms_version",
        "the version of the submission terms that you accept",
        f'"{TERMS_VERSION}", in quotes',
        _one_of((TERMS_VERSION,)),
        always,
    ),
    ("terms_accepted", "that you have read and accept the submission terms", "true", _is_true, always),
    ("accepted_on_behalf_of", "the full legal name of who accepts", _TEXT, _is_text, always),
    ("accepted_at", "when they were accepted", 'a moment such as "2026-10-07T14:00:00Z"', _is_moment, always),
)
_WARRANTIES = {
    "has_rights_to_submit": "that you may submit these clips",
    "no_ip_infringement": "that the clips infringe no rights of others",
    "permitted_by_provider_tos": "that the terms of the model's provider permit it",
    "no_personal_data_in_content": "that the clips show no personal data",
    "metadata_accurate": "that everything on this card is accurate",
}


def _score_rows(metric: str) -> tuple[_Row, _Row]:
    named = {"physiq": "the Physics-IQ Verified score"}.get(metric, f"the {metric} sub-score")
    runs = "in percent on the verified ground truth"
    return (
        (f"{metric}_mean", f"{named}, mean over runs, {runs}", "0 to 100", _is_percent, always),
        (
            f"{metric}_std",
            f"{named}, sample standard deviation over runs",
            "0 to 100; .nan for a single run",
            _is_deviation,
            always,
        ),
    )


_ROWS: dict[str, tuple[_Row, ...]] = {
    "public_info": _PUBLIC,
    "reported_scores": tuple(row for metric in METRICS for row in _score_rows(metric)),
    "terms": _TERMS,
    "warranties": tuple((name, what, "true", _is_true, always) for name, what in _WARRANTIES.items()),
}
FIELDS: Final = tuple(
    Field(block=block, name=name, meaning=meaning, allowed=allowed, accepts=accepts, needed=needed)
    for block in BLOCKS
    for name, meaning, allowed, accepts, needed in _ROWS[block]
)
