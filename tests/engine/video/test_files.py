"""Reading, refusing and writing video files, with real H.264 files."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from engine.errors import VideoError
from engine.types import Frames, VideoSpec
from engine.video import files
from engine.video.files import (
    check_clip,
    probe,
    probe_each,
    probed,
    read_frames,
    resample_indices,
    stream_frames,
    write_mp4,
)
from engine.video.prefix import read_prefix

ROOT = Path(__file__).parents[3]


def moving_square(num_frames: int = 24, size: int = 64) -> Frames:
    frames = np.full((num_frames, size, size, 3), (90, 110, 140), np.uint8)
    for index in range(num_frames):
        frames[index, 20:36, index + 4 : index + 20] = (200, 60, 40)
    return frames


@pytest.fixture
def clip_path(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    write_mp4(path, moving_square(), 8.0)
    return path


def test_a_written_clip_reads_back(clip_path: Path) -> None:
    clip = probe(clip_path)
    assert (clip.fps, clip.num_frames, clip.width, clip.height) == (8.0, 24, 64, 64)
    error = np.abs(read_frames(clip).astype(int) - moving_square())
    assert error.mean() < 2.0


@pytest.mark.parametrize("fps", [8.0, 16.0, 24.0, 30.0, 24000 / 1001])
def test_frame_rate_and_duration_are_exact(tmp_path: Path, fps: float) -> None:
    num_frames = round(5 * fps)
    write_mp4(tmp_path / "clip.mp4", np.zeros((num_frames, 16, 16, 3), np.uint8), fps)
    assert probe(tmp_path / "clip.mp4").fps == pytest.approx(fps, rel=1e-6)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.duration is not None
        assert container.duration / av.time_base == pytest.approx(num_frames / fps, abs=0.001)


def test_a_folder_that_takes_no_files_is_an_error() -> None:
    with pytest.raises(VideoError, match=r"/proc/clip\.mp4 cannot be written: No such file"):
        write_mp4(Path("/proc/clip.mp4"), np.zeros((2, 16, 16, 3), np.uint8), 8.0)


def test_writing_leaves_nothing_but_the_file(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", moving_square(2), 8.0)
    with pytest.raises(AssertionError):
        write_mp4(tmp_path / "b.mp4", moving_square(2)[:, :63], 8.0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_equal_frames_give_equal_files_whatever_lies_in_memory(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    frames = np.clip(moving_square(40, 32) + draw.normal(0, 6, (40, 32, 32, 3)), 0, 255).astype(np.uint8)
    files = set()
    for number in range(6):
        blocks = [draw.integers(0, 256, int(draw.integers(100, 20_000)), np.uint8) for _ in range(400)]
        kept = [blocks[index] for index in draw.permutation(400)[:100]]
        del blocks
        write_mp4(tmp_path / f"{number}.mp4", frames, 8.0)
        files.add((tmp_path / f"{number}.mp4").read_bytes())
        assert len(kept) == 100  # alive while the file was written, with freed memory of odd content between
    assert len(files) == 1


ENCODE = """
import os, sys
import numpy as np
os.sched_setaffinity(0, {cores})
from engine.video.files import write_mp4
from pathlib import Path
random = np.random.default_rng(0)
texture = random.integers(0, 256, (256, 256, 3), dtype=np.uint8)
write_mp4(Path(sys.argv[1]), np.stack([np.roll(texture, (i, 2 * i), (0, 1)) for i in range(8)]), 8.0)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be restricted here")
def test_equal_frames_give_equal_files_on_any_number_of_cores(tmp_path: Path) -> None:
    every = sorted(os.sched_getaffinity(0))
    if len(every) < 2:
        pytest.skip("this machine has one core")
    for name, cores in (("one", {every[0]}), ("all", set(every))):
        code = ENCODE.format(cores=cores)
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True, cwd=ROOT)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "all").read_bytes()


