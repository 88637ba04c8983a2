"""What is changed so that a run fits: in the stated order, no more than is needed, told with its price."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engine.build.fit import fit
from engine.errors import ConfigError, DoesNotFit
from engine.machine.memory import GIB
from engine.settings.config import RunConfig, load_config
from engine.types import Footprint

KEYS = [
    "memory.text_encoder = streamed",
    "schedule.replies = 4",
    "schedule.replies = 2",
    "schedule.replies = 1",
    "denoise.vae_chunk = 2",
    "denoise.vae_chunk = 1",
    "critic.quantization = nf4",
    "denoise.forward = fast, denoise.linear = auto, denoise.policy = auto, denoise.compile = auto",
    "memory.blocks = streamed",
]


def config(**settings: Any) -> RunConfig:
    return load_config(
        None, {"dataset": "clips", "out": "run"} | {k.replace("__", "."): v for k, v in settings.items()}
    )


def footprints(config: RunConfig) -> dict[str, Footprint]:
    """44 GiB that models hold and 12 that work; each saving takes some GiB of it."""
    denoise = config.denoise.settings()
    blocks = 10 if denoise.linear == "bf16" else 7
    return {
        "generator": Footprint(
            held={
                "transformer": (blocks if config.memory.blocks == "device" else 1) * GIB,
                "text encoder": (10 if config.memory.text_encoder == "device" else 1) * GIB,
            },
            working={"pass": 2 * (denoise.vae_chunk or 4) * GIB, "denoise step": 2 * GIB},
        ),
        "critic": Footprint(
            held={
                "model": (16 if config.critic.quantization == "none" else 5) * GIB,
                "slots": config.schedule.replies * GIB,
            },
            working={"prompt": 4 * GIB},
        ),
    }


def needed(savings: int) -> int:
    """GiB after so many of KEYS."""
    return [56, 47, 43, 41, 40, 36, 34, 23, 20, 14][savings]


def names(changes: tuple[str, ...]) -> list[str]:
    return [line.partition(" saves ")[0] for line in changes]


@pytest.mark.parametrize("savings", range(1, len(KEYS) + 1))
def test_savings_are_tried_in_order_until_it_fits(savings: int) -> None:
    given = config()
    assert fit(given, 58 * GIB, footprints, on_gpu=True).config == given
    found = fit(given, needed(savings) * GIB + int(1.5 * GIB), footprints, on_gpu=True)
    told = names(found.changes)
    assert told[-1] == KEYS[savings - 1] and [key for key in KEYS if key in told] == told
    assert found.plan.fits and footprints(found.config) == dict(found.plan.parts)


def test_what_a_later_saving_makes_needless_is_not_changed() -> None:
    """The critic in 4 bits saves so much that passes are large again, and more replies written at once."""
    found = fit(config(), needed(7) * GIB + int(1.5 * GIB), footprints, on_gpu=True)
    assert names(found.changes) == [KEYS[0], KEYS[3], KEYS[5], KEYS[6]], "a smaller number stands for all"
    more = fit(config(), (needed(7) + 9) * GIB + int(1.5 * GIB), footprints, on_gpu=True)
    assert names(more.changes) == [KEYS[0], KEYS[1], KEYS[6]]


def test_what_saved_nothing_at_first_is_tried_again() -> None:
    """A denoise step that is as large as a pass of two latent frames, until its layers are 8-bit."""

    def wide(config: RunConfig) -> dict[str, Footprint]:
        parts = footprints(config)
        step = (4 if config.denoise.settings().linear == "bf16" else 1) * GIB
        working = {**parts["generator"].working, "denoise step": step}
        return parts | {"generator": replace(parts["generator"], working=working)}

    found = fit(config(), needed(8) * GIB + int(1.5 * GIB), wide, on_gpu=True)
    assert found.config.denoise.vae_chunk == 1 and found.config.memory.blocks == "device"


def test_what_is_streamed_last_keeps_the_library_forward() -> None:
    found = fit(config(), needed(9) * GIB + int(1.5 * GIB), footprints, on_gpu=True)
    assert found.config.denoise.settings().forward == "library" and found.config.denoise.vae_chunk == 1


def test_each_change_is_told_with_what_it_saves_and_costs() -> None:
    found = fit(config(), 49 * GIB, footprints, on_gpu=True)
    assert found.changes == (
        "memory.text_encoder = streamed saves 9.00 GiB: each new text goes through an encoder that is read "
        "from the host, about a second a take",
    )


def test_a_cpu_has_no_other_place_to_put_a_model() -> None:
    found = fit(config(), 54 * GIB, footprints, on_gpu=False)
    assert [line.partition(" ")[0] for line in found.changes] == ["denoise.vae_chunk"]


def test_what_these_models_do_not_allow_is_passed_over() -> None:
    def picky(config: RunConfig) -> dict[str, Footprint]:
        if config.critic.quantization != "none":
            raise ConfigError("it is quantized already", fix="leave it")
        return footprints(config)

    found = fit(config(), 33 * GIB, picky, on_gpu=True)
    assert "critic.quantization" not in " ".join(found.changes) and found.plan.fits


def test_what_saves_nothing_is_left_as_it_is() -> None:
    def small_encoder(config: RunConfig) -> dict[str, Footprint]:
        parts = footprints(config)
        held = {**parts["generator"].held, "text encoder": 0}
        return parts | {"generator": replace(parts["generator"], held=held)}

    found = fit(config(), 46 * GIB, small_encoder, on_gpu=True)
    assert [line.partition(" ")[0] for line in found.changes] == ["schedule.replies"]


def test_a_refusal_names_the_cheapest_change() -> None:
    with pytest.raises(DoesNotFit) as caught:
        fit(config(memory__fit="refuse"), 49 * GIB, footprints, on_gpu=True)
    assert (
        "memory.text_encoder = streamed saves 9.00 GiB" in caught.value.fix
        and "52.00" not in caught.value.fix
    )
    with pytest.raises(DoesNotFit) as caught:
        fit(config(), 14 * GIB, footprints, on_gpu=True)
    assert caught.value.fix == "run one lane at a time, which fits: --no-overlap"
    with pytest.raises(DoesNotFit) as caught:
        fit(config(), 9 * GIB, footprints, on_gpu=True)
    assert "give it 12.90 GiB, the least that these models run in" in caught.value.fix
    assert "53.50 GiB" not in caught.value.fix and "text encoder" in str(caught.value)


def test_two_transformers_take_turns_before_anything_costs_more() -> None:
    """And where blocks are streamed in the end there is nothing left to move."""

    def two(config: RunConfig) -> dict[str, Footprint]:
        if config.memory.blocks == config.memory.experts == "streamed":
            raise ConfigError("both streamed", fix="set one")
        given = footprints(config)
        second = 10 if config.memory.blocks == config.memory.experts == "device" else 0
        held = given["generator"].held | {"second transformer": second * GIB}
        return given | {"generator": replace(given["generator"], held=held)}

    found = fit(config(), (needed(1) + 1) * GIB + int(0.5 * GIB), two, on_gpu=True)
    assert names(found.changes) == [KEYS[0], "memory.experts = streamed"]
    least = fit(config(), needed(9) * GIB + int(1.5 * GIB), two, on_gpu=True)
    assert names(least.changes)[-1] == "memory.blocks = streamed, memory.experts = device"
    assert (least.config.memory.blocks, least.config.memory.experts) == ("streamed", "device")


def test_what_is_kept_of_a_prefix_goes_before_weights_lose_bits() -> None:
    """Also where a step that keeps it hides what smaller passes of the autoencoder would save."""

    def keeping(config: RunConfig) -> dict[str, Footprint]:
        found = footprints(config)
        kept = 7 if config.denoise.settings().prefix_kept else 0
        working = found["generator"].working | {"denoise step": (2 + kept) * GIB}
        return found | {"generator": replace(found["generator"], working=working)}

    given = config(denoise__preset="fast")
    found = fit(given, 35 * GIB, keeping, on_gpu=True)
    changes = ["schedule.replies = 1", "denoise.prefix_kept = 0.0", "denoise.vae_chunk = 2"]
    assert names(found.changes) == [KEYS[0], *changes] and found.plan.fits
    assert "half as long again" in found.changes[2] and found.config.denoise.settings().prefix_kept == 0


def test_scouts_share_forwards_by_fewer_before_anything_else_changes() -> None:
    def of_batches(config: RunConfig) -> dict[str, Footprint]:
        found = footprints(config)
        found["generator"] = replace(found["generator"], working={"scouts": config.loop.scout_batch * GIB})
        return found

    given = config(loop__method="scout", loop__scout_batch=20)
    assert fit(given, 80 * GIB, of_batches, on_gpu=False).config == given
    found = fit(given, 54 * GIB, of_batches, on_gpu=False)
    assert names(found.changes) == ["loop.scout_batch = 4"] and found.plan.fits
    assert "may differ in their last bits" in found.changes[0]
