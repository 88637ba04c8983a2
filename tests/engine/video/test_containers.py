"""Parts of files and damaged ones are refused, whatever the container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from odd_clips import NUM_FRAMES, with_made_up_frame, write_clip

from engine.errors import VideoError
from engine.video.containers import decoded_frames, opened
from engine.video.files import is_readable, probe, read_frames, read_header, refuse_damaged

PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mp4": ("a.mp4", {}),
    "mp4, index in front": ("a.mp4", {"container_options": {"movflags": "+faststart"}}),
    "fragments": ("a.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    "Matroska": ("a.mkv", {}),
    "WebM": ("a.webm", {"codec": "libvpx"}),
    "AVI": ("a.avi", {"codec": "mpeg4"}),
}


@pytest.mark.parametrize(("name", "how"), PARTS.values(), ids=PARTS)
def test_every_part_of_a_file_is_refused(tmp_path: Path, name: str, how: dict[str, Any]) -> None:
    data = write_clip(tmp_path / name, **how).read_bytes()
    part = tmp_path / f"part-{name}"
    for share in (0.0, 0.3, 0.5, 0.8, 1.0):
        part.write_bytes(data[: min(int(len(data) * share) + 40, len(data) - 1)])
        with pytest.raises(VideoError, match="part-") as error:
            probe(part)
        assert "complete" in error.value.fix


def test_an_index_that_points_past_the_end_tells_a_part(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", container_options={"movflags": "+faststart"})
    data = bytearray(path.read_bytes())
    place = data.index(b"mdat")
    data[place - 4 : place] = bytes(4)  # the box goes on to the end of the file, wherever that is
    path.write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(VideoError, match="truncated"):
        probe(path)


def test_a_codec_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"qqqq"))
    for read in (probe, read_frames, refuse_damaged, read_header):
        with pytest.raises(VideoError, match=r"a\.mp4 holds video of a codec that FFmpeg does not know"):
            read(path)


def test_a_frame_that_the_decoder_made_up_is_refused(tmp_path: Path) -> None:
    path = with_made_up_frame(write_clip(tmp_path / "a.mp4"))
    assert probe(path).num_frames == NUM_FRAMES  # which decodes the first frame alone where it can
    for read in (read_frames, refuse_damaged):
        with pytest.raises(VideoError, match=r"a\.mp4 is truncated or damaged in frame \d+"):
            read(path)
    assert not is_readable(path)


def test_the_same_damage_is_found_without_pixels(tmp_path: Path) -> None:
    data, random = write_clip(tmp_path / "a.mp4").read_bytes(), np.random.default_rng(0)
    verdicts = []
    for number in range(40):
        damaged = bytearray(data)
        damaged[random.integers(len(data))] ^= 1 << random.integers(8)
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(damaged)
        verdicts.append([verdict(path, pixels) for pixels in (True, False)])
    assert all(whole == without for whole, without in verdicts)
    assert 5 < sum(isinstance(whole, str) for whole, _ in verdicts) < 35


def verdict(path: Path, pixels: bool) -> int | str:
    """How many frames decode, or why not."""
    try:
        with opened(path) as (container, stream):
            return sum(1 for _ in decoded_frames(path, container, stream, 1, pixels=pixels))
    except VideoError as error:
        return error.problem
