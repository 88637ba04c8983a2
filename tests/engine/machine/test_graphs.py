"""Replaying equals running, for new values of every input; importing asks for no GPU."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.machine.graphs import (
    DEVICE_CALLS,
    WARM_UP_CALLS,
    DeviceCalls,
    GraphedForward,
    GraphPool,
    captured,
)


def affine(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return torch.tanh(x @ weight) * y + weight.sum()


class Replayed:
    """A `GraphedForward` of a function with one result."""

    def __init__(
        self, function: Callable[..., Tensor], *, num_changing: int, pool: GraphPool | None = None
    ) -> None:
        self._graphed = GraphedForward(
            lambda *tensors: (function(*tensors),), num_changing=num_changing, pool=pool
        )

    def __call__(self, *tensors: Tensor) -> Tensor:
        (result,) = self._graphed(*tensors)
        return result


def same(ours: Tensor, expected: Tensor) -> bool:
    """To rounding: a captured product may use another workspace."""
    return torch.allclose(ours, expected, atol=1e-5, rtol=1e-5)


def values(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = ((8, 16), (8, 16), (16, 16))
    return tuple(torch.randn(size, generator=generator).cuda() for size in sizes)  # type: ignore[return-value]


def test_importing_starts_no_cuda() -> None:
    code = "import engine.machine.graphs, torch; assert not torch.cuda.is_initialized()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.gpu
def test_replay_equals_the_function_for_changing_inputs() -> None:
    graphed = Replayed(affine, num_changing=2)
    _, _, weight = values(0)
    for seed in range(5):
        x, y, _ = values(seed)
        assert same(graphed(x, y, weight), affine(x, y, weight))


@pytest.mark.gpu
def test_inputs_written_in_place_are_seen_where_they_change_and_only_there() -> None:
    graphed = Replayed(affine, num_changing=2)
    x, y, weight = values(0)
    before = graphed(x, y, weight)
    x.add_(1)
    assert same(graphed(x, y, weight), affine(x, y, weight))
    x.sub_(1)
    old = weight.clone()
    weight.add_(1)
    assert same(graphed(x, y, weight), affine(x, y, old)), "the contract: nobody writes into it"
    assert same(before, affine(x, y, old))


@pytest.mark.gpu
def test_another_tensor_among_the_lasting_ones_is_picked_up_and_so_is_the_first_again() -> None:
    graphed = Replayed(affine, num_changing=2)
    x, y, weight = values(0)
    _, _, other = values(1)
    results = [graphed(x, y, given) for given in (weight, other, weight, other)]
    for result, given in zip(results, (weight, other, weight, other), strict=True):
        assert same(result, affine(x, y, given))
    assert not same(results[0], results[1])


@pytest.mark.gpu
def test_a_freed_tensor_at_the_same_address_is_not_taken_for_the_old_one() -> None:
    graphed = Replayed(affine, num_changing=2)
    x, y, _ = values(0)
    for seed in range(6):  # the allocator gives the same address again where nothing holds the last tensor
        weight = values(seed)[2]
        assert same(graphed(x, y, weight), affine(x, y, weight)), seed
        del weight


@pytest.mark.gpu
def test_results_are_not_overwritten_by_the_next_replay() -> None:
    graphed = Replayed(affine, num_changing=2)
    inputs = [values(seed) for seed in range(3)]
    results = [graphed(x, y, inputs[0][2]) for x, y, _ in inputs]
    torch.cuda.synchronize()
    for result, (x, y, _) in zip(results, inputs, strict=True):
        assert same(result, affine(x, y, inputs[0][2]))


@pytest.mark.gpu
def test_every_result_of_a_replay_is_its_own() -> None:
    def both(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        made = affine(x, y, weight)
        return made, made.mean(dim=0)

    graphed = GraphedForward(both, num_changing=2)
    inputs = [values(seed) for seed in range(3)]
    results = [graphed(x, y, inputs[0][2]) for x, y, _ in inputs]
    for found, (x, y, _) in zip(results, inputs, strict=True):
        assert all(map(same, found, both(x, y, inputs[0][2])))


@pytest.mark.gpu
def test_the_function_runs_in_the_warm_up_and_the_capture_only() -> None:
    calls = []

    def counted(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        calls.append(x.shape)
        return affine(x, y, weight)

    graphed = Replayed(counted, num_changing=2)
    for seed in range(4):
        graphed(*values(seed))
    assert len(calls) == WARM_UP_CALLS + 1


@pytest.mark.gpu
def test_another_shape_is_a_mistake() -> None:
    graphed = Replayed(affine, num_changing=2)
    x, y, weight = values(0)
    graphed(x, y, weight)
    with pytest.raises(AssertionError, match="captured"):
        graphed(x[:4], y[:4], weight)


@pytest.mark.gpu
def test_a_graph_keeps_the_priority_of_its_lane() -> None:
    """Its kernels have that of the stream they were captured on, whatever stream it is replayed in."""
    seen: list[int] = []
    for priority in (-1, 0):
        with torch.cuda.stream(torch.cuda.Stream(priority=priority)):
            captured(lambda: seen.append(torch.cuda.current_stream().priority))
    assert set(seen[:3]) == {-1} and set(seen[3:]) == {0}


@pytest.mark.gpu
def test_graphs_of_one_pool_replay_in_any_order_and_take_its_memory_once() -> None:
    """Results are copies, so that what one leaves in the pool is nobody's when another overwrites it."""
    pool, wide = GraphPool(), torch.randn(2048, 2048, device="cuda")

    def work(x: Tensor) -> Tensor:
        return torch.tanh(x @ x).sum(0)

    def captured_bytes(pool: GraphPool | None) -> tuple[int, list[Replayed]]:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        made = [Replayed(work, num_changing=1, pool=pool) for _ in range(4)]
        for graphed in made:
            graphed(wide)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved() - before, made

    apart, _ = captured_bytes(None)
    together, made = captured_bytes(pool)
    assert together < apart - 2 * wide.nbytes
    for seed in (0, 3, 1, 2, 0, 2):
        x = torch.randn(2048, 2048, generator=torch.Generator().manual_seed(seed)).cuda()
        assert same(made[seed](x), work(x))


