"""Tile sizes: the table answers for every device, and the search keeps its winner."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from attention_cases import ADA, CPU, HOPPER, problem

from kernels.autotune import INTERPRETED, TABLE, Tiles, candidates, tune
from kernels.descriptors import KernelError, Target

SLOW = Tiles(block_m=64, block_n=64, num_warps=4, num_stages=2)
QUICK = Tiles(block_m=128, block_n=64, num_warps=4, num_stages=2)
HUGE = Tiles(block_m=256, block_n=256, num_warps=8, num_stages=4)


class DoesNotFit(Exception):
    """As Triton's OutOfResources: not a RuntimeError."""


def call(tiles: Tiles) -> None:
    if tiles == HUGE:
        raise DoesNotFit("shared memory")
    time.sleep(0.004 if tiles == SLOW else 0.0005)


@pytest.mark.parametrize("kernel", TABLE)
@pytest.mark.parametrize("head_dim", [16, 32, 64, 128])
@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0), (12, 1)])
def test_table_answers_for_every_device(kernel: str, head_dim: int, capability: tuple[int, int]) -> None:
    for tiles in candidates(kernel, Target(kind="cuda", capability=capability), head_dim):
        # Two 16-bit tiles of keys and values per stage, and the queries, in shared memory.
        element = 2
        key_bytes = head_dim * tiles.block_n * (1 if kernel == "int8" else element)
        value_bytes = head_dim * tiles.block_n * element
        query_bytes = head_dim * tiles.block_m * (1 if kernel == "int8" else element)
        used = query_bytes + (key_bytes + value_bytes) * tiles.num_stages
        small = capability in ((8, 6), (8, 9), (12, 0), (12, 1))
        assert used <= (99 if small else 163 if capability == (8, 0) else 227) * 1024, (tiles, used)


def test_newer_devices_take_the_nearest_row_below() -> None:
    assert candidates("dense", ADA, 128) == TABLE["dense"][((8, 6), 128)]
    assert candidates("dense", Target(kind="cuda", capability=(10, 3)), 64) == TABLE["dense"][((9, 0), 64)]
    assert candidates("int8", CPU, 128) == (INTERPRETED,)


def test_torch_compile_traces_the_table() -> None:
    def scale(x: torch.Tensor) -> torch.Tensor:
        target = Target(kind="cuda", capability=(9, 0))
        return x * candidates("dense", target, 64)[0].block_m

    compiled = torch.compile(scale, fullgraph=True, backend="eager")
    assert compiled(torch.ones(1)).item() == TABLE["dense"][((9, 0), 64)][0].block_m


def test_unknown_sizes_are_a_programmer_error() -> None:
    with pytest.raises(AssertionError, match="256"):
        candidates("dense", HOPPER, 256)


def test_the_fastest_that_fits_wins_and_is_kept(tmp_path: Path) -> None:
    best = tune("k", problem(), call, folder=tmp_path, among=(HUGE, SLOW, QUICK), fails=(DoesNotFit,))
    assert best == QUICK
    (file,) = tmp_path.iterdir()
    assert set(json.loads(file.read_text())["median_ms"]) == {str(SLOW), str(QUICK)}

    def never(tiles: Tiles) -> None:
        raise AssertionError("measured again")

    again = tune("k", problem(), never, folder=tmp_path, among=(HUGE, SLOW, QUICK), fails=(DoesNotFit,))
    assert again == QUICK


def test_another_problem_or_list_is_measured_anew(tmp_path: Path) -> None:
    tune("k", problem(), call, folder=tmp_path, among=(QUICK,))
    tune("k", problem(heads=2), call, folder=tmp_path, among=(QUICK,))
    tune("k", problem(), call, folder=tmp_path, among=(QUICK, SLOW))
    tune("other", problem(), call, folder=tmp_path, among=(QUICK,))
    assert len(list(tmp_path.iterdir())) == 4


def test_nothing_fits(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="none of 1 tile sizes"):
        tune("k", problem(), call, folder=tmp_path, among=(HUGE,), fails=(DoesNotFit,))


def test_other_errors_are_not_swallowed(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit):
        tune("k", problem(), call, folder=tmp_path, among=(HUGE, QUICK))
