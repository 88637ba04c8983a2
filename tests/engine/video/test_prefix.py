"""What the prefix of a clip is: constant and variable rates, long and short clips, any container's clock."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from engine.errors import VideoError
from engine.types import Clip, VideoSpec
from engine.video import prefix
from engine.video.files import probe, write_mp4
from engine.video.prefix import frames_before_end, prefix_frames, read_prefix
from engine.video.times import presentation_times


def write_clip(path: Path, ticks: list[int], *, per_second: int = 30, codec: str = "libx264") -> Clip:
    """A clip whose grey level is 20 + its time in ticks."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=per_second)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, per_second)
        if codec == "libx264":
            stream.options = {"crf": "4", "bf": "0"}
        for tick in ticks:
            grey = np.full((64, 64, 3), 20 + tick, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, per_second)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return probe(path)


def shown_s(clip: Clip, spec: VideoSpec, per_second: int = 30) -> np.ndarray:
    return (read_prefix(clip, spec).mean((1, 2, 3)) - 20) / per_second


def spec(fps: float, count: int) -> VideoSpec:
    return VideoSpec(width=64, height=64, fps=fps, prefix_frames=count, num_frames=1)


VARIABLE = [*range(60), *range(60, 150, 3)]
"""2 s at 30 frames per second, then 3 s at 10, as a phone writes them in poor light."""


def test_a_variable_rate_is_read_by_time(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "vfr.mp4", VARIABLE)
    wanted = 147 / 30 - np.arange(24)[::-1] / 8
    by_time = shown_s(clip, spec(8.0, 24))
    assert np.abs(by_time - wanted).max() < 0.5 / 10 + 2 / 30 / 2 + 0.02, "half a frame of 10 per second"
    by_index = np.array(VARIABLE)[
        len(VARIABLE) - 1 - np.round(np.arange(24)[::-1] * clip.fps / 8).astype(int)
    ]
    assert np.abs(by_index / 30 - wanted).max() > 0.5, "an average rate would miss by more than half a second"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".ts"])
@pytest.mark.parametrize("fps", [8.0, 16.0, 24.0, 25.0, 30.0, 12.5])
def test_a_constant_rate_is_counted_as_before(tmp_path: Path, suffix: str, fps: float) -> None:
    """Back from the last frame, to the nearest, of two the earlier: whatever clock the container has."""
    clip = write_clip(tmp_path / f"clip{suffix}", list(range(100)))
    count = int(3 * fps)
    back = (np.arange(count)[::-1] * 30 / fps + 0.5).astype(int)
    assert clip.fps == pytest.approx(30)
    found = frames_before_end(clip, fps=fps, count=count).indices
    assert list(found) == (clip.num_frames - 1 - back).tolist()


def test_of_a_long_clip_all_see_the_last_three_seconds(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "ten.mp4", list(range(80)), per_second=8)
    whole = prefix_frames(clip)
    assert whole.indices == tuple(range(56, 80)) and whole.times_s == tuple(i / 8 for i in range(24))
    assert shown_s(clip, spec(8.0, 24), 8) == pytest.approx(np.arange(56, 80) / 8, abs=0.2)


@pytest.mark.parametrize(("fps", "count"), [(8, 24), (30, 90), (24, 72), (30, 89), (25, 40)])
def test_of_a_clip_that_is_the_prefix_every_frame_is_one(tmp_path: Path, fps: int, count: int) -> None:
    found = prefix_frames(write_clip(tmp_path / "clip.mp4", list(range(count)), per_second=fps))
    assert found.indices == tuple(range(count)) and found.times_s == tuple(i / fps for i in range(count))


def test_times_of_a_variable_rate_are_those_of_the_frames(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "vfr.mp4", VARIABLE)
    times, found = presentation_times(clip.path), prefix_frames(clip)
    first = times[found.indices[0]] - Fraction(found.times_s[0])
    assert [float(times[i] - first) for i in found.indices] == pytest.approx(found.times_s, abs=1e-6)
    assert found.indices[-1] == len(VARIABLE) - 1 and 2.8 < found.times_s[-1] <= 3.0


def test_a_frame_may_be_missing_at_the_start_but_not_two(tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", np.zeros((24, 64, 64, 3), np.uint8), 8.0)
    clip = probe(tmp_path / "clip.mp4")
    assert frames_before_end(clip, fps=8.0, count=25).indices[:2] == (0, 0)
    with pytest.raises(VideoError, match=r"3\.00 s long.*3\.25 s"):
        frames_before_end(clip, fps=8.0, count=26)


def test_nobody_else_decides_what_the_prefix_is() -> None:
    """Whoever reads `scenario.prefix` does it through this module."""
    root = Path(prefix.__file__).parents[1]
    readers = [
        path.relative_to(root).as_posix()
        for path in sorted(root.rglob("*.py"))
        if "demo" not in path.parts and "read_frames(" in path.read_text() and "prefix" in path.read_text()
    ]
    assert readers == ["video/prefix.py"]
