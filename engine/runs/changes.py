"""Whether a run still rests on what it was started with: models, questions, settings, versions.

Compares two manifests and decides nothing. Invariant: what differs is named; what the first manifest did not
record is never called equal or different.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.runs.manifest import WEIGHT_SUFFIXES
from engine.settings.config import LACKED
from engine.types import Scenario
from kernels.files import file_digest

MAX_LISTED = 8
"""Changes that a message names."""

PLACES = frozenset(
    {
        *("out", "dataset", "shard", "denoise.engine", "denoise.policy", "generator.name", "critic.name"),
        *("selectors.vjepa", "selectors.image_encoder", "selectors.states_probe"),
    }
)
"""Settings that say where something lies: it may have moved, and its content is compared by digest."""


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of `then` is another in `now`, in words; both are manifests, of `now` as JSON would keep it."""
    now = json.loads(json.dumps(now, default=str))
    found = list(_files(then, now))
    found += [f"LoRA {name}" for name in _differing(then.get("loras"), now.get("loras"))]
    found += [f"probe {name}" for name in _differing(then.get("probes"), now.get("probes"))]
    found += [f"prefix of scenario {name}" for name in _differing(then.get("prefixes"), now.get("prefixes"))]
    recorded = _flat(then.get("config"))
    for key, (before, after) in _values(recorded, _flat(now.get("config"))):
        as_ever = key in LACKED and key not in recorded and LACKED[key][1] == after
        if key not in PLACES and not as_ever:
            found.append(f"setting {key}: {before!r}, now {after!r}")
    for what in ("packages", "resolved"):
        for key, (before, after) in _values(_flat(then.get(what)), _flat(now.get(what))):
            found.append(f"{what.removesuffix('s')} {key}: {before}, now {after}")
    before, after = (str(facts.get("code", {}).get("commit") or "unknown") for facts in (then, now))
    if before != after:
        found.append(f"commit of retake: {before[:12]}, now {after[:12]}")
    return found


def prefix_changes(then: Mapping[str, Any], scenarios: Iterable[Scenario]) -> list[str]:
    """Prefixes of the manifest `then` whose clip on the disk is another one now, or gone."""
    return [line for one in scenarios for line in prefix_change(then, one.id, one.prefix.path)]


def prefix_change(then: Mapping[str, Any], scenario_id: str, clip: Path) -> list[str]:
    """As `prefix_changes`, of one scenario whose prefix would be `clip`."""
    digest = then.get("prefixes", {}).get(scenario_id)
    if digest is None or (clip.is_file() and file_digest(clip) == digest):
        return []
    return [f"prefix of scenario {scenario_id}"]


def listed(found: Sequence[str]) -> str:
    """As lines of a message, which names the first of many."""
    more = [f"and {len(found) - MAX_LISTED} more"] if found[MAX_LISTED:] else []
    return "".join(f"\n  {line}" for line in [*found[:MAX_LISTED], *more])


def _files(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    weights_only = then.get("manifest_version", 1) < 2  # the first manifests had no other files
    for role, model in now.get("models", {}).items():
        before = then.get("models", {}).get(role, {}).get("sha256")
        if before is None:
            continue
        after = model["sha256"]
        for name in sorted(before.keys() | after.keys()):
            is_weight = any(name.endswith(suffix) for suffix in WEIGHT_SUFFIXES)
            if before.get(name) != after.get(name) and (is_weight or not weights_only):
                state = "changed" if name in before and name in after else "gone" if name in before else "new"
                yield f"file {name} of the {role}: {state}"


def _differing(then: Mapping[str, str] | None, now: Mapping[str, str] | None) -> list[str]:
    """Keys of both whose values differ."""
    before, after = then or {}, now or {}
    return sorted(key for key in before.keys() & after.keys() if before[key] != after[key])


def _values(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for key in sorted(then.keys() | now.keys()):
        if then and then.get(key) != now.get(key):
            yield key, (then.get(key), now.get(key))


def _flat(table: Mapping[str, Any] | None, prefix: str = "") -> dict[str, Any]:
    """Dotted keys, so that a difference is named as a user would set it."""
    found: dict[str, Any] = {}
    for key, value in (table or {}).items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
