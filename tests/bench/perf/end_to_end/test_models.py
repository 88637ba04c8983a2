"""What `make` writes: whole folders, kept where they are there, of one size."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from whole_runs import tiny_models

from bench.perf.end_to_end.made import CRITIC, GENERATOR, read_facts
from bench.perf.end_to_end.models import make
from bench.perf.end_to_end.sizes import FULL, TINY
from engine.errors import ConfigError
from engine.video.files import probe


def test_what_is_there_is_kept_and_what_is_missing_is_made(tmp_path: Path) -> None:
    shutil.copytree(tiny_models(), tmp_path / "made", ignore=shutil.ignore_patterns("runs"))
    folder = tmp_path / "made"
    shutil.rmtree(folder / CRITIC)
    (folder / f".{CRITIC}.part").mkdir()
    (folder / f".{CRITIC}.part" / "half.safetensors").write_bytes(b"stopped here")
    before = (folder / GENERATOR / "model_index.json").stat().st_mtime_ns
    make(folder, TINY, 1, torch.device("cpu"))
    assert (folder / GENERATOR / "model_index.json").stat().st_mtime_ns == before
    assert (folder / CRITIC / "config.json").is_file() and not (folder / CRITIC / "half.safetensors").exists()
    assert not (folder / f".{CRITIC}.part").exists()


def test_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds models of size tiny, not full"):
        make(tiny_models(), FULL, 1, torch.device("cpu"))
    assert read_facts(tiny_models())["size"] == "tiny"


def test_a_folder_that_was_not_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no made\.json"):
        read_facts(tmp_path)


def test_a_folder_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "made.json").write_text('{"size": "tiny", "reply_tokens": 120}')
    with pytest.raises(ConfigError, match=r"made\.json is another version's"):
        read_facts(tmp_path)


def test_clips_are_three_seconds_with_a_sentence() -> None:
    clips = sorted((tiny_models() / "clips").glob("*.mp4"))
    assert [clip.name for clip in clips] == ["clip00.mp4", "clip01.mp4"]
    found = probe(clips[0])
    assert (found.num_frames, found.fps, found.width, found.height) == (72, 24.0, 192, 108)
    assert clips[0].with_suffix(".txt").read_text() != clips[1].with_suffix(".txt").read_text()
