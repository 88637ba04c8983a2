"""GGUF blocks are the numbers that ggml makes of them, bit for bit; what is beyond fp16 stays what it is."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_files import write_gguf

from engine.errors import ModelError
from engine.weights.contents import contents
from engine.weights.ggml_blocks import DEQUANTIZE, dequantize
from engine.weights.ggml_types import BLOCKS, READ, TYPES
from engine.weights.header import read_header
from engine.weights.tensors import Weights

SCALES = {
    "Q8_0": (0,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
"""Where a block has its fp16 scales."""
GGUF_PACKAGE = {
    "Q2_K": "6c92eeb9eb872a675eebb3dcf74065673c7d4d32034944fd22eb2cac81ef87f1",
    "Q3_K": "ab9c6365a7d342d85cfe51918aac14001e050f3401fb3a23a69cc37c2b05442f",
    "Q4_0": "58b9deb274fc296511de96f216075048217c9fb0e82085cec76b3990ab07e2a0",
    "Q4_1": "0b4aca33922473a80c756f6fafebb7fd8c69470e1cad868141c6f5c13907f9bd",
    "Q4_K": "d071578064e1174af79717154a816c1511c8fd5da2d2b778e9ab7ed0ef0da998",
    "Q5_0": "cb2143e283e5f2fd055fde8aa8c6bbd6b49790d43a06189c6b832e3b83616070",
    "Q5_1": "aefbaa325e7f014431860fba7996b18d3b430511ac1588973f7616b29a5f4298",
    "Q5_K": "3a4823d9be879db7d99cfcf0db5d700952c4cb245fff79175a32b0ab5d7bb291",
    "Q6_K": "01f85e331f48dd94ff72cbdbfc4954580639c6be450040d75d0b22909e2380a6",
    "Q8_0": "103780bf279fb428bcf306fdd344260e428e916d5fb2717a7f069a330eab49f1",
}
"""sha256 of what gguf 0.19.0 makes of `some_blocks`, as fp32."""


def some_blocks(kind: str) -> np.ndarray:
    """Every byte value in every place, but for scales, which are finite: 64 blocks."""
    num_bytes = BLOCKS[kind][1]
    blocks = ((np.arange(64 * num_bytes, dtype=np.uint32) * 2654435761) >> 13).astype(np.uint8)
    blocks = blocks.reshape(64, num_bytes)
    for start in SCALES[kind]:
        scales = np.linspace(-2000, 2000, 64).astype(np.float16)
        blocks[:, start : start + 2] = scales.view(np.uint8).reshape(64, 2)
    return blocks


@pytest.mark.parametrize("kind", sorted(DEQUANTIZE))
def test_a_block_is_what_ggml_makes_of_it(kind: str) -> None:
    values = dequantize(torch.from_numpy(some_blocks(kind)), kind)
    assert values.dtype == torch.float32 and values.shape == (64, BLOCKS[kind][0])
    assert hashlib.sha256(values.numpy().tobytes()).hexdigest() == GGUF_PACKAGE[kind]


@pytest.mark.parametrize("kind", sorted(DEQUANTIZE))
def test_and_what_the_gguf_package_here_makes_of_it(kind: str) -> None:
    gguf = pytest.importorskip("gguf")
    blocks = some_blocks(kind)
    wanted = gguf.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    assert np.array_equal(wanted, dequantize(torch.from_numpy(blocks), kind).numpy())


def test_sizes_are_those_of_the_gguf_package() -> None:
    gguf = pytest.importorskip("gguf")
    for number, (name, *sizes) in TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, *gguf.GGML_QUANT_SIZES[kind]) == (name, *sizes)


def test_every_type_that_is_read_has_its_blocks() -> None:
    assert set(DEQUANTIZE) | {"F32", "F16", "BF16"} == READ
    assert set(SCALES) == set(GGUF_PACKAGE) == set(DEQUANTIZE)


@pytest.fixture(scope="module")
def outlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 1e5 among weights of about 1: beyond fp16, in which other readers hand it out as infinite."""
    torch.manual_seed(0)
    tensors = {f"{kind}.weight": torch.randn(4, 512) for kind in ("Q8_0", "Q4_K", "Q5_K")}
    for tensor in tensors.values():
        tensor[1, 3] = 1e5
    path = tmp_path_factory.mktemp("gguf") / "outlier.gguf"
    return write_gguf(path, tensors, lambda name, _: name.partition(".")[0])


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K", "Q5_K"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_outlier_stays_what_it_is(outlier: Path, kind: str, dtype: torch.dtype) -> None:
    with Weights(contents(read_header(outlier)), torch.device("cpu")) as weights:
        values = weights.read(f"{kind}.weight", dtype)
    assert values.dtype == dtype and values.shape == (4, 512)
    assert float(values[1, 3]) == pytest.approx(1e5, rel=0.01)


def test_where_the_run_is_in_fp16_it_is_refused_by_name(outlier: Path) -> None:
    with (
        Weights(contents(read_header(outlier)), torch.device("cpu")) as weights,
        pytest.raises(ModelError, match=r"Q8_0\.weight reaches 1000\d\d.*float16\n.*bf16"),
    ):
        weights.read("Q8_0.weight", torch.float16)


def test_the_gguf_package_reads_our_test_files_alike(outlier: Path) -> None:
    """So that the writer of the tests writes what others would."""
    gguf = pytest.importorskip("gguf")
    with Weights(contents(read_header(outlier)), torch.device("cpu")) as weights:
        for tensor in gguf.GGUFReader(outlier).tensors:
            wanted = gguf.dequantize(tensor.data, tensor.tensor_type)
            assert np.array_equal(wanted, weights.read(tensor.name, torch.float32).numpy())
