"""Files of other tools, from `retake models check` and `add` to a take: known, together, and unchanged."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import save, scaled_fp8, write_gguf
from foreign_wan import Files, TinyWan22, published, text_encoder_tensors, write_files
from safetensors.torch import save_file
from tiny_run import Folders, Silent, make_folders, script_the_critic
from tiny_wan import SIDECAR
from typer.testing import CliRunner, Result

from engine import cli
from engine.build.run import build_run
from engine.errors import ModelError
from engine.runs.manifest import MANIFEST, read_manifest
from engine.settings.environment import models_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyWan22, Files]:
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("RETAKE_THREADS", "1")
    return tmp_path


def models(*words: object) -> Result:
    return CliRunner().invoke(cli.app, ["models", *map(str, words)])


def check(path: Path, folder: Path) -> dict[str, Any]:
    """The document, whose `ok` is the exit status."""
    result = models("check", path, "--json", folder / "check.json")
    document: dict[str, Any] = json.loads((folder / "check.json").read_text())
    assert result.exit_code == (0 if document["ok"] else 1), result.output
    return document


def plain(text: str) -> str:
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())


def beside(files: Files) -> list[object]:
    return [
        *("--vae", files.vae),
        *("--text-encoder", files.text_encoder),
        *("--tokenizer", files.tokenizer),
    ]


def of_the_dataset(folder: Path) -> None:
    """Takes as long as its clips, in one step."""
    durations = {"prefix_frames": 24, "num_frames": 40, "num_inference_steps": 1, "guidance_scale": 1.0}
    (folder / "retake.json").write_text(json.dumps({**SIDECAR, **durations, "clip_prompts": True}))


def lora(folder: Path) -> Path:
    """In kohya's names, for a layer that the FP8 and GGUF files have quantized."""
    name = "lora_unet_blocks_0_self_attn_q"
    pair = {"lora_down.weight": torch.ones(4, 128), "lora_up.weight": torch.ones(128, 4)}
    tensors = {f"{name}.{part}": tensor for part, tensor in pair.items()}
    return save(folder / "kohya.safetensors", {**tensors, f"{name}.alpha": torch.tensor(2.0)})


