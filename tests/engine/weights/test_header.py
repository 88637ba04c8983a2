"""A header says where each tensor lies; a pickle, a cut or a lying file is refused before that."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from foreign_files import write_gguf
from safetensors.torch import save_file

from engine.errors import ModelError
from engine.weights.header import read_header


def safetensors(path: Path, header: dict[str, object], body: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def gguf(path: Path) -> Path:
    tensors = {"a.weight": torch.ones(2, 64), "b": torch.ones(3, 2, 1, 2, 2)}
    metadata = {"tokens": ["word"] * 100, "small": [1, 2, 3]}
    return write_gguf(
        path, tensors, lambda name, _: "Q8_0" if name == "a.weight" else "F32", metadata=metadata
    )


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"a": torch.ones(2, 3, dtype=torch.bfloat16), "b": torch.ones(4).to(torch.float8_e4m3fn)}
    save_file(tensors, path, metadata={"format": "pt"})
    header = read_header(path)
    assert header.format == "safetensors" and header.metadata == {"format": "pt"}
    assert {name: (one.type, one.shape) for name, one in header.tensors.items()} == {
        "a": ("BF16", (2, 3)),
        "b": ("F8_E4M3", (4,)),
    }
    assert header.types == {"BF16": 6, "F8_E4M3": 4}
    raw = path.read_bytes()
    found = header.tensors["a"]
    assert raw[found.start : found.start + found.num_bytes] == bytes([0x80, 0x3F] * 6)


def test_gguf(tmp_path: Path) -> None:
    header = read_header(gguf(tmp_path / "a.gguf"))
    assert header.format == "gguf" and header.metadata["general.architecture"] == "wan"
    assert header.metadata["small"] == [1, 2, 3] and header.metadata["tokens"] is None
    assert {name: (one.type, one.shape) for name, one in header.tensors.items()} == {
        "a.weight": ("Q8_0", (2, 64)),
        "b": ("F32", (3, 2, 1, 2, 2)),
    }


def test_a_tensor_that_was_flattened_for_the_quantizer_has_its_shape(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "a.gguf",
        {"a": torch.ones(3, 256)},
        lambda *_: "Q4_K",
        metadata={"comfy.gguf.orig_shape.a": [3, 4, 8, 8]},
    )
    assert read_header(path).tensors["a"].shape == (3, 4, 8, 8)


@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf", "model.pth"])
def test_a_pickle_is_refused_whatever_its_name(tmp_path: Path, name: str) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / name)
    with pytest.raises(ModelError, match=r"is a pickle, which can run any code.*\n.*\.safetensors"):
        read_header(tmp_path / name)
    (tmp_path / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ModelError, match="is a pickle"):
        read_header(tmp_path / name)


@pytest.mark.parametrize(
    ("header", "body", "told"),
    [
        (
            {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}},
            b"\0" * 15,
            "ends before a, which would end at",
        ),
        (
            {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 12]}},
            b"\0" * 16,
            "a begins before the file, or its size",
        ),
        (
            {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}},
            b"\0" * 16,
            "a begins before the file, or its size",
        ),
        ({"a": {"dtype": "F7", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 16, "unknown type 'F7'"),
        ({"a": {"dtype": "F32", "shape": [4]}}, b"\0" * 16, "data_offsets"),
        ({"a": 3}, b"", "no whole"),
        ({"__metadata__": ["a"]}, b"", "its metadata are no object"),
    ],
)
def test_a_lying_safetensors_header(
    tmp_path: Path, header: dict[str, object], body: bytes, told: str
) -> None:
    with pytest.raises(ModelError, match=told):
        read_header(safetensors(tmp_path / "a.safetensors", header, body))


@pytest.mark.parametrize("content", [b"\xff" * 64, b"\x10" + b"\0" * 7 + b"{}", b"GGUF"])
def test_what_is_no_weight_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="no whole safetensors or GGUF"):
        read_header(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", r"\(0 bytes\) is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE HTML><title>403</title>", "a web page"),
        (b"# Notes", "text, no weights: it begins with '# Notes'"),
        ("ä".encode() * 100, "text, no weights: it begins with 'ää"),
        (b"a" + "ä".encode() * 100, "text, no weights: it begins with 'aää"),
    ],
)
def test_what_a_download_left_under_the_name_of_weights(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=told) as caught:
        read_header(path)
    assert caught.value.fix == "copy or download the file again"


@pytest.mark.parametrize("content", [b'{"model_type": "a"}', b"\0\0\0\x1cftypisom" + b"\0" * 64])
def test_a_file_that_was_never_one_of_weights_is_not_to_be_fetched_again(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"is text, no weights|it begins as neither does") as caught:
        read_header(path)
    assert caught.value.fix == "give a file of weights, .safetensors or .gguf"


def test_metadata_may_be_null(tmp_path: Path) -> None:
    assert read_header(safetensors(tmp_path / "a.safetensors", {"__metadata__": None}, b"")).metadata == {}


def test_lists_of_a_gguf_are_not_followed_down_for_ever(tmp_path: Path) -> None:
    lists = struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + lists)
    with pytest.raises(ModelError, match="nested too deep"):
        read_header(path)


def test_a_gguf_with_two_tensors_of_a_name(tmp_path: Path) -> None:
    tensors = {"one": torch.ones(1, 32), "two": torch.ones(1, 32)}
    path = write_gguf(tmp_path / "a.gguf", tensors, lambda *_: "F32")
    path.write_bytes(path.read_bytes().replace(b"two", b"one"))
    with pytest.raises(ModelError, match="have the same name"):
        read_header(path)


def test_a_gguf_whose_shape_has_negative_sides(tmp_path: Path) -> None:
    metadata = {"comfy.gguf.orig_shape.a": [-3, -256]}
    path = write_gguf(tmp_path / "a.gguf", {"a": torch.ones(3, 256)}, lambda *_: "F32", metadata=metadata)
    with pytest.raises(ModelError, match=r"states the shape \[-3, -256\]"):
        read_header(path)


@pytest.mark.parametrize("kept", [5, 12, 30, 100, -1])
def test_a_cut_gguf(tmp_path: Path, kept: int) -> None:
    path = gguf(tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match="no whole"):
        read_header(path)


def test_a_gguf_of_another_version_or_byte_order(tmp_path: Path) -> None:
    path = gguf(tmp_path / "a.gguf")
    path.write_bytes(b"GGUF" + struct.pack(">I", 3) + path.read_bytes()[8:])
    with pytest.raises(ModelError, match="version 50331648 is not one of 2, 3"):
        read_header(path)
