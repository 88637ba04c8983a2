"""An artifact against its module: on real takes, with every other set of options, and noted where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_export_store import build_graph
from tiny_exportable import build_exportable
from tiny_run import make_folders
from tiny_wan import LATENT_CHANNELS
from typer.testing import CliRunner

from engine import cli
from export import generator_inputs, parity
from export.artifacts.store import read_artifact
from export.artifacts.verified import note, verifications
from export.pipeline import Request, subject_of
from export.spec import ExportError, Profile
from export.targets import onnx
from export.targets.onnx_session import SessionOptions


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_exportable(tmp_path_factory.mktemp("model") / "generator")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folders(tmp_path_factory.mktemp("data")).dataset


def test_options_that_break_a_graph_are_named_and_noted(
    generator: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build_graph(generator, tmp_path / "o")
    plain = onnx.load_module

    def load(folder: Path, device: str = "cpu", *, session: SessionOptions | None = None) -> Any:
        run = plain(folder, device, session=session)
        if session is None or session.level in ("enable_basic", "enable_all"):
            return run
        if session.level == "enable_layout":
            raise ExportError("cannot open it", fix="none")
        return lambda inputs: {name: -value for name, value in run(inputs).items()}

    monkeypatch.setattr(onnx, "load_module", load)
    found = parity.compare(
        read_artifact(folder),
        str(generator),
        (),
        dataset=dataset,
        num_scenes=1,
        device="cpu",
        on_progress=lambda text, peak_bytes: None,
    )
    assert found.verification.failures == () and found.verification.num_forwards == 6
    tried = {one.options: one for one in found.others}
    assert tried.keys() == {"enable_basic", "enable_extended", "enable_layout", "enable_all"}
    assert tried["enable_basic"].problem == tried["enable_all"].problem == ""
    assert "velocity has relative error 2.00e+00" in tried["enable_extended"].problem
    assert tried["enable_layout"] == parity.Other(
        options="enable_layout", relative=None, problem="cannot open it"
    )
    assert found.place["options"] == "disable_all" and "onnxruntime" in found.place["runtime"]

    monkeypatch.setenv("COLUMNS", "300")
    listed = CliRunner().invoke(cli.app, ["export", "list", "--out", str(tmp_path / "o")]).output
    assert f"not verified yet: retake export verify {folder}" in listed
    note(read_artifact(folder), found.record())
    (entry,) = verifications(read_artifact(folder))
    assert [one["options"] for one in entry["others"] if one["problem"]] == [
        "enable_extended",
        "enable_layout",
    ]
    listed = CliRunner().invoke(cli.app, ["export", "list", "--out", str(tmp_path / "o")]).output
    assert f"verified on {', '.join(found.place.values())}: 6 forwards, takes of 1 scene of" in listed


def inputs_of(generator: Path, dataset: Path, subject: str, sizes: dict[str, int], root: Path) -> Any:
    request = Request(
        source=generator,
        subject=subject,
        target="onnx",
        recipe="fp16",
        profiles=(Profile(name="p", sizes=sizes),),
        out=root,
    )
    made = subject_of(request, dtype="fp32")
    forwards = generator_inputs.record(
        request, made.spec, dtype="fp32", dataset=dataset, num_scenes=2, seed=1
    )
    return made, list(forwards)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_decoder_is_given_the_latents_of_takes(
    rows: int, generator: Path, dataset: Path, tmp_path: Path
) -> None:
    sizes = {"B": rows, "F": 5, "h": 4, "w": 4}
    made, forwards = inputs_of(generator, dataset, "vae_decoder", sizes, tmp_path)
    shapes = [tuple(latents.shape) for (latents,) in forwards]
    assert shapes == [(rows, LATENT_CHANNELS, 5, 4, 4)] * 2
    assert not torch.equal(forwards[0][0], forwards[1][0])
    with torch.no_grad():
        made.module(*forwards[0])
    with pytest.raises(ExportError, match="vae_decoder was built for"):
        inputs_of(generator, dataset, "vae_decoder", sizes | {"F": 4}, tmp_path)


def test_a_text_encoder_is_given_prompts(generator: Path, dataset: Path, tmp_path: Path) -> None:
    made, forwards = inputs_of(generator, dataset, "text_encoder", {"B": 1, "L": 24}, tmp_path)
    assert len(forwards) >= 3  # two scenes, and the negative prompt once
    assert {int(is_token.sum()) for _, is_token in forwards} != {24}
    for ids, is_token in forwards:
        count = int(is_token.sum())  # tokens first, then padding
        assert is_token.tolist() == [[1] * count + [0] * (24 - count)]
        assert not ids[0, count:].any() and bool(ids[0, : count - 1].all())
        with torch.no_grad():
            assert made.module(ids, is_token).shape[:2] == (1, 24)
