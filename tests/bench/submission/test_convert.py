"""One clip to one submission: the cut, the frames taken, the size, and what is not encoded again."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from odd_clips import cut_by_edit_list
from submission_tree import counted, numbers, write_clip

from bench.submission.convert import Cut, Settings, choose_frames, make_clip, make_settings, told_cut
from bench.submission.rules import encoding_problems, timing_problems
from engine.errors import ConfigError, VideoError
from engine.video.files import read_frames, read_header, remux_mp4
from engine.video.times import Timeline


def timeline(num_frames: int, fps: float) -> Timeline:
    times_s = tuple(index / fps for index in range(num_frames))
    return Timeline(times_s=times_s, seconds=num_frames / fps, upright=True)


def made(source: Path, settings: Settings) -> tuple[str, list[str], list[int]]:
    target = source.parent / "out" / "clip.mp4"
    action, notes = make_clip(source, target, settings, told_cut(settings) or Cut(skip_s=0.0, reason="whole"))
    header = read_header(target)
    assert timing_problems(header, settings.fps) + encoding_problems(header) == []
    return action, notes, numbers(read_frames(target))


def mux(path: Path, pts: list[int], rate: int, *, codec: str = "libx264", audio: bool = False) -> Path:
    """Frames of `counted` at the given times in 1 / rate seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        stream.options = {"crf": "10"} if codec == "libx264" else {}
        sound = container.add_stream("aac", rate=8000) if audio else None
        for frame, time in zip(counted(len(pts)), pts, strict=True):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = time, Fraction(1, rate)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000 * 6), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 8000, 0
            container.mux(sound.encode(silence))
            container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(
    ("settings", "skip_s", "says"),
    [
        (Settings(fps=24, prefix="keep"), 0.0, "as told"),
        (Settings(fps=24, prefix="cut"), 3.0, "as told"),
        (Settings(fps=24, skip_s=0.5), 0.5, "0.5 s cut, as told"),
    ],
)
def test_the_cut_may_be_told(settings: Settings, skip_s: float, says: str) -> None:
    cut = told_cut(settings)
    assert cut is not None and cut.skip_s == skip_s and says in cut.reason
    assert told_cut(Settings(fps=24)) is None


@pytest.mark.parametrize(
    ("num_frames", "source_fps", "skip_s", "fps", "first"),
    [
        (120, 24, 0.0, 24, [0, 1, 2, 3, 4]),
        (121, 24, 1 / 24, 24, [1, 2, 3, 4, 5]),
        (192, 24, 3.0, 24, [72, 73, 74, 75, 76]),
        (150, 30, 0.0, 24, [0, 1, 2, 4, 5]),  # 0, 1.25, 2.5 (the earlier of two), 3.75, 5
        (80, 16, 0.0, 24, [0, 1, 1, 2, 3]),  # 0, 0.67, 1.33, 2, 2.67
        (150, 30, 0.0, 8, [0, 4, 7, 11, 15]),  # 0, 3.75, 7.5, 11.25, 15
        (150, 30000 / 1001, 0.0, 30, [0, 1, 2, 3, 4]),
        (120, 24000 / 1001, 0.0, 24, [0, 1, 2, 3, 4]),
    ],
)
def test_each_output_time_gets_the_nearest_frame(
    num_frames: int, source_fps: float, skip_s: float, fps: int, first: list[int]
) -> None:
    indices = choose_frames(timeline(num_frames, source_fps), skip_s=skip_s, fps=fps)
    assert indices[:5] == first and len(indices) == 5 * fps
    times = [skip_s + index / fps for index in range(5 * fps)]
    away = [abs(i / source_fps - time) for i, time in zip(indices, times, strict=True)]
    assert (
        max(away) <= 1 / source_fps / 2 + 1e-6 or max(away) == away[-1]
    )  # the last time may lie past the end
    assert max(indices) <= num_frames - 1


@pytest.mark.parametrize(("num_frames", "fps", "skip_s"), [(119, 24, 0.0), (191, 24, 3.0), (149, 29.97, 0.0)])
def test_a_short_clip_is_refused_not_padded(num_frames: int, fps: float, skip_s: float) -> None:
    with pytest.raises(VideoError, match="too short"):
        choose_frames(timeline(num_frames, fps), skip_s=skip_s, fps=24)


def test_frames_that_come_unevenly_are_taken_by_their_time() -> None:
    uneven = (0.0, 0.1, 1.0, 2.0, 3.1, 4.0, 4.9)
    found = choose_frames(Timeline(times_s=uneven, seconds=5.0, upright=True), skip_s=0.0, fps=1)
    assert found == [0, 2, 3, 4, 5]


def test_eight_seconds_lose_their_first_three(tmp_path: Path) -> None:
    action, notes, frames = made(write_clip(tmp_path / "a.mp4", 64), Settings(fps=8, prefix="cut"))
    assert action == "re-encoded" and "first 3 s" in notes[0]
    assert frames == list(range(24, 64))


