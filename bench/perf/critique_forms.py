"""Critiques that a critic really wrote in full, as the patches that say the same.

How much shorter a patch is depends on what critiques really change of a plan, so it is read off real pairs of
both. Invariant: a patch that comes out of here is read as the very critique that the full reply was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from engine.critics.qwen_vl.plan_patch import patch_of
from engine.critics.qwen_vl.reply_text import last_object
from engine.critics.qwen_vl.schema import parse_critique
from engine.errors import ConfigError
from engine.runs.store import RunStore
from engine.settings.config import PATCH, read_config
from engine.types import PhysicsPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One stored reply. `told`: the plan that a critique may change; None for a plan, or without a plan."""

    text: str
    is_critique: bool = False
    told: PhysicsPlan | None = None

    def as_patch(self) -> Written:
        told = self.told
        return self if told is None else replace(self, text=patched(self.text, told))


def replies_of(run: Path) -> Iterator[list[Written]]:
    """The replies of each scenario, plan first. ConfigError for a run whose critiques are patches already."""
    if read_config(run).critic.critique_form == PATCH:
        raise ConfigError(f"{run} was made with critique_form {PATCH}", fix="give runs of full critiques")
    with RunStore.open(run, read_only=True) as store:
        for scenario in store.scenarios():
            history = store.history(scenario.id)
            plan = history.plan
            written = [] if plan is None else [Written(text=plan.raw)]
            for attempt in history.attempts:
                if attempt.critique is not None:
                    told = attempt.prompt.plan or (plan.plan if plan is not None else None)
                    written.append(Written(text=attempt.critique.raw, is_critique=True, told=told))
            yield written


def patched(text: str, told: PhysicsPlan) -> str:
    """A full critique with the fields of its plan that are not as `told`; as it is where it has no plan."""
    full, data = parse_critique(text, num_tokens=0, seconds=0.0), last_object(text)
    if full.revised is None or data is None:
        return text
    data["plan"] = patch_of(told, full.revised).to_dict()
    separators = (", ", ": ") if '": ' in text else (",", ":")
    thoughts = "".join(text.rpartition("</think>")[:2])
    patch = thoughts + json.dumps(data, ensure_ascii=False, separators=separators)
    read = parse_critique(patch, num_tokens=0, seconds=0.0, base=told)
    assert replace(read, raw=full.raw) == full, f"the patch says something else: {patch}"
    return patch
