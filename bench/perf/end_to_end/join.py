"""Parts to one document: what they must have in common, whether they did the same work, and the ratios.

Warm scenarios are compared with warm ones and first ones with first ones. A part is warm by its warm-up;
where scenarios follow one another, those after the first are warm without. Measures nothing. Invariant: a
ratio whose parts are missing or had a failed scenario is absent.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.perf.document import SCHEMA, check, headed
from bench.perf.end_to_end.steps import steps
from bench.perf.end_to_end.variants import (
    EXACT,
    EXACT_SEQUENTIAL,
    FAST,
    FAST_PATCHES,
    FAST_SEQUENTIAL,
    FASTEST,
    GENERATION_ONLY,
    SCRIPT,
    SCRIPT_BEST,
    VARIANTS,
)
from engine.errors import ConfigError
from engine.words import counted
from kernels.files import read_json

KIND, PART_KIND = "end_to_end", "end_to_end_part"
FORMAT, PATCH = "quantization", "patch_tokens"
Part = Mapping[str, Any]

RATIOS = {
    "exact_over_script": (SCRIPT, EXACT),
    "fast_over_script": (SCRIPT, FAST),
    "fast_over_best_stock": (SCRIPT_BEST, FAST),
    "patches_over_script": (SCRIPT, FAST_PATCHES),
    "fastest_over_script": (SCRIPT, FASTEST),
    "exact_overlap_over_sequential": (EXACT_SEQUENTIAL, EXACT),
    "fast_overlap_over_sequential": (FAST_SEQUENTIAL, FAST),
}
"""Name -> (the slower one, the one in question): how often as many scenarios an hour the latter makes."""
COLD_RATIOS = {"fast_over_script_cold": (SCRIPT, FAST)}
"""The same of the first scenario of a process without a warm-up."""
PAIRS = ((EXACT, EXACT_SEQUENTIAL), (FAST, FAST_SEQUENTIAL))
NOTES = (
    "random weights: speed and memory only; the critic's replies are fixed texts, so that every variant "
    "decodes the same tokens; as a patch the critique lacks the fields that it does not change of the plan, "
    "both of which the bundled critic wrote",
    "seconds per scenario are the whole makespan over the number of scenarios: filling the pipeline counts",
    "no drafts are taken from earlier replies: with one fixed reply all of them would hold",
    "frames are read and written, prompts built and replies read by Retake's functions in the script too",
    "a text encoder of the right width and few layers stands in for UMT5-XXL, in all variants",
    "one process a variant, one after the other, each run once: read ratios, not digits",
)


def join(paths: Sequence[Path]) -> dict[str, Any]:
    """The document. Raises ConfigError for files that are no parts, come twice or do not fit together."""
    parts = [_read(path) for path in paths]
    keys = [_key(part) for part in parts]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        names = ", ".join(map(_named, twice))
        raise ConfigError(f"{names} is there more than once", fix="give one file of each variant")
    settings = next((p["settings"] for p in parts if not _chooses_format(p)), parts[0]["settings"])
    settings = settings | next((p["settings"] for p in parts if _patches(p)), {})
    _require_alike(parts, paths, settings)
    order = list(VARIANTS)
    parts.sort(key=lambda part: (not part["warm_up"], order.index(part["variant"])))
    cold = {part["variant"]: part for part in parts if not part["warm_up"]}
    warm = {name: part for name, part in cold.items() if warm_seconds(part) is not None}
    warm |= {part["variant"]: part for part in parts if part["warm_up"]}
    head = headed(
        KIND,
        "python -m bench.perf.end_to_end make | run | join",
        settings,
        list(_checks(warm, parts, settings)),
        manifest=parts[0]["manifest"],
        summary=summary(warm, cold),
    )
    return head | {
        "steps": steps(warm, lambda name: warm_seconds(warm.get(name))),
        "notes": [*NOTES, *_said_by_parts(parts, settings)],
        "parts": parts,
    }


def summary(warm: Mapping[str, Part], cold: Mapping[str, Part]) -> dict[str, float]:
    """Ratios above 1 are faster. `warm` are the parts with warm scenarios, `cold` those without a warm-up."""
    found = {}
    for ratios, parts, seconds in ((RATIOS, warm, warm_seconds), (COLD_RATIOS, cold, cold_seconds)):
        for name, (slower, faster) in ratios.items():
            old, new = seconds(parts.get(slower.name)), seconds(parts.get(faster.name))
            if old and new:
                found[name] = old / new
    whole, takes = warm.get(FAST.name), warm.get(GENERATION_ONLY.name)
    if whole and takes and _comparable(whole, takes):
        found["fast_makespan_over_generation"] = whole["makespan_s"] / takes["makespan_s"]
    first = cold.get(FAST.name)
    if first is not None and _is_first_take(first):
        found["first_take_s_warm"] = first["process_to_first_take_s"]
    return found


def warm_seconds(part: Part | None) -> float | None:
    """Of a scenario; None for a part that is missing, has a failed scenario or no warm one."""
    if part is None or _failed(part):
        return None
    if part["warm_up"]:
        seconds: float | None = part.get("seconds_per_scenario")
        return seconds
    later = part.get("each_s", [])[1:]
    return statistics.fmean(later) if later else None


def cold_seconds(part: Part | None) -> float | None:
    """Of the first scenario of a process, where none was worked on beside it; else None."""
    if part is None or part["warm_up"] or _failed(part):
        return None
    if part["num_done"] == part["num_asked"] == 1:
        seconds: float = part["makespan_s"]
        return seconds
    first: float | None = next(iter(part.get("each_s", ())), None)
    return first


def _failed(part: Part) -> bool:
    return any(facts.get("failure") for facts in part["scenarios"].values())


def _comparable(one: Part, other: Part) -> bool:
    """Whether makespans are of as many scenarios, all of them done."""
    done = all(part["complete"] and warm_seconds(part) for part in (one, other))
    return bool(done and one["num_done"] == other["num_done"])


def _is_first_take(part: Part) -> bool:
    """fast without a warm-up where the kernels were chosen and built by an earlier process."""
    cached = not part["warm_up"] and part["kernel_cache_filled"]
    return bool(part["variant"] == FAST.name and cached and "process_to_first_take_s" in part)


def _checks(
    warm: Mapping[str, Part], parts: Sequence[Part], settings: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Only of what is there; each says what it found."""
    judged = {name: part for name, part in warm.items() if VARIANTS[name].critic and part["num_done"]}
    counts = {name: sorted(set(part["tokens_per_scenario"].values())) for name, part in judged.items()}
    patches = {name: counts.pop(name) for name in judged if not VARIANTS[name].equal_tokens}
    if patches:
        expected = settings["reply_tokens"] + (settings["loops"] + 1) * settings["patch_tokens"]
        holds = all(found == [expected] for found in patches.values())
        yield check("critiques that are patches have as many tokens as real ones", holds, patches)
    if counts:
        same = len({count for found in counts.values() for count in found}) == 1
        yield check("every variant decodes as many tokens a scenario", same, counts)
    failures = {
        f"{_named(_key(part))} {scenario}": facts["failure"]
        for part in parts
        for scenario, facts in part["scenarios"].items()
        if facts.get("failure")
    }
    if parts:
        yield check("no scenario failed", not failures, failures or "none")
    for one, other in PAIRS:
        yield from _same(warm, one.name, other.name, ("takes", "chosen", "stopped", "failure"), "outcomes")
    yield from _same(warm, FAST.name, GENERATION_ONLY.name, ("pixels",), "takes")
    merged = ("pixels", "judged", "chosen", "stopped", "failure")
    yield from _same(warm, FAST.name, FAST_PATCHES.name, merged, "takes, verdicts and merged plans")


