"""The preset of a run that names none: by device, model and room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from engine.build.fit import Fitted
from engine.build.preset import NO_ROOM, TOLD, chosen, fitted
from engine.errors import DoesNotFit
from engine.machine.memory import MemoryPlan
from engine.settings.config import RunConfig, load_config

PUBLISHED = {"dataset": ".", "out": ".", "generator.name": "a-folder"}


def config(**more: Any) -> RunConfig:
    return load_config(None, {**PUBLISHED, **{key.replace("__", "."): value for key, value in more.items()}})


def test_a_gpu_is_fast_and_a_cpu_exact() -> None:
    found = chosen(config(), "cuda", "bf16")
    assert (found.config.denoise.preset, found.told) == ("fast", TOLD)
    assert found.config == replace(config(), denoise=replace(config().denoise, preset="fast"))
    assert chosen(config(), "cpu", "fp32").config.denoise.preset == "exact"


@pytest.mark.parametrize("preset", ["exact", "fast", "fastest"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_preset_that_is_named_stays(preset: str, device: str) -> None:
    found = chosen(config(denoise__preset=preset), device, "bf16")
    assert (found.config.denoise.preset, found.told) == (preset, None)


@pytest.mark.parametrize(
    "more", [{"memory__blocks": "streamed"}, {"denoise__engine": "onnx"}, {"generator__name": "demo"}]
)
def test_what_only_the_librarys_forward_can_be_is_exact(more: dict[str, str]) -> None:
    found = chosen(config(**more), "cuda", "bf16")
    assert (found.config.denoise.preset, found.told) == ("exact", None)
    assert chosen(config(), "cuda", "fp32").config.denoise.preset == "exact", "asked for to be exact"


def room_for(*presets: str) -> Callable[[RunConfig], Fitted]:
    plan = MemoryPlan(budget_bytes=1, reserve_bytes=0, parts={}, overlap=False)

    def fit(one: RunConfig) -> Fitted:
        if one.denoise.preset not in presets:
            raise DoesNotFit(f"{one.denoise.preset} does not fit", fix="less")
        return Fitted(config=one, plan=plan, changes=("memory.blocks = streamed",))

    return fit


def test_what_was_chosen_and_has_no_room_gives_way() -> None:
    found = chosen(config(), "cuda", "bf16")
    assert fitted(found, room_for("fast", "exact")).config.denoise.preset == "fast"
    slower = fitted(found, room_for("exact"))
    assert slower.config.denoise.preset == "exact"
    assert slower.changes == (NO_ROOM, "memory.blocks = streamed")
    with pytest.raises(DoesNotFit, match="exact does not fit"):
        fitted(found, room_for())
    with pytest.raises(DoesNotFit, match="fast does not fit"):
        fitted(chosen(config(denoise__preset="fast"), "cuda", "bf16"), room_for("exact"))
