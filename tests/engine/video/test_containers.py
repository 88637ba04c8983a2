"""Parts of files and damaged ones are refused, whatever the container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import pytest
from odd_clips import NUM_FRAMES, write_clip

from engine.errors import VideoError
from engine.video.files import probe, read_frames

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


def test_a_frame_that_the_decoder_made_up_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    data = bytearray(path.read_bytes())
    for place in range(data.index(b"mdat") + 1000, data.index(b"mdat") + 1030):
        data[place] ^= 255
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == NUM_FRAMES  # no error, and a picture that nobody made
    with pytest.raises(VideoError, match=r"a\.mp4 is truncated or damaged in frame 0"):
        read_frames(path)
