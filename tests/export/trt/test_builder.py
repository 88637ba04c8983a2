"""The builder process: engines of tiny graphs, and every way in which it can fail, the crash included."""

from __future__ import annotations

import importlib.util
import json
import resource
from pathlib import Path
from typing import Any

import pytest
from tiny_graphs import write_onnx

from export.spec import ExportError
from export.trt import build_child, builder
from export.trt.builder import BuildOptions, Built, run_builder
from export.trt.layer_table import parse, summary
from export.trt.library import find, is_installed

pytestmark = pytest.mark.skipif(
    not is_installed("tensorrt-rtx") or importlib.util.find_spec("onnx") is None,
    reason="the packages tensorrt-rtx and onnx are not both installed",
)
SHAPES = [{"x": (1, 64, 128)}]


def node(*arguments: Any, name: str = "") -> Any:
    from onnx import helper

    return helper.make_node(*arguments, name=name)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx(tmp_path_factory.mktemp("graph") / "model.onnx")


def run(onnx_path: Path, work: Path, **changes: Any) -> Built:
    work.mkdir(exist_ok=True)
    arguments: dict[str, Any] = {
        "compute_capability": 89,
        "profiles": SHAPES,
        "options": BuildOptions(),
        "timing_cache": None,
        "on_progress": None,
    }
    return run_builder(find("tensorrt-rtx"), onnx_path, work, **{**arguments, **changes})