def _same(
    warm: Mapping[str, Part], one: str, other: str, keys: Sequence[str], what: str
) -> Iterator[dict[str, Any]]:
    """Of the scenarios that both have finished."""
    if one not in warm or other not in warm:
        return
    left, right = warm[one]["scenarios"], warm[other]["scenarios"]
    common = [name for name in left if name in right]
    if not common:
        return
    differing = [
        name for name in common if any(_of(left[name], key) != _of(right[name], key) for key in keys)
    ]
    said = (
        f"differ in {', '.join(differing)}" if differing else f"equal in {counted(len(common), 'scenario')}"
    )
    yield check(f"{what} of {one} and {other} are equal", not differing, said)


def _of(facts: Mapping[str, Any], key: str) -> Any:
    if key == "pixels":
        return [(take["prompt_sha256"], take["seed"], take["video_sha256"]) for take in facts["takes"]]
    if key == "judged":
        return [(take["score"], take["verdict"], take["plan_sha256"]) for take in facts["takes"]]
    return facts.get(key)


def _read(path: Path) -> dict[str, Any]:
    try:
        part = read_json(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", fix="give files written by run --out") from error
    if not isinstance(part, dict) or part.get("kind") != PART_KIND or part.get("variant") not in VARIANTS:
        raise ConfigError(f"{path} is no part of this measurement", fix="give files written by run --out")
    if part.get("schema") != SCHEMA:
        raise ConfigError(f"{path} has schema {part.get('schema')!r}, not {SCHEMA}", fix="measure it again")
    return part


def _key(part: Part) -> tuple[str, bool]:
    return part["variant"], part["warm_up"]


def _named(key: tuple[str, bool]) -> str:
    name, warm = key
    return name + " without warm-up" * (not warm)


def _require_alike(parts: Sequence[Part], paths: Sequence[Path], settings: Mapping[str, Any]) -> None:
    """Settings, machine and versions: a ratio over a difference in these would be of something else."""
    for path, part in zip(paths, parts, strict=True):
        free = ({FORMAT} if _chooses_format(part) else set()) | (set() if _patches(part) else {PATCH})
        stated = {name: value for name, value in part["settings"].items() if name not in free}
        found = {"settings": ({name: settings[name] for name in stated}, stated)}
        found |= {what: (of(parts[0]), of(part)) for what, of in _COMMON.items()}
        for what, (expected, stated) in found.items():
            if expected != stated:
                raise ConfigError(
                    f"{path} differs from the other parts in {what}: {stated}, not {expected}",
                    fix="measure all parts with the same settings on the same kind of machine",
                )


def _chooses_format(part: Part) -> bool:
    """The best stock script may hold the critic in the format that is fastest there: transformers compiles
    its decoding in 16 bits, and not with bitsandbytes' layers."""
    return bool(part["variant"] == SCRIPT_BEST.name)


def _patches(part: Part) -> bool:
    """Only of these the length of a patch counts."""
    return not VARIANTS[part["variant"]].equal_tokens


_COMMON: Mapping[str, Callable[[Part], Any]] = {
    "GPU": lambda part: [gpu["name"] for gpu in part["manifest"]["machine"]["gpus"]],
    "packages": lambda part: part["manifest"]["packages"],
}


def _said_by_parts(parts: Sequence[Part], settings: Mapping[str, Any]) -> Iterator[str]:
    for part in parts:
        if part["settings"][FORMAT] != settings[FORMAT]:
            yield f"{part['variant']} holds the critic in format {part['settings'][FORMAT]}"
        if not part["warm_up"] and warm_seconds(part) is not None:
            yield (
                f"{part['variant']}: of {counted(part['num_done'], 'scenario')} of one process the first "
                "is cold, the others warm"
            )
        if not part["complete"]:
            yield (
                f"{part['variant']} was stopped by its budget after {part['num_done']} of "
                f"{counted(part['num_asked'], 'scenario')}; what it had begun of others counts against it"
            )
    commits = {str(part["manifest"]["code"]["commit"])[:10] for part in parts}
    if len(commits) > 1:
        yield f"the parts are of several commits: {', '.join(sorted(commits))}"
    hosts = {str(part["manifest"]["machine"]["cpu"]) for part in parts}
    if len(hosts) > 1:
        yield f"the parts were measured on several hosts: {', '.join(sorted(hosts))}"
