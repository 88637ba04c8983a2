"""What exporting costs, on a tiny generator: eager beside its graph, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from tiny_export_store import build_graph
from tiny_run import Folders, make_folders

from bench.quality import export_quality
from bench.results_page import quality_sections
from bench.results_page.page import SECTIONS
from bench.results_page.result_files import read_file
from engine.errors import ConfigError

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="the packages onnx, onnxruntime and onnxscript are not all installed",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAKE_THREADS", "1")


@pytest.mark.slow
@needs_onnx
def test_eager_and_its_graphs_are_scored_as_one_document(folders: Folders, tmp_path: Path) -> None:
    plain = build_graph(folders.generator, tmp_path / "a")
    int4 = build_graph(folders.generator, tmp_path / "a", recipe="int4")
    foreign = make_folders(tmp_path / "foreign").generator
    common = ["--dataset", str(folders.dataset), "--work", str(tmp_path / "w")]
    model = ["--generator", str(folders.generator)]
    for shard in ("1/2", "2/2"):
        named = f"plain={plain},int4={int4},foreign={foreign}"
        assert export_quality.main(["make", *common, *model, "--artifacts", named, "--shard", shard]) == 0
    out = tmp_path / "export_quality.json"
    assert export_quality.main(["score", *common, "--out", str(out)]) == 0
    document = json.loads(out.read_text())
    assert (document["schema"], document["kind"], document["num_scenarios"]) == (1, "export_quality", 2)
    eager, exact, coarse = document["rows"]
    assert [row["name"] for row in document["rows"]] == ["eager", "plain", "int4"]
    assert eager["settings"] == {"dtype": "fp32"}
    assert exact["settings"] == {"target": "onnx", "recipe": "fp16"}
    assert coarse["choices"]["artifact"] == int4.name
    assert exact["relative_error"]["median"] < 0.005 and abs(exact["difference"]["mean"]) < 0.5
    assert exact["relative_error"]["median"] < coarse["relative_error"]["median"]
    assert "is no artifact" in document["not_run"]["foreign"]
    section = SECTIONS["export_quality"](read_file(out))
    assert section == quality_sections.export_quality(read_file(out))
    assert "2 held-out scenarios" in section.body and "- **int4**: target onnx, recipe int4" in section.body


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names none"),
        ("fp8", "'fp8' is not NAME=FOLDER"),
        ("fp8=nowhere", "'fp8=nowhere' is not NAME=FOLDER"),
        ("=.", "'=.' is not NAME=FOLDER"),
        ("eager=.", "'eager=.' is not NAME=FOLDER"),
        ("a=.,a=..", "'a=..' is not NAME=FOLDER"),
    ],
)
def test_bad_lists_of_artifacts_are_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        export_quality.parse_artifacts(text)
    assert export_quality.main(["make", "--dataset", ".", "--work", ".", "--artifacts", text]) == 2


def test_a_list_of_artifacts_keeps_its_order(tmp_path: Path) -> None:
    assert list(export_quality.parse_artifacts(f"b={tmp_path},a={tmp_path}")) == ["b", "a"]
