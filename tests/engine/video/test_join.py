"""A clip and its continuation as one file: size, rate, shape and sound are the clip's."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips_with_sound import SIZE, disc, sound_of, write_with_tone

from engine.types import Frames
from engine.video.files import probe, read_frames, write_mp4
from engine.video.join import join


@pytest.fixture
def take(tmp_path: Path) -> Path:
    """40 frames of 128 x 128 at 8 per second: the wide picture squeezed, as a generator sees it."""
    frames = np.stack([disc(128, 128, 2.0, 0.5 + 0.25 * index / 40) for index in range(40)])
    write_mp4(tmp_path / "take.mp4", frames, 8.0)
    return tmp_path / "take.mp4"


def extent(frame: Frames) -> tuple[int, int]:
    """Width and height of what is red, in pixels."""
    red = (frame[..., 0].astype(int) - frame[..., 1]) > 80
    return int(red.any(0).sum()), int(red.any(1).sum())


def test_the_clip_comes_first_at_its_size_rate_and_shape_with_its_sound(tmp_path: Path, take: Path) -> None:
    clip = probe(write_with_tone(tmp_path / "mine.mp4"))
    made = join(clip, take, tmp_path / "post.mp4", with_prefix=True)
    post = probe(tmp_path / "post.mp4")
    assert (post.width, post.height, post.fps, post.num_frames) == (*SIZE, 30.0, 90 + 150)
    assert (made.width, made.height, made.fps, made.seconds) == (*SIZE, 30.0, 8.0)
    assert made.sound == "aac, as it is in the clip" and made.silent is None
    codec, seconds, loudness = sound_of(tmp_path / "post.mp4")
    assert codec == "aac" and seconds == pytest.approx(3.0, abs=0.1) and loudness > 0.3
    frames = read_frames(post, indices=[0, 89, 90, 239])
    own = read_frames(clip, indices=[0, 89])
    for index in (0, 1):
        assert np.abs(frames[index].astype(int) - own[index]).mean() < 2
    for frame in frames:  # round in the clip and in the take, which a generator saw squeezed
        width, height = extent(frame)
        assert abs(width - height) <= 3 and abs(width - extent(own[0])[0]) <= 4


def test_the_take_alone_has_the_shape_of_the_clip(tmp_path: Path, take: Path) -> None:
    clip = probe(write_with_tone(tmp_path / "mine.mp4", fps=24.0))
    made = join(clip, take, tmp_path / "post.mp4", with_prefix=False)
    assert probe(tmp_path / "post.mp4").num_frames == 120 and made.seconds == 5.0
    assert made.silent == "the take alone has no sound"


@pytest.mark.parametrize(
    ("name", "codec", "sound", "silent"),
    [
        ("mine.mov", "pcm_s16le", "aac, encoded from pcm_s16le", None),
        ("mine.mkv", "libmp3lame", "mp3, as it is in the clip", None),
        ("mine.mp4", None, None, "the clip has no sound"),
    ],
)
def test_sound_comes_in_or_it_is_said_why_not(
    tmp_path: Path, take: Path, name: str, codec: str | None, sound: str | None, silent: str | None
) -> None:
    clip = probe(write_with_tone(tmp_path / name, codec=codec))
    made = join(clip, take, tmp_path / "post.mp4", with_prefix=True)
    assert (made.sound, made.silent) == (sound, silent)
    if sound is not None:
        codec_now, seconds, loudness = sound_of(tmp_path / "post.mp4")
        assert (
            codec_now == sound.split(",")[0].replace("mp3", "mp3float")
            and seconds == pytest.approx(3.0, abs=0.1)
            and loudness > 0.3
        )


def test_an_odd_size_loses_a_line_and_pixels_keep_their_shape(tmp_path: Path, take: Path) -> None:
    anamorphic = write_with_tone(tmp_path / "wide.mp4", pixel_shape=Fraction(4, 3), size=(160, 120))
    join(probe(anamorphic), take, tmp_path / "post.mp4", with_prefix=True)
    with av.open(str(tmp_path / "post.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
    odd = tmp_path / "odd.avi"
    with av.open(str(odd), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 161, 121, "yuv420p"
        for _ in range(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(disc(161, 121, 2.0), format="rgb24")))
        container.mux(stream.encode(None))
    made = join(probe(odd), take, tmp_path / "even.mp4", with_prefix=True)
    assert (made.width, made.height) == (160, 120)
    assert probe(tmp_path / "even.mp4").num_frames == 80


def test_frames_of_a_clip_of_variable_rate_stay_as_long_as_they_were(tmp_path: Path, take: Path) -> None:
    path = tmp_path / "phone.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(30):  # the second half twice as slow
            frame = av.VideoFrame.from_ndarray(np.full((90, 160, 3), 8 * index, np.uint8), format="rgb24")
            frame.pts = 100 * index if index < 15 else 1500 + 200 * (index - 15)
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clip = probe(path)
    made = join(clip, take, tmp_path / "post.mp4", with_prefix=True)
    post = probe(tmp_path / "post.mp4")
    assert made.seconds == pytest.approx(4.3 + 5 + 1 / clip.fps, abs=0.08)
    greys = read_frames(post)[:, 45, 40, 0]
    at = [int(np.abs(greys.astype(int) - 8 * index).argmin()) / clip.fps for index in (10, 20)]
    assert at == pytest.approx([1.0, 2.5], abs=0.1)
