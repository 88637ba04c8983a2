"""Model folders are judged by what lies in them, before a weight is read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.build import model_folders
from engine.errors import ModelError


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    folder = tmp_path / "generator"
    index: dict[str, object] = {"_class_name": "WanPipeline", "transformer_2": [None, None]}
    for part in model_folders.PIPELINE_PARTS:
        (folder / part).mkdir(parents=True)
        index[part] = ["diffusers", "Something"]
        if part in model_folders.WEIGHTLESS_PARTS:
            (folder / part / model_folders.WEIGHTLESS_PARTS[part]).write_text("{}")
        else:
            (folder / part / "config.json").write_text("{}")
            weights = {"w": np.zeros((3, 5), np.float16), "b": np.zeros(2, np.float32)}
            save_file(weights, folder / part / "model.safetensors")
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def critic(tmp_path: Path) -> Path:
    folder = tmp_path / "critic"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen3_vl"}')
    (folder / "tokenizer.json").write_text("{}")
    save_file({"w": np.zeros(7, np.float16)}, folder / "model.safetensors")
    return folder


def test_complete_folders_are_found(pipeline: Path, critic: Path) -> None:
    assert model_folders.find_generator(str(pipeline)).family == "wan"
    assert model_folders.find_critic(str(critic)).family == "qwen_vl"


def test_parameters_are_counted_from_headers(pipeline: Path) -> None:
    assert model_folders.weight_elements(pipeline) == 3 * 17


@pytest.mark.parametrize("part", model_folders.PIPELINE_PARTS)
def test_each_missing_part_is_named_with_the_layout(pipeline: Path, part: str) -> None:
    shutil.rmtree(pipeline / part)
    with pytest.raises(ModelError) as caught:
        model_folders.find_generator(str(pipeline))
    assert f"lacks {part}" in caught.value.problem
    assert "text_encoder/" in caught.value.fix


def test_a_second_transformer_that_the_index_names_must_be_there(pipeline: Path) -> None:
    index = json.loads((pipeline / "model_index.json").read_text())
    index["transformer_2"] = ["diffusers", "WanTransformer3DModel"]
    (pipeline / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="lacks transformer_2"):
        model_folders.find_generator(str(pipeline))


def test_missing_weights_and_shards_are_named(pipeline: Path) -> None:
    folder = pipeline / "transformer"
    shards = {"weight_map": {"w": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    with pytest.raises(ModelError, match=r"lacks 1 of 2 shards, the first model-00002\.safetensors"):
        model_folders.find_generator(str(pipeline))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="weights of transformer"):
        model_folders.find_generator(str(pipeline))


@pytest.mark.parametrize("found", [5, {"w": 3}, ["model.safetensors"]])
def test_an_index_of_no_files_is_refused(pipeline: Path, found: object) -> None:
    index = pipeline / "transformer" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": found}))
    with pytest.raises(ModelError, match="names no files of tensors"):
        model_folders.find_generator(str(pipeline))


def test_a_shard_outside_of_the_folder_is_none_of_it(pipeline: Path) -> None:
    index = pipeline / "transformer" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": str(pipeline / "vae" / "model.safetensors")}}))
    with pytest.raises(ModelError, match=r"lacks 1 of 1 shard, the first"):
        model_folders.find_generator(str(pipeline))


@pytest.mark.parametrize("part", model_folders.PIPELINE_PARTS)
@pytest.mark.parametrize("name", [None, "preprocessor_config.json"])
def test_code_of_its_own_is_refused_in_every_part(pipeline: Path, part: str, name: str | None) -> None:
    name = name or model_folders.WEIGHTLESS_PARTS.get(part, "config.json")
    (pipeline / part / name).write_text(json.dumps({"auto_map": {"AutoModel": "mine.Model"}}))
    with pytest.raises(ModelError, match=f"{part}/{name} asks for code of its own"):
        model_folders.find_generator(str(pipeline))


READ_BY_LIBRARIES = (
    *("config.json", "generation_config.json", "tokenizer_config.json"),
    *("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
)


@pytest.mark.parametrize("name", READ_BY_LIBRARIES)
def test_code_of_a_critic_s_own_is_refused_in_every_configuration(critic: Path, name: str) -> None:
    known = json.loads((critic / name).read_text()) if (critic / name).is_file() else {}
    (critic / name).write_text(json.dumps({**known, "auto_map": {}}))
    assert model_folders.find_critic(str(critic)).family == "qwen_vl", "an empty one names none"
    (critic / name).write_text(json.dumps({**known, "auto_map": {"AutoProcessor": "mine.Processor"}}))
    with pytest.raises(ModelError, match=f"critic/{name} asks for code of its own") as caught:
        model_folders.find_critic(str(critic))
    assert "mine.Processor" in caught.value.problem and "without trust_remote_code" in caught.value.fix


def test_missing_configs_are_named(pipeline: Path) -> None:
    (pipeline / "vae" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"lacks vae/config\.json"):
        model_folders.find_generator(str(pipeline))
    (pipeline / "vae" / "config.json").write_text("{}")
    (pipeline / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(ModelError, match=r"lacks scheduler/scheduler_config\.json"):
        model_folders.find_generator(str(pipeline))


def test_folders_are_judged_without_torch() -> None:
    code = (
        "import sys; from engine.build.model_folders import find_critic, find_generator\n"
        "print(find_generator('demo').family, find_critic('demo').family)\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    assert subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout == ("wan qwen_vl\n")


def test_unknown_families_list_the_known_ones(pipeline: Path, critic: Path) -> None:
    (pipeline / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(
        ModelError, match="'FluxPipeline', which no family loads; known: AnyFlowFAR, Cosmos3Omni, Wan"
    ) as caught:
        model_folders.find_generator(str(pipeline))
    assert caught.value.fix == "give a folder of one of the families: cosmos3, wan"
    (critic / "config.json").write_text('{"model_type": "qwen3_5_moe"}')
    with pytest.raises(ModelError, match=r"cannot be a critic: this Qwen3\.5 mixes experts"):
        model_folders.find_critic(str(critic))
    (critic / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(
        ModelError, match="'llama', which no family loads; known: cosmos3_omni, qwen2_5_vl, qwen3_5, qwen3_vl"
    ):
        model_folders.find_critic(str(critic))


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("tokenizer.json", "tokenizer"),
        ("model.safetensors", "weights of the model"),
    ],
)
def test_each_missing_file_of_a_critic_is_named(critic: Path, file: str, part: str) -> None:
    (critic / file).unlink()
    with pytest.raises(ModelError, match=part):
        model_folders.find_critic(str(critic))


def test_wrong_places(tmp_path: Path, pipeline: Path, critic: Path) -> None:
    with pytest.raises(ModelError, match="neither 'demo' nor a folder"):
        model_folders.find_generator(str(tmp_path / "absent"))
    with pytest.raises(ModelError, match="not a video generator"):
        model_folders.find_generator(str(critic))
    file = critic / "model.safetensors"
    with pytest.raises(ModelError, match=rf"is a file, not a model folder\n.*retake models check {file}"):
        model_folders.find_generator(str(file))
    with pytest.raises(ModelError, match=r"is a file, not a model folder\n.*the folder that it belongs to"):
        model_folders.find_critic(str(file))
    with pytest.raises(ModelError, match="not a vision-language critic"):
        model_folders.find_critic(str(pipeline))
    (critic / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        model_folders.find_critic(str(critic))
    (critic / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="no JSON object"):
        model_folders.find_critic(str(critic))


def test_a_folder_of_the_other_kind_says_the_other_option(pipeline: Path, critic: Path) -> None:
    with pytest.raises(ModelError, match=r"is a vision-language critic, not a video gen.*\n.*--critic, not"):
        model_folders.find_generator(str(critic))
    with pytest.raises(ModelError, match=r"is a video generator, not a vision.*\n.*--generator, not"):
        model_folders.find_critic(str(pipeline))


def test_a_part_of_a_model_leads_to_the_folder_above(pipeline: Path) -> None:
    with pytest.raises(ModelError, match="is one part of a model") as told:
        model_folders.find_generator(str(pipeline / "transformer"))
    assert told.value.fix == f"give the folder above it: --generator {pipeline}"


def test_a_folder_around_models_names_them(tmp_path: Path, pipeline: Path, critic: Path) -> None:
    """Also as the hub's cache keeps them, and where a name has a space."""
    other = shutil.copytree(pipeline, tmp_path / "other one")
    kept = shutil.copytree(critic, tmp_path / "models--a--b" / "snapshots" / "12")
    with pytest.raises(ModelError, match="is not a video generator, but holds some") as told:
        model_folders.find_generator(str(tmp_path))
    assert told.value.fix == f"name one: --generator {pipeline}, or --generator '{other}'"
    with pytest.raises(ModelError, match="holds some") as told:
        model_folders.find_critic(str(tmp_path / "models--a--b"))
    assert told.value.fix == f"name one: --critic {kept}"
    with pytest.raises(ModelError, match="is no model folder") as told:
        model_folders.finder(tmp_path)
    assert told.value.fix == f"take the models in it one by one: retake models check {pipeline}"
    with pytest.raises(ModelError, match=r"has no config\.json, so it is not a vision"):
        model_folders.find_critic(str(pipeline / "tokenizer"))


def test_a_missing_bundled_model_is_an_installation_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_folders, "MODELS", tmp_path)
    with pytest.raises(ModelError, match="bundled critic is missing"):
        model_folders.find_critic("demo")


def test_a_damaged_weight_file_is_refused(critic: Path) -> None:
    (critic / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not json at all!")
    with pytest.raises(ModelError, match="not a safetensors file"):
        model_folders.weight_elements(critic)
