"""Stored takes: exact, read without decoding, made again when damaged or when what decides them changes."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from plain_reader import load_real
from scored_clips import FPS, make_dataset

from bench.scoring import reference_cache
from bench.scoring.reference_cache import RealTakes, ReferenceCache, expected_bytes
from bench.scoring.references import COMPUTED, Reference, ReferenceKey, reference_key, references
from bench.scoring.view_metrics import compare, motion_share
from engine.datasets.physics_iq import read_descriptions
from engine.errors import ScorerError, VideoError
from engine.runs.digests import FileDigests

CASE = "0001_perspective-left"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("scenes"))


def find(dataset: Path) -> tuple[Reference, ReferenceKey]:
    reference = references(dataset, read_descriptions(dataset), FPS)[CASE]
    return reference, reference_key(reference, FPS, FileDigests(None))


def all_frames(takes: RealTakes) -> list[np.ndarray]:
    return [np.stack([frame.copy() for frame in takes.frames(take)]) for take in (0, 1)]


def test_everything_comes_back_as_it_was(dataset: Path, tmp_path: Path) -> None:
    reference, key = find(dataset)
    cache = ReferenceCache(folder=tmp_path / "references")
    pairs = zip(reference.takes, reference.masks, strict=True)
    clips = [load_real(*pair, key.size, FPS) for pair in pairs]
    for _ in range(2):  # made, then read
        takes = cache.use(reference, key, lambda takes: takes)
        assert takes.variance == compare(*clips)
        for clip, frames, motion in zip(clips, all_frames(takes), takes.motion, strict=True):
            assert np.array_equal(frames, clip.frames)
            assert np.array_equal(motion.share, motion_share(clip.masks))
            assert np.array_equal(np.unpackbits(motion.packed[-1])[: 16 * 16], clip.masks[-1].reshape(-1))


def test_second_use_decodes_nothing(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, key = find(dataset)
    cache = ReferenceCache(folder=tmp_path)
    first = cache.use(reference, key, all_frames)
    monkeypatch.setattr(reference_cache, "make_entry", lambda *arguments: pytest.fail("made again"))
    assert all(map(np.array_equal, cache.use(reference, key, all_frames), first))
    low, high = expected_bytes(key.size, key.num_frames)
    assert cache.usage()[0] == 1 and 0 < low < high


def test_nothing_is_kept_without_a_folder(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    reference, key = find(dataset)
    place = ReferenceCache(folder=None).use(reference, key, lambda takes: takes.path)
    assert place.is_relative_to(tmp_path) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["empty", "half", "frame", "other"])
def test_damaged_entry_is_made_again(dataset: Path, tmp_path: Path, damage: str) -> None:
    reference, key = find(dataset)
    cache = ReferenceCache(folder=tmp_path)
    expected = cache.use(reference, key, all_frames)
    path = cache.path(key)
    content = bytearray(path.read_bytes())
    middle = content.index(b"take-2/00020") + 15  # in the data of one frame
    content[middle] ^= 0xFF
    damaged = {
        "empty": b"",
        "half": bytes(content[: len(content) // 2]),
        "frame": bytes(content),
        "other": b"text" * 99,
    }
    path.write_bytes(damaged[damage])
    assert all(map(np.array_equal, cache.use(reference, key, all_frames), expected))
    assert path.read_bytes() != damaged[damage]


def test_key_follows_everything_that_decides_bits(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    reference, key = find(copy)
    assert key == find(dataset)[1]  # by content, not by place
    keys = {key.text}
    for path in (*reference.takes, *reference.masks):
        other = path.with_name(path.name.replace("sliding-square-0", "sliding-square-1"))
        other = next(path.parent.glob(other.name.replace(path.name[:4], "*", 1)))
        shutil.copyfile(other, path)
        keys.add(find(copy)[1].text)
    reference.masks[0].unlink()
    bare = find(copy)[1]
    assert bare.digests[2] == COMPUTED and bare.digests[3] != COMPUTED
    keys |= {bare.text, dataclasses.replace(key, fps=7.99).text}
    keys |= {dataclasses.replace(key, num_frames=39).text, dataclasses.replace(key, size=(15, 16)).text}
    monkeypatch.setattr("cv2.__version__", "9.9.9")
    keys.add(key.text)
    assert len(keys) == 10


def test_size_of_a_known_clip_is_not_asked_of_it(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, key = find(dataset)
    for damage in (None, b"", b"[64", b"[64]", b"64", b'["a", "b"]'):
        for path in tmp_path.glob("*" if damage is not None else "none"):
            path.write_bytes(damage or b"")
        assert reference_key(reference, FPS, FileDigests(None), tmp_path) == key
    monkeypatch.setattr("bench.scoring.references.probe", lambda path: pytest.fail("opened"))
    assert reference_key(reference, FPS, FileDigests(None), tmp_path) == key
    assert len(list(tmp_path.iterdir())) == 1


def test_half_written_entry_is_never_seen(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, key = find(dataset)
    cache = ReferenceCache(folder=tmp_path)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reference_cache, "compare_motion", killed)
    with pytest.raises(KeyboardInterrupt):
        cache.use(reference, key, all_frames)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_a_users_error(dataset: Path, tmp_path: Path) -> None:
    reference, key = find(dataset)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ScorerError, match="cannot write"):
        ReferenceCache(folder=tmp_path / "file" / "references").use(reference, key, all_frames)


def test_short_take_is_refused(dataset: Path, tmp_path: Path) -> None:
    reference, key = find(dataset)
    longer = dataclasses.replace(key, num_frames=41)
    with pytest.raises(VideoError, match="has 40 frames that decode; the first 41 are compared"):
        ReferenceCache(folder=tmp_path).use(reference, longer, all_frames)
    assert list(tmp_path.iterdir()) == []
