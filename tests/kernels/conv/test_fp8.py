"""FP8 convolution: the kernel in every form against plain torch, and the error against fp32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from eight_bit import DEVICE, assert_within_twice, errors, needs_triton, normal, target
from torch import Tensor

from kernels.conv import fp8
from kernels.descriptors import Target
from kernels.fused.formats import FP8, to_format

LAST = torch.channels_last_3d


def operands(
    shape: tuple[int, int, int, int, int], outputs: int, taps: tuple[int, int, int] = (3, 3, 3)
) -> tuple[Tensor, Tensor, Tensor]:
    """x8 of `shape`, full up to its edges; w8; scale of inputs times weights."""
    x8 = to_format(normal(*shape) * 20, FP8).contiguous(memory_format=LAST)
    w8, w_scale = fp8.quantize_weight(normal(outputs, shape[1], *taps, seed=1, size=0.05))
    return x8, w8, w_scale / 20


@needs_triton
def test_supports() -> None:
    cpu, hopper, ampere = (
        Target(kind="cpu", capability=None),
        Target(kind="cuda", capability=(9, 0)),
        Target(kind="cuda", capability=(8, 6)),
    )
    assert fp8.supports(cpu, channels=96, outputs=64) is None
    assert fp8.supports(hopper, channels=96, outputs=64) is None
    assert "8.9" in str(fp8.supports(ampere, channels=96, outputs=64))
    for one in (cpu, hopper):
        assert "48 input" in str(fp8.supports(one, channels=48, outputs=64))
        assert "12 output" in str(fp8.supports(one, channels=96, outputs=12))


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0), (12, 0), None])
@pytest.mark.parametrize("outputs", [32, 96, 160, 192, 256, 384, 512, 1024])
def test_there_is_a_tile_for_every_number_of_outputs(
    capability: tuple[int, int] | None, outputs: int
) -> None:
    device = Target(kind="cpu" if capability is None else "cuda", capability=capability)
    tiles = fp8.candidates(device, outputs)
    assert tiles and all(outputs % tile.n == 0 for tile in tiles)
    for tile in tiles:
        first, rest = fp8._parts(tile.n)
        assert first + rest == tile.n and rest & (rest - 1) == 0 and (rest == 0 or rest >= 16)
    assert any(tile.maps for tile in tiles) == (capability == (9, 0)), "where there is no other table"


@pytest.mark.parametrize("channels", [32, 192, 1024])
def test_error_is_within_the_stated_bound(channels: int) -> None:
    x = F.silu(normal(1, channels, 4, 6, 7))
    weight = normal(32, channels, 3, 3, 3, seed=1)
    w8, w_scale = fp8.quantize_weight(weight)
    unit = x.abs().max() / 448
    x8 = to_format(x / unit, FP8).contiguous(memory_format=LAST)
    out = fp8.run(x8, w8, w_scale * unit, out_dtype=torch.float32) if DEVICE.type == "cuda" else None
    plain = fp8.plain(x8, w8, w_scale * unit, out_dtype=torch.float32)
    for found in (plain, plain if out is None else out):
        error, _ = errors(found, F.conv3d(x, weight))
        assert 0.01 < error <= fp8.MAX_RELATIVE_ERROR


TILES = [
    fp8.INTERPRETED[0],
    fp8.INTERPRETED[1],
    fp8.Tile(m=16, n=96, num_warps=4, num_stages=2, maps=True),
    fp8.Tile(m=64, n=32, num_warps=4, num_stages=2, maps=True),
]


@needs_triton
@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize(
    ("shape", "taps"),
    [
        ((1, 32, 3, 4, 5), (3, 3, 3)),  # one tile holds all
        ((2, 96, 3, 4, 7), (2, 3, 3)),  # pixels and lines that nothing divides, two frames of two rows
        ((1, 64, 3, 5, 8), (3, 3, 2)),  # pairs of columns
        ((1, 32, 1, 5, 6), (1, 3, 3)),  # the last tap of a first frame
        ((2, 64, 2, 3, 3), (1, 1, 1)),
    ],
)
def test_every_form_is_plain_torch(
    shape: tuple[int, int, int, int, int], taps: tuple[int, int, int], tile: fp8.Tile
) -> None:
    if tile.maps and DEVICE.type == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("no tensor maps below 9.0")
    x8, w8, scale = operands(shape, 96, taps)
    exact = fp8.plain(x8, w8, scale, out_dtype=torch.float32)
    dtype = torch.bfloat16 if shape[0] == 2 else torch.float32
    found = fp8.start(fp8.Arguments(x8, w8, scale, out_dtype=dtype), tile)
    assert found.dtype == dtype and found.is_contiguous(memory_format=LAST)
    if DEVICE.type == "cuda":  # sums stay in the tensor cores, which keep fewer bits
        assert errors(found, exact)[0] < 0.01
    else:
        assert_within_twice(found, fp8.plain(x8, w8, scale, out_dtype=dtype), exact)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("channels", "outputs", "columns"),
    [(96, 96, 3), (192, 192, 2), (192, 384, 3), (384, 384, 3), (512, 256, 3), (1024, 1024, 3)],
)
def test_every_tile_of_the_table_on_a_card(channels: int, outputs: int, columns: int) -> None:
    """The widths of published decoders; sums in the tensor cores keep fewer bits than fp32."""
    x8, w8, scale = operands((1, channels, 4, 19, 38), outputs, (3, 3, columns))
    exact = fp8.plain(x8, w8, scale, out_dtype=torch.float32)
    for tile in fp8.candidates(target(), outputs):
        found = fp8.start(fp8.Arguments(x8, w8, scale, out_dtype=torch.bfloat16), tile)
        assert errors(found, exact)[0] < 0.02, tile


@needs_triton
def test_the_kernel_is_chosen_by_the_outputs_and_traced() -> None:
    x8, w8, scale = operands((1, 32, 3, 4, 4), 64)
    found = fp8.launch(x8, w8, scale, out_dtype=torch.float32)
    torch.testing.assert_close(found, fp8.plain(x8, w8, scale, out_dtype=torch.float32), atol=1e-3, rtol=1e-3)
    nowhere = fp8.run(*(part.to("meta") for part in (x8, w8, scale)), out_dtype=torch.bfloat16)
    assert nowhere.shape == found.shape and nowhere.dtype == torch.bfloat16
    assert nowhere.stride() == found.stride()
    assert target().interpreted or DEVICE.type == "cuda"


def test_a_measured_tile_is_preferred_for_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[fp8.Tile] = []
    monkeypatch.setattr(fp8, "start", lambda args, tile: used.append(tile))
    tile = fp8.Tile(m=16, n=32, num_warps=4, num_stages=1, maps=False)
    arguments = [
        fp8.Arguments(*operands((1, size, 3, 4, 4), 64), out_dtype=torch.float32) for size in (32, 64)
    ]
    with fp8.preferring({(32, 64): tile}):
        fp8._fp8_conv(arguments[0])
        fp8._fp8_conv(arguments[1])
    fp8._fp8_conv(arguments[0])
    assert used[0] == tile and used[1] == used[2] == fp8.candidates(target(), 64)[0] != tile


@pytest.mark.gpu
def test_not_a_number_stays_where_it_is_seen() -> None:
    """The interpreter's own conversion from E4M3 has none."""
    x8, w8, scale = operands((1, 32, 3, 5, 12), 32)
    x8.view(torch.uint8)[0, 3, 1, 2, 1] = 0x7F
    found = fp8.launch(x8, w8, scale, out_dtype=torch.float32)
    expected = fp8.plain(x8, w8, scale, out_dtype=torch.float32)
    assert torch.equal(found.isnan(), expected.isnan()) and 0 < found.isnan().sum() < found.numel()


def test_what_is_no_channels_last_video_is_refused() -> None:
    x8, w8, scale = operands((1, 32, 3, 4, 4), 32)
    with pytest.raises(AssertionError, match="not channels-last"):
        fp8.run(x8.contiguous(), w8, scale, out_dtype=torch.float32)
    with pytest.raises(AssertionError, match="nothing is left"):
        fp8.run(x8[:, :, :2].contiguous(memory_format=LAST), w8, scale, out_dtype=torch.float32)
    with pytest.raises(AssertionError, match="bfloat16"):
        fp8.run(x8.bfloat16(), w8, scale, out_dtype=torch.float32)
