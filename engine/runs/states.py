"""Hidden states of a stored take: a small safetensors file beside its video, so that it can be chosen later.

The tensor `values` is as in `engine.types.States`; the header says where it was taken, and holds the digests
of the values and of the video, so that a damaged file, or one of another take, is told before it is used. No
row of the store speaks of it: a take may have none, and its row is written after it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from engine.errors import StoreError
from engine.runs.folder import flush, place_in
from engine.types import MOMENTS, Attempt, States, StateSites
from kernels.files import file_digest, parse_json, whole_file

KIND: Final = "hidden_states"
SCHEMA: Final = 1
SUFFIX: Final = ".states.safetensors"


def place_of_states(folder: Path, video: Path) -> Path:
    """Of the take of a run folder whose video is or will be at `video` in it; StoreError for one outside."""
    return place_in(folder, video.with_name(video.name + SUFFIX))


def keep_states(folder: Path, video: Path, states: States | None) -> None:
    """Beside a video that is written; of a take without any, what an earlier one left there is removed."""
    if states is None:
        put_states(folder, video, None)
        return
    header = {
        "schema": SCHEMA,
        "sites": asdict(states.sites),
        "values_sha256": _digest(states),
        "video_sha256": file_digest(folder / video),
    }
    values = np.ascontiguousarray(states.values)
    # one entry, since several would be written in another order each time (docs/behaviour.md)
    put_states(folder, video, save({"values": values}, metadata={KIND: json.dumps(header)}))


def states_bytes(folder: Path, video: Path) -> bytes | None:
    """The file of the states of a take, to be sent or copied; None where it has none."""
    path = place_of_states(folder, video)
    return path.read_bytes() if path.is_file() else None


def put_states(folder: Path, video: Path, states: bytes | None) -> None:
    """What `states_bytes` gave, beside a copy of that video; None: nothing stays there."""
    path = place_of_states(folder, video)
    if states is None:
        path.unlink(missing_ok=True)
        return
    with whole_file(path) as part:
        part.write_bytes(states)
    flush(path)


def with_states(folder: Path, attempts: Sequence[Attempt]) -> list[Attempt]:
    """Attempts of a run folder, each with the place of its states where it has any."""
    places = [place_of_states(folder, attempt.video_path) for attempt in attempts]
    return [
        replace(attempt, states=path if path.is_file() else None)
        for attempt, path in zip(attempts, places, strict=True)
    ]


def read_states(path: Path) -> States:
    """StoreError for a file that is damaged, of another version, or not of the video beside it."""
    try:
        with safe_open(path, framework="numpy") as file:
            header, values = parse_json((file.metadata() or {})[KIND]), file.get_tensor("values")
        schema, states = header["schema"], States(sites=_sites(header["sites"]), values=values)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _unusable(path, f"cannot be read: {error}") from error
    sites = states.sites
    if schema != SCHEMA:
        raise _unusable(path, f"has schema {schema}; this retake reads {SCHEMA}")
    shape = (len(sites.steps), len(sites.layers), len(MOMENTS), sites.width)
    if values.shape != shape or values.dtype != np.float32 or _digest(states) != header.get("values_sha256"):
        raise _unusable(path, "is not as it was written")
    video = path.with_name(path.name.removesuffix(SUFFIX))
    if not video.is_file() or file_digest(video) != header.get("video_sha256"):
        raise _unusable(path, f"is not of {video.name} as it is there now")
    return states


def _sites(data: dict[str, Any]) -> StateSites:
    return StateSites(
        steps=tuple(map(int, data["steps"])),
        timesteps=tuple(map(float, data["timesteps"])),
        layers=tuple(map(int, data["layers"])),
        width=int(data["width"]),
    )


def _digest(states: States) -> str:
    return hashlib.sha256(np.ascontiguousarray(states.values).tobytes()).hexdigest()


def _unusable(path: Path, why: str) -> StoreError:
    return StoreError(
        f"{path} {why}",
        fix="put back a copy of it; or choose by other selectors than states; or make the take again",
    )
