"""Frames come back bit for bit whatever they change by, and damage is never taken for a frame."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard

from bench.scoring.packed_frames import FramePacker, FrameUnpacker

SHAPES = [(540, 960, 3), (7, 5, 3), (1, 1, 3), (4, 4, 1)]


def clip(shape: tuple[int, ...], num_frames: int = 40) -> list[np.ndarray]:
    """Noise, a step at whose end bytes wrap around, a still frame, and frames that share nothing."""
    random = np.random.default_rng(0)
    any_frame = [random.integers(0, 256, shape, dtype=np.uint8) for _ in range(3)]
    steps = [random.integers(-3, 4, shape).astype(np.uint8) for _ in range(num_frames)]
    noisy = [np.add(any_frame[0], step, dtype=np.uint8) for step in steps]
    still = np.full(shape, 255, np.uint8)
    return [*any_frame, *noisy, still, still, np.zeros(shape, np.uint8), still]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_frame_comes_back(shape: tuple[int, ...]) -> None:
    packer, unpacker = FramePacker(), FrameUnpacker(shape)
    for frame in clip(shape):
        assert np.array_equal(unpacker.unpack(packer.pack(frame)), frame)


def test_noise_takes_half_a_byte_at_most() -> None:
    frames = clip((135, 240, 3))
    packer = FramePacker()
    sizes = [len(packer.pack(frame)) for frame in frames]
    assert max(sizes[4:40]) < 0.55 * frames[0].nbytes
    assert sizes[-3] < 0.01 * frames[0].nbytes  # nothing changed


def test_damage_is_found_wherever_it_is() -> None:
    """Without the checksum a changed literal is one more grey level."""
    packed = FramePacker().pack(clip((27, 48, 3))[0])
    for place in range(0, len(packed), 97):
        damaged = bytearray(packed)
        damaged[place] ^= 4
        with pytest.raises((zstandard.ZstdError, ValueError)):
            FrameUnpacker((27, 48, 3)).unpack(bytes(damaged))
    for length in (0, 5, len(packed) // 2, len(packed) - 5):
        with pytest.raises((zstandard.ZstdError, ValueError)):
            FrameUnpacker((27, 48, 3)).unpack(packed[:length])


def test_a_frame_of_another_size_is_refused() -> None:
    packed = FramePacker().pack(clip((27, 48, 3))[0])
    for shape in ((27, 40, 3), (27, 56, 3)):
        with pytest.raises(ValueError, match="expected"):
            FrameUnpacker(shape).unpack(packed)