@pytest.mark.gpu
def test_captures_of_a_thread_have_one_stream() -> None:
    """The allocator keeps for each stream what was freed on it."""
    seen: list[int] = []
    for _ in range(3):
        captured(lambda: seen.append(torch.cuda.current_stream().cuda_stream))
    assert len(set(seen)) == 1


@pytest.mark.gpu
def test_lanes_may_capture_at_the_same_time() -> None:
    """Each on its own thread and stream, while others allocate and copy to the host."""
    x = torch.randn(64, 64, device="cuda")
    expected = (x @ x).cpu()

    def capturing(number: int) -> list[bool]:
        found = []
        with torch.cuda.stream(torch.cuda.Stream(priority=-number % 2)):
            for _ in range(10):
                graph, result = captured(lambda: x @ x)
                graph.replay()
                found.append(torch.allclose(result.cpu(), expected, atol=1e-4))
        return found

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(capturing, range(4)))
    assert found == [[True] * 10] * 4


@pytest.mark.gpu
def test_a_capture_survives_lanes_that_wait_for_the_device() -> None:
    """As compilation and autotuning do on their own."""
    x = torch.randn(64, 64, device="cuda")
    over = threading.Event()

    def waiting() -> int:
        num_waits = 0
        while not over.is_set():
            with DEVICE_CALLS.call():
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            num_waits += 1
        return num_waits

    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(waiting) for _ in range(2)]
        for _ in range(20):
            with DEVICE_CALLS.call():
                graph, _ = captured(lambda: x @ x)
                graph.replay()
        over.set()
        assert all(other.result() > 0 for other in others)


def test_a_capture_is_alone_and_two_may_wish_for_one_at_once() -> None:
    """Each thread captures inside a call of its own, which it gives up meanwhile."""
    calls = DeviceCalls()
    open_calls, captures = set[int](), 0
    together, seen, start = 0, [], threading.Barrier(4)

    def lane(number: int) -> None:
        nonlocal captures, together
        start.wait(timeout=10)
        for turn in range(50):
            with calls.call():
                open_calls.add(number)
                together = max(together, len(open_calls))
                seen.append(captures)
                time.sleep(1e-4)
                if turn % 7 == number % 2:
                    open_calls.discard(number)
                    with calls.alone():
                        captures += 1
                        seen.append(len(open_calls) + captures - 1)
                        captures -= 1
                    open_calls.add(number)
                open_calls.discard(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lane, range(4)))
    assert not any(seen), "nobody was in a call during a capture, and no two captured"
    assert together > 1, "calls go side by side"


def test_whoever_waits_to_be_alone_is_not_overtaken() -> None:
    calls, order = DeviceCalls(), []

    def capturing() -> None:
        with calls.alone():
            order.append("capture")

    def late() -> None:
        with calls.call():
            order.append("call")

    with ThreadPoolExecutor(2) as pool:
        with calls.call():
            made = [pool.submit(capturing)]
            while not calls._num_waiting:
                time.sleep(0.001)
            made.append(pool.submit(late))
        for one in made:
            one.result(timeout=10)
    assert order == ["capture", "call"]


def test_an_error_inside_leaves_the_way_free() -> None:
    calls = DeviceCalls()
    with pytest.raises(ValueError), calls.call(), calls.alone():
        raise ValueError
    with calls.call(), calls.alone():
        pass
    assert (calls._num_calls, calls._is_alone, calls._num_waiting) == (0, False, 0)
