"""Steps that are taken again: which generators can, and what a plan of a run says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_run import make_folders

from engine.build.needs import plan_run
from engine.build.scouts import check_scouts
from engine.errors import ConfigError
from engine.settings.config import LoopConfig

AGAIN = LoopConfig(finish_restarts=2, restart_steps=3)


class Old:
    """Has what was asked for before takes without scouts could."""

    def check_restarts(self, steps: int) -> None: ...

    def start(self, scenario: Any, prompt: Any) -> None: ...


class New(Old):
    def start(self, scenario: Any, prompt: Any, *, restarts: Any = None) -> None: ...


class AnyWords(Old):
    def start(self, scenario: Any, prompt: Any, **more: Any) -> None: ...


def test_a_generator_whose_start_knows_no_restarts_is_refused_before_a_take() -> None:
    for generator in (New(), AnyWords()):
        check_scouts(AGAIN, generator)
    check_scouts(LoopConfig(), Old())
    for lacking in (Old(), object()):
        with pytest.raises(ConfigError, match="takes no steps again"):
            check_scouts(AGAIN, lacking)


def test_a_plan_counts_steps_that_are_taken_again(tmp_path: Path) -> None:
    folders = make_folders(tmp_path)
    again = {"generator.steps": 5, "loop.finish_restarts": 2, "loop.restart_steps": 3}
    needs = plan_run(folders.config(tmp_path / "run", settings=again), timed=False)
    assert (needs.num_steps, needs.num_again) == (5, 4)
    assert needs.document()["denoise_steps_of_a_take"] == 9
