"""What a loop asks of a generator beside takes, before a weight is read: scouts, steps again, and memory.

Knows no family.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

from engine.errors import ConfigError
from engine.loop.scout_policy import forms_of
from engine.settings.loop import PAPER, SCOUT, LoopConfig
from engine.types import Footprint


def footprint_of(generator: Any, loop: LoopConfig) -> Footprint:
    """Of takes, and of the scouts of this loop where several share a forward."""
    takes: Footprint = generator.footprint(generator.spec)
    if loop.method != SCOUT or loop.scout_batch == loop.scout_shrink == 1:
        return takes
    scouts: Footprint = generator.footprint_of_scouts(generator.spec, forms_of(loop)[-1])
    return scouts


def check_scouts(loop: LoopConfig, generator: Any) -> None:
    """ConfigError for settings of the other loop, and for scouts and restarts that this generator does not
    make."""
    loop.refuse_unused()
    if loop.finish_restarts:
        if not (hasattr(generator, "check_restarts") and _takes(generator.start, "restarts")):
            raise ConfigError(
                f"loop.finish_restarts is set, and {type(generator).__name__} takes no steps again",
                fix="set loop.finish_restarts = 0, or give it `check_restarts` and `start` of "
                "ScoutingGenerator",
            )
        generator.check_restarts(loop.restart_steps)
    if loop.method != SCOUT:
        return
    if not hasattr(generator, "scout"):
        raise ConfigError(
            f"loop.method is {SCOUT}, and {type(generator).__name__} makes no scouts",
            fix=f'set loop.method = "{PAPER}", or give it the methods of ScoutingGenerator',
        )
    if loop.scout_batch > 1 and not hasattr(generator, "scouts"):
        raise ConfigError(
            f"loop.scout_batch is {loop.scout_batch}, and {type(generator).__name__} makes one at a time",
            fix="set loop.scout_batch = 1, or give it the methods of ScoutingGenerator",
        )
    for form in forms_of(loop):
        generator.check_scouts(form)


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Whether it has an argument of that name; asked of objects of users."""
    found = signature(function).parameters
    return name in found or any(one.kind is Parameter.VAR_KEYWORD for one in found.values())
