"""Recording inputs, measuring 8-bit errors and choosing formats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_surgery import transformer, velocity

from engine.errors import ModelError
from engine.quant.calibration import (
    Budget,
    InputRecorder,
    LayerError,
    Policy,
    PolicyEntry,
    choose,
    compare,
    measure_linears,
)
from engine.quant.surgery import linear_of, quantize_linears
from engine.quant.tables import WAN, resolve


def error(layer: str, format: str, step: int, relative: float, *, kind: str = "linear") -> LayerError:
    cosine = 1 - relative**2 / 2
    return LayerError(
        layer=layer, kind=kind, format=format, step=step, cosine=cosine, relative_error=relative
    )


def test_inputs_of_every_layer_and_step_are_recorded() -> None:
    model = transformer()
    names = resolve(WAN, model).quantized
    recorder = InputRecorder(model, names, rows_per_step=4)
    with recorder:
        for step in range(2):
            recorder.step = step
            velocity(model)
    assert set(recorder.inputs) == {(name, step) for name in names for step in range(2)}
    assert all(4 <= len(rows) <= 7 for rows in recorder.inputs.values())
    velocity(model)
    assert not any(layer._forward_pre_hooks for layer in model.modules())


def test_errors_of_real_layers_lead_to_a_model_that_runs() -> None:
    model = transformer()
    recorder = InputRecorder(model, resolve(WAN, model).quantized)
    with recorder:
        velocity(model)
    outlier = linear_of(model, "blocks.1.ffn.net.2")
    outlier.weight[:, 0] *= 1e4  # one input channel decides every output channel's scale
    recorder.inputs["blocks.1.ffn.net.2", 0][:, 0] = 0  # and does not occur
    errors = measure_linears(model, recorder.inputs, ["fp8", "int8"])
    assert len(errors) == 32
    by_layer = {(e.layer, e.format): e for e in errors}
    assert by_layer["blocks.1.ffn.net.2", "int8"].relative_error > 0.5
    assert 0.01 < by_layer["blocks.1.attn1.to_q", "fp8"].relative_error < 0.05
    policy = choose(errors, Budget(), fastest_first=["int8", "fp8"], source="x", num_steps=1)
    formats = policy.linear_formats()
    assert formats["blocks.1.attn1.to_q"] == "int8" and formats["blocks.1.ffn.net.2"] != "int8"
    kept = list(formats.values()).count("bf16")
    report = quantize_linears(model, WAN, "fp8", expect=16 - kept, policy=formats)
    assert report.formats == {name: fmt for name, fmt in formats.items() if fmt != "bf16"}


def test_the_worst_step_decides_for_a_linear_layer() -> None:
    errors = [error("a", "fp8", 0, 0.03), error("a", "fp8", 1, 0.5), error("b", "fp8", 0, 0.03)]
    errors += [error("a", "int8", 0, 0.01), error("a", "int8", 1, 0.02)]
    policy = choose(errors, Budget(), fastest_first=["fp8", "int8"], source="x", num_steps=4)
    assert policy.linear_formats() == {"a": "int8", "b": "fp8"}
    strict = choose(
        errors, Budget(linear_relative_error=0.001), fastest_first=["fp8", "int8"], source="x", num_steps=4
    )
    assert strict.linear_formats() == {"a": "bf16", "b": "bf16"}


def test_attention_is_chosen_by_ranges_of_steps() -> None:
    errors = [
        error("blocks.1.attn1", "fp8", step, r, kind="attention") for step, r in enumerate((0.2, 0.05, 0.05))
    ]
    errors.append(error("blocks.1.attn1", "fp8_skip", 2, 0.07, kind="attention"))
    policy = choose(errors, Budget(), fastest_first=["fp8_skip", "fp8"], source="x", num_steps=5)
    assert [(e.format, e.first_step, e.last_step) for e in policy.entries] == [
        ("bf16", 0, 0),
        ("fp8", 1, 1),
        ("fp8_skip", 2, 4),
    ]
    assert [policy.attention_format("blocks.1.attn1", step, 10) for step in (0, 1, 2, 4, 9)] == [
        "bf16",
        "bf16",
        "fp8",
        "fp8_skip",
        "fp8_skip",
    ]
    assert policy.attention_format("blocks.7.attn1", 3, 10) == "bf16" and policy.linear_formats() == {}
    with pytest.raises(AssertionError, match="step 10 of 10"):
        policy.attention_format("blocks.1.attn1", 10, 10)


def test_cosine_alone_can_refuse() -> None:
    turned = LayerError(layer="a", kind="linear", format="fp8", step=0, cosine=0.9, relative_error=0.01)
    assert not Budget().admits(turned)
    attention = LayerError(
        layer="a", kind="attention", format="fp8", step=0, cosine=0.997, relative_error=0.07
    )
    assert Budget().admits(attention)


def test_compare() -> None:
    x = torch.tensor([3.0, 4.0])
    assert compare(x, x) == (pytest.approx(1.0), 0.0)
    assert compare(x * 1.1, x) == (pytest.approx(1.0), pytest.approx(0.1, rel=1e-4))
    assert compare(torch.zeros(2), torch.zeros(2)) == (1.0, 0.0)
    assert compare(x, torch.zeros(2)) == (0.0, float("inf"))


def test_round_trip_and_refusal(tmp_path: Path) -> None:
    entry = PolicyEntry(layer="a", kind="linear", format="fp8", first_step=0, last_step=9)
    policy = Policy(source="abc", num_steps=10, entries=(entry,))
    path = tmp_path / "policy.json"
    policy.save(path)
    assert Policy.load(path) == policy
    text = path.read_text()
    for wrong in (
        text.replace('"schema": 1', '"schema": 2'),
        text[:40],
        text.replace('"format"', '"fromat"'),
        "[]",
    ):
        path.write_text(wrong)
        with pytest.raises(ModelError, match="calibrate again"):
            Policy.load(path)
    with pytest.raises(ModelError):
        Policy.load(tmp_path / "none.json")