@pytest.mark.parametrize("name", ["plain", "scaled", "gguf"])
def test_a_take_is_made_from_every_kind_of_file(
    made: tuple[TinyWan22, Files],
    folders: Folders,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    _, files = made
    path: Path = getattr(files, name)
    document = check(path, home)
    assert document["kind"] == "transformer" and document["faults"] == []
    assert f"--vae {files.vae} --text-encoder {files.text_encoder}" in document["use"]
    added = models("add", path, "own", *beside(files), "--json", home / "added.json")
    assert added.exit_code == 0, added.output
    assert "retake run CLIPS --generator own" in added.output
    folder = models_folder() / "own"
    of_the_dataset(folder)
    assert check(folder, home)["faults"] == []
    script_the_critic(monkeypatch)
    settings = {"generator.name": "own", "loop.loops": 0, "limit": 1, "generator.loras": [str(lora(home))]}
    with build_run(folders.config(home / "run", settings=settings)) as run:
        (outcome,) = run.execute(Silent()).values()
    assert outcome.failure is None and len(outcome.attempts) == 1
    manifest = read_manifest(home / "run" / MANIFEST)
    digests = manifest["models"]["generator"]["sha256"]
    links = json.loads((home / "added.json").read_text())["links"]
    assert {place: link["sha256"] for place, link in links.items()}.items() <= digests.items()
    told = {
        "plain": "safetensors, F32",
        "scaled": "fp8_scaled: dequantized",
        "gguf": "gguf, Q8_0: dequantized",
    }
    assert told[name] in manifest["denoiser"]["transformer file"]


def test_what_is_missing_beside_a_file_is_named_with_the_command(
    made: tuple[TinyWan22, Files], home: Path
) -> None:
    _, files = made
    alone = Path(shutil.copy(files.gguf, home / "only.gguf"))
    told = plain(models("add", alone, "own").stderr)
    assert "needs: vae, text encoder, tokenizer" in told
    assert "--vae VAE --text-encoder TEXT_ENCODER --tokenizer TOKENIZER" in told
    assert "VAE: its autoencoder, such as wan2.2_vae.safetensors" in told and "hf download" in told
    place = home / "comfy" / "diffusion_models"
    place.mkdir(parents=True)
    alone.rename(place / "only.gguf")
    (home / "comfy" / "vae").mkdir()
    shutil.copy(files.vae, home / "comfy" / "vae")
    vae = home / "comfy" / "vae" / files.vae.name
    assert f"--vae {vae} --text-encoder TEXT_ENCODER" in check(place / "only.gguf", home)["use"]
    assert not list(models_folder().glob("*"))


@pytest.mark.parametrize(
    ("kind", "what"),
    [("vae", "Wan2.2 autoencoder, 48 channels"), ("text_encoder", "umT5 text encoder, 2 blocks of width 32")],
)
def test_a_part_alone(made: tuple[TinyWan22, Files], home: Path, kind: str, what: str) -> None:
    path = getattr(made[1], kind)
    document = check(path, home)
    assert (document["kind"], document["what"], document["use"]) == (kind, what, None)
    assert "give the transformer's file first" in models("add", path, "own").stderr


def test_an_fp8_text_encoder_is_read_too(made: tuple[TinyWan22, Files], home: Path) -> None:
    model, files = made
    tensors = scaled_fp8(text_encoder_tensors(model), lambda name: ".DenseReluDense." in name)
    path = save(home / "umt5_fp8_scaled.safetensors", tensors)
    words = ["--vae", files.vae, "--text-encoder", path, "--tokenizer", files.tokenizer / "tokenizer.json"]
    assert models("add", files.plain, "own", *words).exit_code == 0
    assert check(models_folder() / "own", home)["weights"].keys() == {"F32", "F8_E4M3"}


def test_a_whole_folder_gets_a_name_and_another_autoencoder(
    made: tuple[TinyWan22, Files], folders: Folders, home: Path
) -> None:
    assert models("add", folders.generator, "own").exit_code == 0
    linked = models_folder() / "own" / "transformer" / "diffusion_pytorch_model.safetensors"
    assert linked.is_symlink() and check(models_folder() / "own", home)["faults"] == []
    assert models("add", folders.critic, "judge").exit_code == 0
    told = plain(models("add", folders.generator, "mixed", "--vae", made[1].vae).stderr)
    assert "channels (4, 4)" in told and "(48, 48) with this vae" in told
    assert sorted(path.name for path in models_folder().iterdir()) == ["judge", "own"]
    listed = models("list", "--json", home / "list.json")
    assert listed.exit_code == 0 and "as it was" in listed.output
    assert [one["name"] for one in json.loads((home / "list.json").read_text())] == ["judge", "own"]
    assert models("remove", "own", "--yes").exit_code == 0
    assert not (models_folder() / "own").exists() and (folders.generator / "model_index.json").is_file()


def test_an_added_model_gets_another_name_and_another_part(made: tuple[TinyWan22, Files], home: Path) -> None:
    """Which leaves the first as it was, and does not need it."""
    _, files = made
    assert models("add", files.plain, "own", *beside(files)).exit_code == 0
    before = (models_folder() / "own" / "links.json").read_bytes()
    added = models("add", models_folder() / "own", "again", "--vae", files.vae, "--json", home / "again.json")
    assert added.exit_code == 0, added.output
    assert (models_folder() / "own" / "links.json").read_bytes() == before
    assert check(Path("own"), home)["faults"] == [], "a name is known"
    told = json.loads((home / "again.json").read_text())["parts"]
    assert told.keys() == {"folder", "transformer", "text_encoder", "tokenizer", "vae"}
    assert models("remove", "own", "--yes").exit_code == 0
    assert check(Path("again"), home)["faults"] == []
    assert "nor was a model added as that" in plain(models("check", "own").stderr)


def test_a_name_of_which_there_is_nothing_is_told_before_anything_is_asked(home: Path) -> None:
    assert "no model was added as 'none'" in plain(models("remove", "none").stderr)
    assert "names the bundled models" in plain(models("check", "demo").stderr)
    for path in ("none", "no/such/file"):
        assert "nor was a model added as that" in plain(models("check", path).stderr)


def test_a_name_is_given_once_and_is_no_path(made: tuple[TinyWan22, Files]) -> None:
    _, files = made
    assert models("add", files.plain, "own", *beside(files)).exit_code == 0
    assert "was added as 'own' already" in plain(models("add", files.plain, "own", *beside(files)).stderr)
    for name in ("demo", "a/b", "../b", ".b"):
        assert "cannot be the name of a model" in plain(models("add", files.plain, name).stderr)
    assert "no model was added as 'other'" in plain(models("remove", "other", "--yes").stderr)


def test_a_linked_file_that_changes_is_noticed(
    made: tuple[TinyWan22, Files], folders: Folders, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, files = made
    copies = [Path(shutil.copy(path, home / path.name)) for path in (files.gguf, files.vae)]
    words = ["--vae", copies[1], "--text-encoder", files.text_encoder, "--tokenizer", files.tokenizer]
    assert models("add", copies[0], "own", *words).exit_code == 0
    raw = bytearray(copies[0].read_bytes())
    raw[-1] ^= 1
    copies[0].write_bytes(raw)
    (fault,) = check(models_folder() / "own", home)["faults"]
    assert "its transformer/weights.gguf, has another content since it was linked" in fault["problem"]
    script_the_critic(monkeypatch)
    of_the_dataset(models_folder() / "own")
    with pytest.raises(ModelError, match="has another content"):
        build_run(folders.config(home / "run", settings={"generator.name": "own"}))
    copies[0].write_bytes(raw[:-8])
    assert "bytes, not" in plain(models("list").output)
    copies[1].unlink()
    assert "leads to" in check(models_folder() / "own", home)["faults"][0]["problem"]


def test_what_is_wrong_with_a_file_is_said_with_both_lists(made: tuple[TinyWan22, Files], home: Path) -> None:
    tensors = published(made[0])
    tensors["blocks.1.other.weight"] = tensors.pop("blocks.1.ffn.2.bias")
    (fault,) = check(save(home / "a.safetensors", tensors), home)["faults"]
    assert "1 missing: blocks.1.ffn.2.bias; 1 surplus: blocks.1.other.weight" in fault["problem"]


def test_pickles_loras_and_files_of_no_model(home: Path) -> None:
    torch.save({"a": torch.ones(2)}, home / "model.safetensors")
    (fault,) = check(home / "model.safetensors", home)["faults"]
    assert "is a pickle, which can run any code" in fault["problem"] and ".safetensors" in fault["fix"]
    pair = {"lora_down.weight": torch.ones(4, 8), "lora_up.weight": torch.ones(8, 4)}
    save_file(
        {f"diffusion_model.blocks.0.self_attn.q.{k}": v for k, v in pair.items()}, home / "l.safetensors"
    )
    document = check(home / "l.safetensors", home)
    assert document["kind"] == "LoRA" and "1 layer of rank 4" in document["what"]
    assert "is a LoRA, no model" in plain(models("add", home / "l.safetensors", "own").stderr)
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.ones(2)}, home / "flux.safetensors")
    (fault,) = check(home / "flux.safetensors", home)["faults"]
    assert "no part of a model that is known" in fault["problem"] and "Wan2.2 TI2V 5B" in fault["fix"]
    assert models("check", home / "absent").exit_code == 2


