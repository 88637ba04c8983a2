"""The table of published models: names and licences of the engine, memory and seconds of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.results_page import scenario_seconds
from bench.results_page.models_table import models
from bench.results_page.page import Page
from bench.results_page.result_files import ResultError, ResultFile, read_file
from bench.results_page.scenario_seconds import MEASURED
from engine.build.hub import HOSTED

RESULTS = Path(__file__).parents[3] / "bench" / "results"
EXPERTS, NANO, VACE = (
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers",
    "nvidia/Cosmos3-Nano",
    "Wan-AI/Wan2.1-VACE-14B-diffusers",
)
ROW = {"generator": "a/wan", "critic": "a/critic", "overlap": True, "refused": None, "changed": []}
TIMED = {"file": "denoiser_x", "subject": "b", "tflop": None}
TAKE = {"steps": 10, "forwards_a_step": 2, "timed": TIMED}
NEEDS: dict[str, Any] = {
    "takes": {
        NANO: TAKE,
        EXPERTS: {**TAKE, "steps": 4, "forwards_a_step": 1, "timed": {**TIMED, "tflop": 300.0}},
        VACE: {**TAKE, "timed": None},
    },
    "needs": [
        {**ROW, "card": "small", "gib": 8, "planned_gib": None, "refused": "give it more"},
        {**ROW, "card": "middle", "gib": 16, "planned_gib": 15.24, "changed": ["x", "y"], "overlap": False},
        {**ROW, "card": "large", "gib": 80, "planned_gib": 34.0},
    ],
}
DENOISER: dict[str, Any] = {
    "subjects": [
        {"name": "a", "tflop_per_forward": 1.0, "variants": []},
        {
            "name": "b",
            "tflop_per_forward": 100.0,
            "variants": [
                {"name": "diffusers", "stock": True, "ms": [100.0]},  # faster, but the library's
                {"name": "ours", "stock": False, "ms": [400.0, 500.0, 600.0]},
                {"name": "ours, slower", "stock": False, "ms": [900.0]},
            ],
        },
    ]
}


def run(*parts: dict[str, Any]) -> dict[str, Any]:
    """Of whole runs with one loop, which is two takes."""
    gpus = [{"name": "NVIDIA H9"}]
    return {
        "manifest": {"machine": {"gpus": gpus}},
        "settings": {"loops": 1, "steps": 16, "quantization": "nf4"},
        "parts": list(parts),
    }


COLD = {"variant": "fast", "warm_up": False, "seconds_per_scenario": 99.0}
OTHER = {"variant": "fastest", "warm_up": True, "seconds_per_scenario": 11.0}
WARM = {"variant": "fast", "warm_up": True, "seconds_per_scenario": 28.89}


def page(needs: dict[str, Any] = NEEDS, **files: dict[str, Any]) -> Page:
    documents = {"model_needs": needs, "end_to_end_h200": run(COLD, OTHER, WARM), "denoiser_x": DENOISER}
    found = {
        name: ResultFile(name=name, kind="kind", document=document)
        for name, document in (documents | files).items()
    }
    return Page(text="", plots={}, files=found, anchors={name: f"of-{name}" for name in found})


def cells(told: str, name: str) -> list[str]:
    (line,) = [line for line in told.splitlines() if line.startswith(f"| [{name}](")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_every_model_has_its_licence_and_how_to_get_it() -> None:
    told = models(page())
    for name, one in HOSTED.items():
        found = cells(told, name)
        assert found[0] == f"[{name}](https://huggingface.co/{name})"
        assert found[1:4] == [one.what, one.licence, f"`hf download {name}`"]


def test_what_is_not_known_is_a_dash() -> None:
    told = models(page())
    assert cells(told, VACE)[4:] == ["–", "–", "–"]
    assert cells(told, "Qwen/Qwen3.5-9B")[4:] == ["19.3", "–", "–"]
    assert cells(told, MEASURED)[4:6] == ["34", "27.7 from one picture (arXiv 2606.18943)"]


def test_seconds_are_measured_warm_or_estimated_by_forwards() -> None:
    told = models(page())
    assert cells(told, MEASURED)[-1] == "28.9 measured, 16 steps"
    assert cells(told, NANO)[-1] == "20.0 estimated, 10 steps"  # 2 takes x 10 steps x 2 forwards x 0.5 s
    assert cells(told, EXPERTS)[-1] == "12.0 estimated, 4 steps"  # 2 x 4 x 0.5 s, of three times the FLOPs
    assert "2 takes, on an H9 with random weights" in told and "the critic in nf4" in told
    assert "[in whole runs](RESULTS.md#of-end_to_end_h200)" in told
    assert told.count("[b](RESULTS.md#of-denoiser_x)") == 1


def test_without_a_warm_run_or_a_plan_that_fits_there_are_no_seconds() -> None:
    refused = {**NEEDS, "takes": {NANO: {**TAKE, "steps": None}}}
    found = page(refused, end_to_end_h200=run(COLD, OTHER, {**WARM, "seconds_per_scenario": None}))
    assert scenario_seconds.of(found, MEASURED) is None
    assert scenario_seconds.of(found, NANO) is None
    assert scenario_seconds.of(found, EXPERTS) is None


def test_a_forward_that_was_not_measured_is_an_error() -> None:
    takes = {NANO: {**TAKE, "timed": {**TIMED, "file": "denoiser_y"}}}
    with pytest.raises(ResultError, match=r"denoiser_y\.json is missing"):
        scenario_seconds.of(page({**NEEDS, "takes": takes}), NANO)


def test_memory_is_told_by_generator_critic_and_card() -> None:
    told = models(page())
    assert "| GiB planned for | and | small, 8 GiB | middle, 16 GiB | large, 80 GiB |" in told
    assert "| a/wan | a/critic | no | 15.2 (2) * | 34.0 |" in told


def test_the_generator_of_whole_runs_is_planned_and_can_be_had() -> None:
    assert MEASURED in HOSTED
    assert MEASURED in read_file(RESULTS / "model_needs.json").document["takes"]
