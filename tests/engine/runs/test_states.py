"""Hidden states beside stored takes: read as written, bound to their video, refused where they are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from engine.errors import StoreError
from engine.runs.states import (
    keep_states,
    place_of_states,
    put_states,
    read_states,
    states_bytes,
    with_states,
)
from engine.types import Attempt, Prompt, States, StateSites

VIDEO = Path("videos/0001/attempt-0.mp4")
SITES = StateSites(steps=(0, 1), timesteps=(1000.0, 937.0625), layers=(1, 3, 5), width=4)


def states(seed: int = 0) -> States:
    values = np.random.default_rng(seed).normal(size=(2, 3, 3, 4)).astype(np.float32)
    return States(sites=SITES, values=values)


def make_take(folder: Path, video: Path = VIDEO, content: bytes = b"a take") -> Path:
    (folder / video).parent.mkdir(parents=True, exist_ok=True)
    (folder / video).write_bytes(content)
    return folder / video


def attempt(video: Path = VIDEO) -> Attempt:
    prompt = Prompt(text="", negative="", seed=0, revision=0)
    return Attempt(index=0, prompt=prompt, video_path=video, critique=None)


def test_they_are_read_as_they_were_written(tmp_path: Path) -> None:
    make_take(tmp_path)
    (found,) = with_states(tmp_path, [attempt()])
    assert found.states is None
    keep_states(tmp_path, VIDEO, states())
    (found,) = with_states(tmp_path, [attempt()])
    assert found.states == tmp_path / "videos/0001/attempt-0.mp4.states.safetensors"
    read = read_states(found.states)
    assert read.sites == SITES and np.array_equal(read.values, states().values)


def test_a_take_that_is_made_again_without_them_leaves_none(tmp_path: Path) -> None:
    make_take(tmp_path)
    keep_states(tmp_path, VIDEO, states())
    keep_states(tmp_path, VIDEO, None)
    assert not place_of_states(tmp_path, VIDEO).exists()


def test_they_travel_with_their_video(tmp_path: Path) -> None:
    make_take(tmp_path / "a")
    assert states_bytes(tmp_path / "a", VIDEO) is None
    keep_states(tmp_path / "a", VIDEO, states())
    moved = Path("videos/0001/attempt-3.mp4")
    make_take(tmp_path / "b", moved)
    put_states(tmp_path / "b", moved, states_bytes(tmp_path / "a", VIDEO))
    assert np.array_equal(read_states(place_of_states(tmp_path / "b", moved)).values, states().values)
    put_states(tmp_path / "b", moved, None)
    assert states_bytes(tmp_path / "b", moved) is None


def test_what_is_damaged_or_of_another_take_is_refused(tmp_path: Path) -> None:
    video = make_take(tmp_path)
    keep_states(tmp_path, VIDEO, states())
    path = place_of_states(tmp_path, VIDEO)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + b"\x00\x00\x00\x01")
    with pytest.raises(StoreError, match="is not as it was written"):
        read_states(path)
    path.write_bytes(whole[:-9])
    with pytest.raises(StoreError, match="cannot be read"):
        read_states(path)
    path.write_bytes(whole)
    video.write_bytes(b"another take")
    with pytest.raises(StoreError, match="is not of attempt-0"):
        read_states(path)
    make_take(tmp_path)
    values = load_file(path)["values"]
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["hidden_states"])
    save_file({"values": values}, path, metadata={"hidden_states": json.dumps(header | {"schema": 2})})
    with pytest.raises(StoreError, match="has schema 2; this retake reads 1"):
        read_states(path)
    save_file({"values": values}, path)
    with pytest.raises(StoreError, match="cannot be read: 'hidden_states'"):
        read_states(path)


def test_equal_states_are_equal_files(tmp_path: Path) -> None:
    found = set()
    for _ in range(8):
        make_take(tmp_path)
        keep_states(tmp_path, VIDEO, states())
        found.add(place_of_states(tmp_path, VIDEO).read_bytes())
    assert len(found) == 1


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    make_take(tmp_path / "other")
    keep_states(tmp_path / "other", VIDEO, states())
    make_take(tmp_path / "run")
    place_of_states(tmp_path / "run", VIDEO).symlink_to(place_of_states(tmp_path / "other", VIDEO))
    with pytest.raises(StoreError, match="not its own"):
        with_states(tmp_path / "run", [attempt()])
    with pytest.raises(StoreError, match="not its own"):
        states_bytes(tmp_path / "run", VIDEO)