def test_resizing_and_picking_frames(clip_path: Path) -> None:
    whole = read_frames(clip_path)
    assert read_frames(clip_path, width=32, height=16).shape == (24, 16, 32, 3)
    assert np.array_equal(read_frames(clip_path, indices=[20, 3]), whole[[3, 20]])


def test_prefix_counts_back_from_the_last_frame(clip_path: Path) -> None:
    spec = VideoSpec(width=64, height=64, fps=8.0, prefix_frames=9, num_frames=40)
    whole, clip = read_frames(clip_path), probe(clip_path)
    assert np.array_equal(read_prefix(clip, spec), whole[-9:])
    slower = read_prefix(clip, replace(spec, fps=4.0, prefix_frames=5))
    assert np.array_equal(slower, whole[[15, 17, 19, 21, 23]])
    faster = read_prefix(clip, replace(spec, fps=16.0, prefix_frames=4))
    assert np.array_equal(faster, whole[[21, 22, 22, 23]])


def test_prefix_may_lack_one_frame_but_not_two(clip_path: Path) -> None:
    clip = probe(clip_path)
    spec = VideoSpec(width=64, height=64, fps=8.0, prefix_frames=25, num_frames=40)
    assert len(read_prefix(clip, spec)) == 25
    with pytest.raises(VideoError, match=r"3\.00 s long.*3\.25 s"):
        read_prefix(clip, replace(spec, prefix_frames=26))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"gone\.mp4 does not exist") as error:
        probe(tmp_path / "gone.mp4")
    assert error.value.fix


def test_text_named_mp4_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("this is no video\n" * 50)
    with pytest.raises(VideoError, match=r"text\.mp4"):
        probe(path)


def test_every_truncation_is_noticed(clip_path: Path, tmp_path: Path) -> None:
    data = clip_path.read_bytes()
    for size in (0, 40, len(data) // 3, len(data) * 2 // 3, len(data) - 1):
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(data[:size])
        with pytest.raises(VideoError, match=r"cut\.mp4"):
            read_frames(cut)


def test_a_clip_without_frames_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        container.add_stream("libx264", rate=8).width = 16
    with pytest.raises(VideoError, match=r"sound\.mp4"):
        probe(path)


def test_a_clip_that_cannot_be_read_keeps_its_place_and_what_is_expected(
    clip_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = probe(clip_path)
    gone = tmp_path / "gone.mp4"
    found = probe_each([clip_path, gone, clip_path], fps=8.0, num_frames=25)
    assert found[0] == found[2] == whole
    assert (found[1].path, found[1].fps, found[1].num_frames, found[1].width) == (gone, 8.0, 25, 0)
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        probed(found[1])
    monkeypatch.setattr(files, "probe", lambda path: pytest.fail("read again"))
    assert probed(found[0]) == whole


def test_wrong_rate_and_length_name_found_and_allowed(clip_path: Path) -> None:
    clip = probe(clip_path)
    check_clip(clip, fps=8.0, num_frames=25)
    with pytest.raises(VideoError, match=r"has 8 frames per second; 16 is needed"):
        check_clip(clip, fps=16.0, num_frames=48)
    with pytest.raises(VideoError, match=r"has 24 frames .*40 ± 1 frame"):
        check_clip(clip, fps=8.0, num_frames=40)


def test_frames_that_nobody_needs_leave_memory(clip_path: Path) -> None:
    """The collector of cycles, which counts objects, stands still here."""

    def held() -> int:
        found = [one for one in gc.get_objects() if isinstance(one, av.VideoFrame)]
        return sum(one.width > 16 for one in found)

    gc.collect()
    gc.disable()
    try:
        before = held()
        for _ in range(3):
            clip = probe(clip_path)
        assert held() == before
        assert sum(1 for _ in stream_frames(clip)) == clip.num_frames
        assert held() == before
    finally:
        gc.enable()


def test_resampled_indices() -> None:
    assert resample_indices(6, 30.0, 10.0) == [0, 3]
    assert resample_indices(4, 8.0, 16.0) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(resample_indices(150, 30.0, 8.0)) == 40