def test_a_valid_clip_keeps_its_bytes(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", 40)
    before = source.read_bytes()
    action, _, frames = made(source, Settings(fps=8))
    assert action == "copied" and frames == list(range(40))
    assert (tmp_path / "out" / "clip.mp4").read_bytes() == before == source.read_bytes()


@pytest.mark.parametrize("suffix", [".mkv", ".mov"])
def test_a_valid_stream_in_another_container_is_not_encoded_again(tmp_path: Path, suffix: str) -> None:
    source = mux(tmp_path / f"a{suffix}", list(range(40)), 8)
    action, notes, _ = made(source, Settings(fps=8))
    assert action == "remuxed" and "not an .mp4 file" in notes[0]
    assert np.array_equal(read_frames(tmp_path / "out" / "clip.mp4"), read_frames(source))


def test_sound_is_left_out_without_encoding_again(tmp_path: Path) -> None:
    source = mux(tmp_path / "a.mp4", list(range(40)), 8, audio=True)
    assert read_header(source).container_s > 5.5
    action, notes, _ = made(source, Settings(fps=8))
    assert action == "remuxed" and "2 streams" in notes[0]
    assert np.array_equal(read_frames(tmp_path / "out" / "clip.mp4"), read_frames(source))


def test_remuxing_restores_times_that_a_container_rounds(tmp_path: Path) -> None:
    source = mux(tmp_path / "a.mkv", list(range(120)), 24)  # Matroska stores whole milliseconds
    remux_mp4(source, tmp_path / "b.mp4", 24)
    header = read_header(tmp_path / "b.mp4")
    assert (header.fps, header.base_fps, header.num_frames, header.container_s) == (24.0, 24.0, 120, 5.0)


def test_another_codec_is_encoded_again(tmp_path: Path) -> None:
    action, _, frames = made(mux(tmp_path / "a.mp4", list(range(40)), 8, codec="mpeg4"), Settings(fps=8))
    assert action == "re-encoded" and frames == list(range(40))


def test_another_rate_takes_frames_and_blends_none(tmp_path: Path) -> None:
    action, notes, frames = made(write_clip(tmp_path / "a.mp4", 60, fps=12), Settings(fps=8))
    assert action == "re-encoded" and "12 to 8 fps by the nearest frame" in notes
    assert frames[:4] == [0, 1, 3, 4] and len(frames) == 40
    pixels = read_frames(tmp_path / "out" / "clip.mp4")[..., 1]
    assert ((pixels > 60) & (pixels < 190)).mean() < 0.02


def test_uneven_times_in_a_file_are_followed(tmp_path: Path) -> None:
    pts = [0, 1, 2, *range(8, 40)]  # frame 2 stays for six times
    action, notes, frames = made(mux(tmp_path / "a.mp4", pts, 8), Settings(fps=8))
    assert action == "re-encoded" and any("uneven" in note for note in notes)
    assert frames[:10] == [0, 1, 2, 2, 2, 2, 3, 3, 3, 4]  # time 5 is as far from 2 as from 8


def test_one_frame_too_many_is_dropped_at_the_end_and_said(tmp_path: Path) -> None:
    _, notes, frames = made(write_clip(tmp_path / "a.mp4", 41), Settings(fps=8))
    assert frames == list(range(40))
    assert any("1 frame after" in note for note in notes) and any("--skip-seconds 0.1250" in n for n in notes)
    _, _, frames = made(tmp_path / "a.mp4", Settings(fps=8, skip_s=0.125))
    assert frames == list(range(1, 41))


def test_odd_sizes_are_cropped_and_a_size_asked_for_is_reached(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "odd.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 33, 17, "yuv444p"
        for frame in counted(40, 33, 17):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    _, notes, frames = made(tmp_path / "odd.mkv", Settings(fps=8))
    assert "odd size: 33x17 cropped to 32x16" in notes and frames == list(range(40))
    _, notes, _ = made(tmp_path / "odd.mkv", Settings(fps=8, size=(64, 64)))
    header = read_header(tmp_path / "out" / "clip.mp4")
    assert (header.width, header.height) == (64, 64) and "33x17 resized to 64x64, which stretches it" in notes


@pytest.mark.parametrize("keep", [0.5, 0.97])
def test_a_truncated_clip_is_refused_and_leaves_nothing(tmp_path: Path, keep: float) -> None:
    source = write_clip(tmp_path / "a.mp4", 40)
    source.write_bytes(source.read_bytes()[: int(source.stat().st_size * keep)])
    with pytest.raises(VideoError, match="truncated"):
        make_clip(source, tmp_path / "out" / "clip.mp4", Settings(fps=8), Cut(skip_s=0.0, reason="whole"))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"fps": 0}, "--fps is 0"),
        ({"fps": 500}, "--fps is 500"),
        ({"prefix": "maybe"}, "--prefix is 'maybe'"),
        ({"skip_s": -1.0}, "--skip-seconds is -1"),
        ({"skip_s": 1.0, "prefix": "cut"}, "--skip-seconds is 1 with --prefix cut"),
        ({"size": "1280"}, "--size is '1280'"),
        ({"size": "853x480"}, "--size is '853x480'"),
    ],
)
def test_settings_out_of_range_are_named(changes: dict[str, object], names: str) -> None:
    given: dict[str, object] = {"fps": 24, "prefix": "auto", "skip_s": None, "size": None}
    with pytest.raises(ConfigError, match=names):
        make_settings(**(given | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("num_frames", "first_s"), [(56, 2.0), (48, 1.0), (48, 0.0)])
def test_what_an_edit_list_leaves_out_is_no_part_of_the_answer(
    tmp_path: Path, num_frames: int, first_s: float
) -> None:
    whole = write_clip(tmp_path / "whole.mp4", num_frames)
    source = cut_by_edit_list(whole, tmp_path / "a.mp4", first_s=first_s, seconds=5.0)
    _, _, frames = made(source, Settings(fps=8))
    assert frames == list(range(round(8 * first_s), round(8 * first_s) + 40))
