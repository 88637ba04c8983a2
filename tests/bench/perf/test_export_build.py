"""The export measurement on a tiny model, its arithmetic, and what the committed measurement claims."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

from bench.perf import export_build
from bench.results_page.export_sections import export_build as section
from bench.results_page.result_files import ResultFile
from engine.errors import RetakeError
from export import pipeline
from export.quantization.scales import read_scales
from export.subjects import wan_dit
from export.trt.library import is_installed

RESULTS = Path(__file__).resolve().parents[3] / "bench" / "results" / "export_build.json"
TINY = export_build.Model(
    name="tiny",
    num_layers=1,
    num_heads=2,
    ffn_dim=256,
    of_layers=1,
    head_dim=64,
    text_dim=32,
    freq_dim=32,
    num_channels=4,
)


def row(num_layers: int, value: float) -> dict[str, Any]:
    part = {key: value for keys in export_build.EXTRAPOLATED.values() for key in keys}
    return {
        "name": f"L, {num_layers} of 40 layers",
        "measured": True,
        "model": f"L, {num_layers} of 40 layers",
        "num_layers": num_layers,
        "of_layers": 40,
        "num_parameters": 100 * num_layers,
        "recipe": "fp8",
        "capability": 89,
        "shape": "s",
        "export": part,
        "build": part,
    }


def test_two_cuts_give_the_line_through_them() -> None:
    (made,) = export_build.extrapolate([row(8, 18.0), row(4, 10.0)])
    assert made["name"] == "L, fp8 for 8.9" and made["measured"] is False
    assert (made["low"], made["high"]) == ("L, 4 of 40 layers", "L, 8 of 40 layers")
    assert made["num_parameters"] == 4000 and made["num_layers"] == 40
    assert set(made["export"].values()) == set(made["build"].values()) == {2.0 + 2.0 * 40}


def test_one_cut_or_whole_models_give_none() -> None:
    whole = {**row(40, 1.0), "model": "L"}
    assert export_build.extrapolate([row(8, 18.0), whole]) == []
    assert export_build.extrapolate([]) == []


def test_extrapolated_rows_are_made_anew() -> None:
    first = export_build.document([row(4, 1.0), row(8, 2.0)], [])
    again = export_build.document([*first["rows"], row(4, 1.0)][:3], [])
    assert len(first["rows"]) == len(again["rows"]) == 3
    assert {"argv", "config", "models"}.isdisjoint(first["manifest"])


def test_the_models_are_the_released_ones() -> None:
    sizes = []
    for model in (export_build.SMALL, export_build.LARGE):
        with torch.device("meta"):
            made = WanTransformer3DModel(**model.config())
        sizes.append(sum(parameter.numel() for parameter in made.parameters()))
    assert sizes == [1_418_996_800, 14_288_491_584]


def test_random_weights_are_complete_and_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_build, "SHARD_BYTES", 100_000)
    count = export_build.write_model(tmp_path / "m", TINY)
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 1
    model, found = WanTransformer3DModel.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert all(parameter.std() > 0 for parameter in model.parameters())


def test_made_up_scales_say_so_and_fit(tmp_path: Path) -> None:
    export_build.write_model(tmp_path / "m", TINY)
    request = pipeline.Request(
        source=tmp_path / "m",
        subject=wan_dit.SUBJECT,
        target=pipeline.ONNX,
        recipe="fp8-attention",
        profiles=(export_build.PROFILE,),
        out=tmp_path,
    )
    scales = read_scales(export_build.write_made_up_scales(request))
    assert scales.producer.startswith("made up") and scales.num_forwards == 0
    assert len(scales.attention_amax) == 2 and len(scales.input_amax) == 7


@pytest.mark.slow
@pytest.mark.skipif(
    not is_installed("tensorrt-rtx") or importlib.util.find_spec("onnx") is None,
    reason="the packages tensorrt-rtx and onnx are not both installed",
)
def test_a_tiny_model_from_weights_to_page(tmp_path: Path) -> None:
    case = export_build.Case(model=TINY, recipe="fp8-attention", capabilities=(89, 120))
    rows = export_build.measure(case, tmp_path)
    assert [one["num_fp8_products"] for one in rows] == [7, 7]
    for one in rows:
        assert one["num_quantized_linears"] == 10 and one["summary"]["fused_attention"] == 2
        assert all(gate["passed"] for gate in one["gates"])
        for part in (one["export"], one["build"]):
            assert part["peak_rss_bytes"] > 10**8 and part["wall_s"] > 0 and part["cpu_s"] > 0
    document = json.loads(json.dumps(export_build.document(rows, [])))
    made = section(ResultFile(name="export_build", kind="export_build", document=document))
    assert "8 of 8 gates passed" in made.headline


def test_a_killed_export_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, **arguments: Any) -> None: ...

        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *details: object) -> None: ...

        def submit(self, *arguments: Any) -> Any:
            raise export_build.BrokenProcessPool("a child died")

    monkeypatch.setattr(export_build, "ProcessPoolExecutor", Broken)
    request = pipeline.Request(
        source=tmp_path / "m",
        subject=wan_dit.SUBJECT,
        target=pipeline.ONNX,
        recipe="fp16",
        profiles=(export_build.PROFILE,),
        out=tmp_path,
    )
    with pytest.raises(RetakeError, match="the export of m was ended from outside"):
        export_build.in_child(request, None)


@pytest.mark.parametrize("capability", [89, 120])
def test_the_committed_measurement(capability: int) -> None:
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    (found,) = [one for one in rows if one["name"] == f"Wan2.1-1.3B, fp8-attention for {capability / 10}"]
    assert found["measured"] and found["num_layers"] == found["of_layers"] == 30
    assert (found["num_quantized_linears"], found["num_fp8_products"]) == (300, 181)
    assert found["summary"]["fused_attention"] == 60 and "fp8" in found["summary"]["fused_attention_inputs"]
    assert found["gates"] and all(gate["passed"] for gate in found["gates"])
    assert found["weights"] == "random" and found["scales"] == "made up"
