"""How many frames a clip shows, when, and at which rate: whole clips that count otherwise are no parts."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import pytest
from odd_clips import NUM_FRAMES, cut_by_edit_list, hidden, samples_replaced, write_clip, write_timed

from engine.video.files import probe, read_frames
from engine.video.times import ShownFrames, presentation_times, read_timeline

NO_B = {"bf": "0"}
ACCESS_UNIT_DELIMITER = b"\0\0\0\2\x09\xf0"  # a unit of two bytes that is no picture


def null_samples(path: Path, codec: str) -> Path:
    plain = write_clip(path.with_name("plain.mp4"), codec, options=NO_B)
    return samples_replaced(plain, path, {10: b"", 11: b"", NUM_FRAMES - 1: b""})


def no_pictures(path: Path) -> Path:
    plain = write_clip(path.with_name("plain.mp4"), options=NO_B)
    return samples_replaced(plain, path, {NUM_FRAMES - 1: ACCESS_UNIT_DELIMITER})


def edited(first_s: float, seconds: float) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        plain = write_clip(path.with_name("plain.mp4"))
        return cut_by_edit_list(plain, path, first_s=first_s, seconds=seconds)

    return make


WHOLE: dict[str, tuple[str, Callable[[Path], Path], int]] = {
    "mp4": ("a.mp4", write_clip, 24),
    "fragments": (
        "a.mp4",
        lambda p: write_clip(p, container_options={"movflags": "frag_keyframe+empty_moov"}),
        24,
    ),
    "transport stream": ("a.ts", write_clip, 24),
    "Matroska": ("a.mkv", write_clip, 24),
    "Matroska of open length": ("a.mkv", lambda p: write_clip(p, container_options={"live": "1"}), 24),
    "open groups": ("a.mp4", lambda p: write_clip(p, options={"x264-params": "open-gop=1:keyint=8"}), 24),
    "null samples, H.264": ("a.mp4", lambda p: null_samples(p, "libx264"), 21),
    "null samples, MPEG-4": ("a.mp4", lambda p: null_samples(p, "mpeg4"), 21),
    "null chunks, AVI": (
        "a.avi",
        lambda p: write_clip(p, "mpeg4", change=lambda i, data: [] if i in (10, 11) else [data]),
        22,
    ),
    "a unit without picture": ("a.mp4", no_pictures, 23),
    "hidden frames, VP8": ("a.webm", lambda p: write_clip(p, "libvpx", change=hidden(0x10, 5, 9)), 22),
    "hidden frames, VP9": (
        "a.webm",
        lambda p: write_clip(p, "libvpx-vp9", options={"g": "8"}, change=hidden(0x02, 8)),
        23,
    ),
    "AV1, most frames hidden": ("a.mp4", lambda p: write_clip(p, "libsvtav1", options={"preset": "10"}), 24),
    "cut at the start": ("a.mp4", edited(1.0, 2.0), 16),
    "cut at the end": ("a.mp4", edited(0.0, 2.0), 16),
    "cut at both": ("a.mp4", edited(1.0, 1.0), 8),
}


@pytest.mark.parametrize(("name", "make", "count"), WHOLE.values(), ids=WHOLE)
def test_a_whole_clip_is_read_whole(
    tmp_path: Path, name: str, make: Callable[[Path], Path], count: int
) -> None:
    path = make(tmp_path / name)
    clip = probe(path)
    assert clip.num_frames == count
    assert len(read_frames(clip)) == count
    times = presentation_times(path)
    assert len(times) == count and times[0] == 0 and times == sorted(set(times))
    assert len(read_timeline(path).times_s) == count


@pytest.mark.parametrize("last", [1, 500, 1001, 4000])
def test_the_rate_does_not_depend_on_how_long_the_last_frame_lasts(tmp_path: Path, last: int) -> None:
    ticks = [1001 * index for index in range(72)]
    path = write_timed(tmp_path / "a.mp4", ticks, Fraction(1, 24000), [1001] * 71 + [last])
    assert probe(path).fps == 24000 / 1001
    with av.open(str(path)) as container:
        average = container.streams.video[0].average_rate
    assert last == 1001 or average != Fraction(24000, 1001)  # what was taken for the rate before


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(24), Fraction(30000, 1001), Fraction(25)])
def test_a_clock_of_milliseconds_does_not_blur_the_rate(rate: Fraction) -> None:
    times = tuple(Fraction(round(1000 * index / rate), 1000) for index in range(72))
    shown = ShownFrames(
        first=None, count=72, times=times, end=times[-1], tick=Fraction(1, 1000), stated_rates=()
    )
    assert shown.rate == rate


def test_a_variable_rate_is_the_mean_of_its_intervals() -> None:
    times = tuple(map(Fraction, (0, 1, 2, 3, 4, 9)))
    shown = ShownFrames(
        first=None, count=6, times=times, end=times[-1], tick=Fraction(1, 1000), stated_rates=(Fraction(1),)
    )
    assert shown.rate == Fraction(5, 9)