@pytest.mark.parametrize(
    ("option", "given", "told"),
    [
        ("--vae", "nowhere", "--vae nowhere does not exist"),
        ("--vae", "umt5_xxl.safetensors", "not the vae Fix: give --vae that part"),
        ("--tokenizer", "empty", "it lacks tokenizer.json or spiece.model and tokenizer_config.json"),
        ("--tokenizer", "notes.txt", "notes.txt is no tokenizer Fix: give --tokenizer the folder"),
        ("--text-encoder", "empty", "empty holds no file"),
        ("--text-encoder", "bare", "own lacks text_encoder/config.json"),
    ],
)
def test_a_part_that_is_none_is_told_by_its_option(
    made: tuple[TinyWan22, Files],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    given: str,
    told: str,
) -> None:
    _, files = made
    monkeypatch.chdir(home)
    shutil.copy(files.text_encoder, "umt5_xxl.safetensors")
    Path("notes.txt").write_text("none")
    for name in ("empty", "bare"):
        Path(name).mkdir()
    Path("bare", "notes.txt").write_text("none")
    named = [*beside(files), option, given]  # the last one counts
    error = plain(models("add", files.plain, "own", *named).stderr)
    assert told in error and ".own." not in error, "the folder in the making is nobody's"
    assert not list(models_folder().glob("*"))