def write_graph(path: Path, nodes: list[Any], shape: list[int]) -> Path:
    """A graph x -> y of a few nodes, for what no torch module exports to."""
    import onnx
    from onnx import TensorProto, helper

    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name in "xy"]
    graph = helper.make_graph(nodes, "graph", tensors[:1], tensors[1:])
    opset = [helper.make_opsetid("", 23)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def test_an_engine_is_built_and_described(graph: Path, tmp_path: Path) -> None:
    phases: list[tuple[str, int]] = []
    built = run(graph, tmp_path, on_progress=lambda phase, peak: phases.append((phase, peak)))
    assert built.plan_bytes > 100_000 and built.plan.stat().st_size == built.plan_bytes
    assert built.build_s > 0.0 and built.num_network_layers > 10
    assert phases[0][0] == "parsing" and "Building engine" in {phase for phase, _ in phases}
    assert 0 < phases[0][1] <= built.peak_rss_bytes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build.log", "engine.plan"]


@pytest.mark.parametrize("capability", [86, 89, 120])
def test_the_same_build_gives_the_same_bytes(graph: Path, tmp_path: Path, capability: int) -> None:
    first, second = (run(graph, tmp_path / name, compute_capability=capability) for name in "ab")
    assert first.plan_sha256 == second.plan_sha256
    assert first.plan.read_bytes() == second.plan.read_bytes()


def test_another_card_or_option_gives_other_bytes(graph: Path, tmp_path: Path) -> None:
    streaming = BuildOptions(weight_streaming=True)
    digests = {
        run(graph, tmp_path / "a").plan_sha256,
        run(graph, tmp_path / "b", compute_capability=120).plan_sha256,
        run(graph, tmp_path / "c", options=streaming).plan_sha256,
        run(graph, tmp_path / "d", profiles=[{"x": (2, 64, 128)}]).plan_sha256,
    }
    assert len(digests) == 4


def test_several_profiles_share_one_engine(graph: Path, tmp_path: Path) -> None:
    built = run(graph, tmp_path, profiles=[{"x": (batch, 64, 128)} for batch in (1, 2, 4)])
    with built.log.open(encoding="utf-8") as lines:
        table = parse(lines)
    assert [summary(table, index)["fused_attention"] for index in range(3)] == [1, 1, 1]


def test_a_crash_of_the_builder_is_an_error(tmp_path: Path) -> None:
    """Attention of one tensor with itself makes this library's builder segfault."""
    attention = node("Attention", ["x", "x", "x"], ["y"], name="attention_of_one")
    crashing = write_graph(tmp_path / "crash.onnx", [attention], [1, 2, 64, 64])
    with pytest.raises(ExportError) as caught:
        run(crashing, tmp_path / "work", profiles=[{"x": (1, 2, 64, 64)}])
    assert "builder of crash.onnx was ended by SIGSEGV" in caught.value.problem
    assert "attention_of_one" in caught.value.problem  # the tail of the log names the node it was at


def test_a_builder_that_is_killed_points_at_memory(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child.py"
    child.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n", encoding="utf-8")
    monkeypatch.setattr(builder.build_child, "__file__", str(child))
    with pytest.raises(ExportError, match="was ended by SIGKILL") as caught:
        run(graph, tmp_path / "work")
    assert "memory" in caught.value.fix


def test_an_unsupported_operator_is_named(tmp_path: Path) -> None:
    nodes = [
        node("Det", ["x"], ["d"], name="determinant"),
        node("Expand", ["d", "x"], ["y"], name="back"),
    ]
    with pytest.raises(ExportError, match=r"node 'determinant', operator Det: .*UNSUPPORTED_NODE"):
        run(write_graph(tmp_path / "g.onnx", nodes, [1, 64, 128]), tmp_path / "work")


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ([{"x": (1, 65, 128)}], r"input x: graph \[-1, 64, 128\], profile \[1, 65, 128\]"),
        ([{"x": (1, 64)}], r"profile \[1, 64\]"),
        ([{"z": (1, 64, 128)}], r"the graph's inputs are \['x'\], the profile's \['z'\]"),
    ],
)
def test_a_shape_the_graph_does_not_take_is_refused(
    profiles: list[dict[str, tuple[int, ...]]], message: str, graph: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        run(graph, tmp_path, profiles=profiles)


def test_two_profiles_of_a_static_graph_are_refused(tmp_path: Path) -> None:
    static = write_graph(tmp_path / "g.onnx", [node("Relu", ["x"], ["y"])], [1, 64, 128])
    assert run(static, tmp_path / "work").plan_bytes > 0
    with pytest.raises(ExportError, match="no input of the graph is dynamic"):
        run(static, tmp_path / "work", profiles=SHAPES * 2)


def test_what_the_builder_refuses_is_its_own_message(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="built no engine") as caught:
        run(graph, tmp_path, options=BuildOptions(workspace_bytes=1024))
    assert "within workspace limit" in caught.value.problem


def test_a_full_disk_is_said(graph: Path, tmp_path: Path) -> None:
    """A device that is always full stands for the disk."""
    (tmp_path / "engine.plan").symlink_to("/dev/full")
    with pytest.raises(ExportError, match="the disk is full") as caught:
        run(graph, tmp_path)
    assert "--out" in caught.value.fix


def test_an_interrupt_ends_the_child(graph: Path, tmp_path: Path) -> None:
    def interrupt(phase: str, peak: int) -> None:
        raise KeyboardInterrupt

    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with pytest.raises(KeyboardInterrupt):
        run(graph, tmp_path, on_progress=interrupt)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime >= before  # it was waited for
    assert not (tmp_path / "outcome.json").exists()


def test_the_timing_cache_is_written_back(graph: Path, tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    run(graph, tmp_path / "work", timing_cache=cache)
    size = cache.stat().st_size
    assert size > 0
    run(graph, tmp_path / "again", timing_cache=cache)
    assert cache.stat().st_size >= size


def test_the_child_writes_its_outcome(
    graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script itself, in this process: a wrong request is an outcome, not a traceback."""
    request = {
        "module": "tensorrt_rtx",
        "onnx": str(graph),
        "plan": str(tmp_path / "p"),
        "log": str(tmp_path / "l"),
        "outcome": str(tmp_path / "o"),
        "compute_capability": 89,
        "profiles": [{"x": [1, 9, 128]}],
        "timing_cache": None,
        **BuildOptions().record(),
    }
    (tmp_path / "request.json").write_text(json.dumps(request), encoding="utf-8")
    build_child.main(str(tmp_path / "request.json"))
    outcome = json.loads((tmp_path / "o").read_text(encoding="utf-8"))
    assert outcome["ok"] is False and outcome["kind"] == "profile" and outcome["peak_rss_bytes"] > 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["phase"] == "parsing"
