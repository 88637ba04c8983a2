"""Tile sizes of our Triton kernels: a table per compute capability, and a search that keeps its winner.

Knows kernels by name only. Nothing is searched unless `tune` is called, and a winner is used only where the
caller passes it on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kernels.descriptors import KernelError
from kernels.files import whole_file
from kernels.timing import machine, summary, time_gpu

if TYPE_CHECKING:
    from kernels.descriptors import AttentionProblem, Target

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Queries and keys of one tile, warps of one program, depth of the pipeline of loads."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int

    def __str__(self) -> str:
        return f"{self.block_m}x{self.block_n} warps={self.num_warps} stages={self.num_stages}"


def _tiles(block_m: int, block_n: int, num_warps: int, num_stages: int) -> Tiles:
    return Tiles(block_m=block_m, block_n=block_n, num_warps=num_warps, num_stages=num_stages)


# Per kernel: (lowest capability, largest head size) -> tiles, best first. Shared memory decides:
# 163 KiB on 8.0, 227 on 9.0 and 10.0, 99 on 8.6, 8.9 and 12.x; tiles that spill many registers are left out.
TABLE: dict[str, dict[tuple[tuple[int, int], int], tuple[Tiles, ...]]] = {
    "dense": {
        ((8, 0), 64): (_tiles(128, 64, 4, 3), _tiles(64, 64, 4, 3), _tiles(128, 64, 4, 4)),
        ((8, 0), 128): (_tiles(128, 64, 8, 3), _tiles(128, 64, 8, 2), _tiles(64, 64, 4, 3)),
        ((8, 6), 64): (_tiles(128, 64, 4, 3), _tiles(128, 32, 4, 3)),
        ((8, 6), 128): (_tiles(128, 64, 8, 2), _tiles(64, 64, 4, 2), _tiles(64, 32, 4, 3)),
        ((9, 0), 64): (_tiles(128, 128, 8, 3), _tiles(128, 64, 4, 3), _tiles(128, 64, 4, 4)),
        ((9, 0), 128): (_tiles(128, 128, 8, 3), _tiles(128, 64, 8, 4), _tiles(128, 128, 8, 2)),
        ((12, 0), 64): (_tiles(128, 64, 4, 3), _tiles(128, 32, 4, 3)),
        ((12, 0), 128): (_tiles(128, 64, 8, 2), _tiles(64, 64, 4, 2), _tiles(64, 32, 4, 3)),
    },
    "int8": {
        ((8, 0), 64): (_tiles(128, 64, 4, 3), _tiles(64, 64, 4, 3)),
        ((8, 0), 128): (_tiles(128, 64, 8, 3), _tiles(64, 64, 4, 3)),
        ((8, 6), 64): (_tiles(128, 64, 4, 3), _tiles(128, 64, 4, 4)),
        ((8, 6), 128): (_tiles(128, 64, 8, 3), _tiles(128, 64, 8, 2), _tiles(64, 64, 4, 3)),
        ((9, 0), 64): (_tiles(128, 128, 8, 3), _tiles(128, 64, 4, 4)),
        ((9, 0), 128): (_tiles(128, 128, 8, 3), _tiles(128, 64, 8, 4), _tiles(128, 64, 8, 3)),
        ((12, 0), 64): (_tiles(128, 64, 4, 3), _tiles(128, 64, 4, 4)),
        ((12, 0), 128): (_tiles(128, 64, 8, 3), _tiles(128, 64, 8, 2), _tiles(64, 64, 4, 3)),
    },
    # the sizes are those of the blocks that are chosen (kernels/attention/_prefix_sparse.py)
    "prefix_sparse": {
        ((8, 0), 64): (_tiles(128, 64, 4, 3), _tiles(128, 64, 8, 3), _tiles(128, 64, 4, 2)),
        ((8, 0), 128): (_tiles(128, 64, 8, 3), _tiles(128, 64, 8, 2)),
        ((8, 6), 64): (_tiles(128, 64, 4, 3), _tiles(128, 64, 4, 2)),
        ((8, 6), 128): (_tiles(128, 64, 8, 2),),
        ((9, 0), 64): (_tiles(128, 64, 4, 3), _tiles(128, 64, 8, 3), _tiles(128, 64, 4, 4)),
        ((9, 0), 128): (_tiles(128, 64, 8, 3), _tiles(128, 64, 8, 4), _tiles(128, 64, 4, 3)),
        ((12, 0), 64): (_tiles(128, 64, 4, 3), _tiles(128, 64, 4, 2)),
        ((12, 0), 128): (_tiles(128, 64, 8, 2),),
    },
}
INTERPRETED = _tiles(32, 32, 1, 1)


def candidates(kernel: str, target: Target, head_dim: int) -> tuple[Tiles, ...]:
    """What the table lists for the device and head size, best known first."""
    if target.capability is None:
        return (INTERPRETED,)
    best: tuple[tuple[int, int], int] | None = None
    for key in TABLE[kernel]:
        # A plain loop: torch.compile traces through it.
        fits = key[0] <= target.capability and head_dim <= key[1]
        if fits and (best is None or key[0] > best[0] or (key[0] == best[0] and key[1] < best[1])):
            best = key
    assert best is not None, f"{kernel}: no tiles for {target} and head size {head_dim}"
    return TABLE[kernel][best]


def tune(
    kernel: str,
    problem: AttentionProblem,
    call: Callable[[Tiles], object],
    *,
    folder: Path,
    among: Sequence[Tiles],
    fails: tuple[type[Exception], ...] = (),
) -> Tiles:
    """The fastest of `among`, from `folder` when it was measured before.

    `call(tiles)` runs the kernel once on tensors of the problem; one of `fails` says that tiles do not fit.
    """
    path = folder / f"tiles-{kernel}-{_key(kernel, problem, among)}.json"
    if path.is_file():
        return Tiles(**json.loads(path.read_text(encoding="utf-8"))["tiles"])
    median_ms: dict[Tiles, float] = {}
    for tiles in among:
        try:
            times_ms = time_gpu(lambda tiles=tiles: call(tiles), repeats=10, warmup=3)  # type: ignore[misc]
        except fails as error:
            log.info("tiles kernel=%s %s do not fit: %s", kernel, tiles, error)
            continue
        median_ms[tiles] = summary(times_ms).median
    if not median_ms:
        raise KernelError(f"{kernel}: none of {len(among)} tile sizes fits {problem}")
    best = min(median_ms, key=median_ms.__getitem__)
    log.info("tiles kernel=%s %s -> %s (%.3f ms)", kernel, problem, best, median_ms[best])
    document = {
        "kernel": kernel,
        "problem": str(problem),
        "tiles": dataclasses.asdict(best),
        "median_ms": {str(tiles): ms for tiles, ms in median_ms.items()},
    }
    with whole_file(path) as part:
        part.write_text(json.dumps(document, indent=1), encoding="utf-8")
    return best


def _key(kernel: str, problem: AttentionProblem, among: Sequence[Tiles]) -> str:
    """Of everything that changes the winner."""
    text = json.dumps([kernel, str(problem), machine(), [str(tiles) for tiles in among]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
