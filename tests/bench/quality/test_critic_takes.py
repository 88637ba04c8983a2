"""Takes for the critic: scored by the benchmark, of every source, and made once each."""

from __future__ import annotations

import argparse
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.quality import critic_takes
from bench.quality.critic_takes import SOURCES, JudgeMaker, asked_prompt, shard_of
from bench.quality.prompt_kinds import SUFFIX_SENTENCE
from engine.demo.scenes import WIDE, all_kinds, make_scene
from engine.demo.scenes.base import SWITCH
from engine.demo.scenes.broken import Violation
from engine.demo.training.clips import Block, ClipRecord, draw_clip, view_of
from engine.demo.training.critic_data import read_shard
from engine.demo.training.critic_rows import TAKE_INDICES, Row
from engine.demo.training.critic_text import ACCEPT_CASE_SCORE
from engine.types import Fault

KINDS = all_kinds(WIDE)
SEEDS = range(510_000, 510_008)


class Here(Executor):
    """Runs at once, in this process."""

    def submit(self, call: Any, /, *given: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(call(*given, **named))
        return future


class Maker:
    """Rows that hold what they were asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float | None]] = []

    def critique_row(
        self,
        record: ClipRecord,
        prompt: str,
        seen: Any,
        fault: Fault,
        case_score: float | None = None,
        violation: Violation | None = None,
    ) -> Row:
        self.asked.append((prompt, case_score))
        assert case_score is not None
        return Row(np.zeros(4, np.int16), 1, case_score >= ACCEPT_CASE_SCORE, case_score)


@pytest.fixture(scope="module")
def block() -> Block:
    records, frames, judges = [], [], []
    make = JudgeMaker(world=WIDE)
    for seed in SEEDS:
        drawn, record = draw_clip(make_scene(seed, KINDS), view_of(seed), 64, 0.0)
        records.append(record)
        frames.append(drawn)
        judges.append(make(record, drawn))
    return Block(0, torch.from_numpy(np.stack(frames)), records, judges)


def frozen(modules: Any, prefixes: torch.Tensor, texts: list[str], **options: Any) -> torch.Tensor:
    return prefixes[:, -1:].expand(-1, 40, -1, -1, -1).contiguous()


def test_every_take_has_its_benchmark_score(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critic_takes, "generate_takes", frozen)
    maker: Any = Maker()
    pool: Any = Here()
    shard = shard_of(block, maker, None, torch.Generator().manual_seed(0), pool)
    scores = [score for _, score in maker.asked]
    assert len(scores) == len(SEEDS) and shard.takes.shape == (len(SEEDS), len(TAKE_INDICES), 64, 64, 3)
    own = [place for place, judge in enumerate(block.extras) if judge.planted is None]
    assert own
    for place in own:
        still = np.repeat(block.frames[place, SWITCH - 1 : SWITCH].numpy(), 40, axis=0)
        assert scores[place] == critic_takes.score_take((block.extras[place].takes, still))
    assert torch.equal(shard.takes[own[0], 0], block.frames[own[0], SWITCH - 1])
    assert [row.score for row in shard.rows] == scores
    assert shard.sources == [judge.source for judge in block.extras]
    told = [(judge.source.startswith("broken"), judge.violation is not None) for judge in block.extras]
    assert all(broken == named for broken, named in told)


def test_sources_come_in_their_shares_and_a_second_take_is_acceptable(block: Block) -> None:
    assert sum(SOURCES.values()) == pytest.approx(1.0)
    sources = {judge.source for judge in block.extras}
    assert "generated" in sources and len(sources) >= 2
    assert all((judge.planted is None) == (judge.source == "generated") for judge in block.extras)
    again = JudgeMaker(world=WIDE)(block.records[0], block.frames[0].numpy())
    assert again.source == block.extras[0].source  # by seed
    one, two = again.takes
    assert critic_takes.score_take(((one, two), block.frames[0, SWITCH:].numpy())) > 99.0


def test_controls_are_among_the_prompts(block: Block) -> None:
    rng = np.random.default_rng(0)
    asked = [asked_prompt(block.records[0], rng) for _ in range(200)]
    controls = [fault for text, fault in asked if SUFFIX_SENTENCE in text]
    assert controls and set(controls) == {Fault.MISSING_CLUES}
    assert len({text for text, _ in asked}) > 10


def test_shards_that_are_there_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goes on with the first that is missing, whatever lies behind it."""
    critic = Path(critic_takes.__file__).parents[2] / "engine/demo/models/critic"
    monkeypatch.setattr(critic_takes, "load_generator", lambda folder, device: None)
    monkeypatch.setattr(critic_takes, "generate_takes", frozen)
    options = argparse.Namespace(
        generator=tmp_path, critic=critic, out=tmp_path / "takes", world=WIDE, count=3, block=1, size=128,
        workers=1, first_seed=510_000,
    )  # fmt: skip
    options.out.mkdir()
    (options.out / "0001.pt").write_bytes(b"kept")
    critic_takes.make_shards(options, "cpu")
    assert (options.out / "0001.pt").read_bytes() == b"kept"
    shards = [read_shard(options.out / name) for name in ("0000.pt", "0002.pt")]
    assert [len(shard.rows) for shard in shards] == [1, 1]
    assert not torch.equal(shards[0].prefixes, shards[1].prefixes)
    critic_takes.make_shards(options, "cpu")  # nothing is left to do
