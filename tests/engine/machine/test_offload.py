"""Streamed modules: the same numbers as resident ones, at home between two calls, whatever happens inside."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine.machine.offload import TakingTurns, look_up_on_host, release, stream

CPU = torch.device("cpu")


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.blocks[1].register_buffer("shift", torch.ones(8))

    def forward(self, ids: Tensor) -> Tensor:
        h = self.table(ids)
        for block in self.blocks:
            h = torch.relu(block(h))
        return h


class Copies:
    """A device that counts what comes to it: each visit is a copy with an address of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: list[tuple[int, ...]] = []
        real = torch.Tensor.to

        def to(tensor: Tensor, *arguments: object, **options: object) -> Tensor:
            self.shapes.append(tuple(tensor.shape))
            return real(tensor, *arguments, **options).clone()

        monkeypatch.setattr(torch.Tensor, "to", to)


def test_a_streamed_module_computes_the_same_and_goes_home(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = Blocks(), torch.arange(6)
    expected = model(ids)
    homes = [parameter.data_ptr() for parameter in model.blocks.parameters()]
    copies = Copies(monkeypatch)
    assert stream(model.blocks, CPU) == 3
    for _ in range(2):
        copies.shapes.clear()
        with torch.inference_mode():  # as jobs run
            found = model(ids)
        assert torch.equal(found, expected)
        assert copies.shapes == [(8, 8), (8,), (8, 8), (8,), (8,), (8, 8), (8,)], (
            "each visits once, with buffers"
        )
        assert [parameter.data_ptr() for parameter in model.blocks.parameters()] == homes


def test_a_module_goes_home_after_an_error() -> None:
    model = Blocks()
    homes = [parameter.data_ptr() for parameter in model.blocks.parameters()]
    stream(model.blocks, CPU)
    with pytest.raises(RuntimeError):
        model.blocks[0](torch.zeros(3, 5))
    assert [parameter.data_ptr() for parameter in model.blocks.parameters()] == homes


@pytest.mark.gpu
def test_on_a_gpu_a_block_at_a_time_is_there() -> None:
    model, ids = Blocks(), torch.arange(6)
    model.blocks = nn.ModuleList(nn.Linear(2048, 2048) for _ in range(4))
    model.table = nn.Embedding(10, 2048)
    expected = model(ids)
    device = torch.device("cuda")
    look_up_on_host(model.table, device)
    stream(model.blocks, device)
    with torch.inference_mode():
        model(ids)  # what cuBLAS keeps as its workspace from the first product on is no block
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        found = model(ids)
    assert torch.allclose(found.cpu(), expected, atol=1e-4)
    block = 4 * (2048 * 2048 + 2048)
    assert torch.cuda.max_memory_allocated() - before < 2.5 * block
    assert torch.cuda.memory_allocated() - before <= found.nbytes + 512


def test_modules_that_take_turns_keep_their_numbers_and_their_place() -> None:
    """Addresses stay, so that what was captured over them goes on."""
    ids, turns, modules = torch.arange(6), TakingTurns(), [Blocks(), Blocks()]
    with torch.inference_mode():
        expected = [module(ids) for module in modules]
        assert [turns.add(module) for module in modules] == [0, 1]
        release(modules[0])
        assert all(parameter.numel() == 0 for parameter in modules[0].parameters())
        place, addresses = modules[1], [parameter.data_ptr() for parameter in modules[1].parameters()]
        for index in (1, 0, 0, 1):
            turns.use(index)
            assert torch.equal(place(ids), expected[index])
    assert [parameter.data_ptr() for parameter in place.parameters()] == addresses


def test_modules_of_other_tensors_cannot_take_turns() -> None:
    turns = TakingTurns()
    turns.add(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="1 tensors differ, among them weight"):
        turns.add(nn.Linear(5, 4))