def test_what_is_no_model_folder_says_what_else_it_is(made: tuple[TinyWan22, Files], home: Path) -> None:
    (home / "empty").mkdir()
    (fault,) = check(home / "empty", home)["faults"]
    assert "neither model_index.json" in fault["problem"] and "or a weight file" in fault["fix"]
    _, files = made
    (fault,) = check(files.plain.parent, home)["faults"]
    assert f"retake models check {files.gguf}" in fault["fix"]
    assert "is no model folder" in plain(models("add", files.plain.parent, "own").stderr)
    assert models("add", files.plain, "own", *beside(files)).exit_code == 0
    (fault,) = check(models_folder() / "own" / "transformer", home)["faults"]
    assert "one part of a video generator (WanTransformer3DModel)" in fault["problem"]
    assert "the folder above it" in fault["fix"]


def test_weights_of_a_language_model_lead_to_its_folder(home: Path) -> None:
    tensors = {"token_embd.weight": torch.ones(4, 32)}
    path = write_gguf(home / "q.gguf", tensors, lambda *_: "Q8_0", metadata={"general.architecture": "qwen3"})
    (fault,) = check(path, home)["faults"]
    assert "its architecture is 'qwen3'" in fault["problem"] and "is not read as GGUF" in fault["fix"]
    (home / "llm").mkdir()
    (home / "llm" / "config.json").write_text("{}")
    shard = save(home / "llm" / "model.safetensors", {"model.layers.0.mlp.up_proj.weight": torch.ones(2)})
    (fault,) = check(shard, home)["faults"]
    assert f"give the folder that it belongs to, {home / 'llm'}; or" in fault["fix"]


def test_a_folder_of_peft_is_a_lora(home: Path) -> None:
    pair = {"lora_A.weight": torch.ones(4, 8), "lora_B.weight": torch.ones(8, 4)}
    name = "base_model.model.blocks.0.attn1.to_q"
    save_file({f"{name}.{k}": v for k, v in pair.items()}, home / "adapter_model.safetensors")
    (home / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": "many"}))
    assert "adapter_config.json cannot be read" in check(home, home)["faults"][0]["problem"]
    (home / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    document = check(home, home)
    assert document["kind"] == "LoRA" and str(home / "adapter_model.safetensors") in document["use"]


def test_a_folder_with_code_of_its_own_or_pickles_alone_is_refused(folders: Folders, home: Path) -> None:
    generator = Path(shutil.copytree(folders.generator, home / "generator"))
    index = json.loads((generator / "model_index.json").read_text())
    (generator / "model_index.json").write_text(json.dumps({**index, "vae": ["my_vae", "MyVAE"]}))
    assert "code of its own (vae of 'my_vae')" in check(generator, home)["faults"][0]["problem"]
    critic = Path(shutil.copytree(folders.critic, home / "critic"))
    config = json.loads((critic / "config.json").read_text())
    (critic / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "model.Mine"}}))
    assert "auto_map" in check(critic, home)["faults"][0]["problem"]
    (critic / "config.json").write_text(json.dumps(config))
    (critic / "model.safetensors").rename(critic / "pytorch_model.bin")
    assert "as pickles alone (pytorch_model.bin)" in check(critic, home)["faults"][0]["problem"]
