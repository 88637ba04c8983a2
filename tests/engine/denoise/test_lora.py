"""LoRA merging against the running of both branches, in every spelling; and files that must not be merged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.denoise.lora import (
    Lora,
    aliases_of,
    check_names,
    lora_key,
    lora_of,
    merge_into,
    merged,
    read_lora,
    read_loras,
)
from engine.denoise.lora_alpha import Alpha
from engine.errors import ConfigError, ModelError

RANK = 3


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"to_q": nn.Linear(8, 6), "to_out": nn.Linear(6, 5)})
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.block["to_out"](self.block["to_q"](self.norm(x)))  # type: ignore[no-any-return]


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model()


def pair(inputs: int = 8, outputs: int = 6) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(1)
    return {
        "lora_A": torch.randn(RANK, inputs, generator=source),
        "lora_B": torch.randn(outputs, RANK, generator=source),
    }


def tensors(prefix: str = "", names: tuple[str, str] = ("lora_A", "lora_B"), end: str = ".weight") -> Any:
    found = pair()
    return {f"{prefix}block.to_q.{name}{end}": found[key] for name, key in zip(names, found, strict=True)}


def lora(found: Mapping[str, Tensor], *, alpha: float | None = None, strength: float = 1.0) -> Lora:
    given = Alpha(value=alpha)
    return lora_of(found, "a.safetensors", digest="sha256:a", strength=strength, default_alpha=given)


@pytest.mark.parametrize(("alpha", "strength"), [(None, 1.0), (6.0, 1.0), (6.0, 0.5), (1.0, -2.0)])
def test_merging_equals_running_the_branch(model: Model, alpha: float | None, strength: float) -> None:
    factor = strength * (RANK if alpha is None else alpha) / RANK
    found = pair()
    x = torch.randn(4, 8)
    h = model.norm(x)
    branch = (h @ found["lora_A"].T @ found["lora_B"].T) * factor
    expected = model.block["to_out"](model.block["to_q"](h) + branch)
    torch.testing.assert_close(merged(model, [lora(tensors(), alpha=alpha, strength=strength)])(x), expected)


@pytest.mark.parametrize(
    "spelling",
    [
        tensors(),
        tensors("transformer."),
        tensors("base_model.model.", end=".default.weight"),
        tensors("diffusion_model.", ("lora_down", "lora_up")),
        tensors(end=""),
    ],
)
def test_every_spelling_means_the_same(model: Model, spelling: dict[str, Tensor]) -> None:
    expected = merged(model, [lora(tensors())]).block["to_q"].weight
    assert torch.equal(merged(model, [lora(spelling)]).block["to_q"].weight, expected)


def test_changes_of_weights_and_biases_are_added(model: Model) -> None:
    prefix = "diffusion_model."
    deltas = {
        f"{prefix}block.to_q.diff_b": torch.ones(6),
        f"{prefix}norm.diff": torch.full((8,), 2.0),
        f"{prefix}norm.diff_b": torch.ones(8),
    }
    found = merged(model, [lora({**tensors(prefix), **deltas}, strength=0.5)])
    both = merged(model, [lora(tensors(), strength=0.5)])
    torch.testing.assert_close(found.block["to_q"].weight, both.block["to_q"].weight)
    torch.testing.assert_close(found.block["to_q"].bias, model.block["to_q"].bias + 0.5)
    torch.testing.assert_close(found.norm.weight, model.norm.weight + 1.0)
    torch.testing.assert_close(found.norm.bias, model.norm.bias + 0.5)


def named(*names: str) -> dict[str, Tensor]:
    return {f"{name}.{part}.weight": tensor for name in names for part, tensor in pair().items()}


def test_other_names_are_those_of_aliases_alone(model: Model) -> None:
    aliases = aliases_of(
        ["block.to_q", "block.to_out", "norm"], lambda name: name.replace("block.to", "layer")
    )
    assert aliases["layer_q"] == aliases["block_to_q"] == "block.to_q"
    expected = merged(model, [lora(tensors())]).block["to_q"].weight
    for name in ("layer_q", "lora_unet_layer_q", "lora_unet_block_to_q"):
        assert torch.equal(merged(model, [lora(named(name))], aliases).block["to_q"].weight, expected), name
    with pytest.raises(ModelError, match="does not have, among them layer_q"):
        merged(model, [lora(named("layer_q"))])
    with pytest.raises(ModelError, match=r"changes block\.to_q\.weight twice, once as block\.to_q"):
        merged(model, [lora(named("layer_q", "block.to_q"))], aliases)
    assert aliases_of(["a.b", "a_b"]) == {"a.b": "a.b"}, "a_b could be both"


def test_names_are_checked_on_shapes_alone(model: Model) -> None:
    check_names(model.to("meta"), [lora(tensors())])
    with pytest.raises(ModelError, match="does not have"):
        check_names(model, [lora({"other.diff": torch.zeros(3)})])


def test_the_copy_is_changed_and_nothing_else(model: Model) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after = merged(model, [lora(tensors())]).state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["block.to_q.weight"]


def test_two_files_add_up(model: Model) -> None:
    twice = merged(model, [lora(tensors()), lora(tensors())]).block["to_q"].weight
    torch.testing.assert_close(twice, merged(model, [lora(tensors(), strength=2.0)]).block["to_q"].weight)


def test_half_precision_is_rounded_once(model: Model) -> None:
    exact = merged(model.bfloat16().float(), [lora(tensors())]).block["to_q"].weight
    assert torch.equal(merge_into(model.bfloat16(), [lora(tensors())]).block["to_q"].weight, exact.bfloat16())


def test_alpha_of_a_tensor_wins_over_that_of_the_metadata(model: Model) -> None:
    with_alpha = {**tensors(), "block.to_q.alpha": torch.tensor(6.0)}
    expected = merged(model, [lora(tensors(), alpha=6.0)]).block["to_q"].weight
    assert torch.equal(merged(model, [lora(with_alpha, alpha=1.0)]).block["to_q"].weight, expected)


def write(path: Path, found: dict[str, Tensor], metadata: dict[str, Any] | None = None) -> Path:
    text = None if metadata is None else {"lora_adapter_metadata": json.dumps(metadata)}
    save_file(found, path, metadata=text)
    return path


def test_a_file_is_read_with_its_alpha_and_digest(tmp_path: Path) -> None:
    plain = read_lora(write(tmp_path / "a.safetensors", tensors("transformer.")), 0.5)
    scaled = read_lora(
        write(tmp_path / "b.safetensors", tensors("transformer."), {"transformer.lora_alpha": 6, "r": 3})
    )
    assert plain.updates["block.to_q"].factor == 1.0 and scaled.updates["block.to_q"].factor == 2.0
    assert plain.digest != scaled.digest
    assert lora_key([plain, scaled]) == ((plain.digest, 0.5), (scaled.digest, 1.0))


def refused(found: dict[str, Tensor], model: Model, message: str) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match=message):
        merge_into(model, [lora(found)])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_name_the_model_lacks_is_refused_before_any_change(model: Model) -> None:
    other = {f"block.to_k.{name}.weight": tensor for name, tensor in pair().items()}
    refused({**tensors(), **other}, model, r"Model does not have, among them block.to_k; nearest: block.to_")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, "is no plain LoRA: it is empty"),
        ({**tensors(), "block.to_q.diff_b": torch.zeros(5)}, r"of block.to_q is \[5\], its bias \[6\]"),
        ({**tensors(), "norm.diff": torch.zeros(8, 1)}, r"of norm is \[8, 1\], its weight \[8\]"),
        ({**tensors(), "norms.diff": torch.zeros(8)}, "does not have, among them norms; nearest: norm"),
        (tensors() | tensors(names=("lora_down", "lora_up")), "has two tensors down for block.to_q"),
        (tensors() | tensors(end=".default.weight"), "has two tensors down for block.to_q"),
        ({**tensors(), "block.to_q.dora_scale": torch.zeros(6)}, "is no plain LoRA: block.to_q.dora_scale"),
        ({"block.to_q.lora_A.weight": pair()["lora_A"]}, "has no lora_B for block.to_q"),
        ({"block.to_q.lora_B.weight": pair()["lora_B"]}, "has no lora_A for block.to_q"),
        (
            {f"block.to_q.{n}.weight": t for n, t in pair(inputs=9).items()},
            r"update of block.to_q is \[6, 9\], its weight \[6, 8\]",
        ),
        (
            {
                "block.to_q.lora_A.weight": torch.zeros(2, 8),
                "block.to_q.lora_B.weight": torch.zeros(6, 3),
            },
            "do not pair",
        ),
        (
            {"block.to_q.lora_A.weight": torch.zeros(0, 8), "block.to_q.lora_B.weight": torch.zeros(6, 0)},
            "do not pair",
        ),
        (
            {**tensors(), "block.to_q.alpha": torch.ones(2)},
            r"the alpha of block.to_q is \[2\], not one number",
        ),
        ({**tensors(), "block.to_q.alpha": torch.tensor(torch.nan)}, "block.to_q.alpha is not finite"),
        ({**tensors(), "norm.diff": torch.full((8,), torch.inf)}, "norm.diff is not finite"),
        ({**tensors(), "norm.diff": torch.ones(8, dtype=torch.int8)}, "norm.diff is torch.int8"),
        (
            {f"norm.{name}.weight": tensor for name, tensor in pair().items()},
            "does not have, among them norm",
        ),
    ],
)
def test_what_is_no_lora_of_this_model_is_refused(
    found: dict[str, Tensor], message: str, model: Model
) -> None:
    refused(found, model, message)


def test_unreadable_files_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    torch.save(tensors(), tmp_path / "b.safetensors")
    told = {
        "a": "is text, no weights",
        "b": "is a pickle, which can run any code",
        "c": "is not a LoRA file",
    }
    for name, message in told.items():
        with pytest.raises(ModelError, match=message):
            read_lora(tmp_path / f"{name}.safetensors")


def test_an_alpha_for_each_layer_is_not_guessed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", tensors(), {"lora_alpha": 8, "alpha_pattern": {"to_q": 4}})
    with pytest.raises(ModelError, match="an alpha for each layer"):
        read_lora(path)


def factor_of(path: Path) -> float:
    return read_lora(path).updates["block.to_q"].factor


def test_peft_says_its_alpha_beside_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "adapter_model.safetensors", tensors("base_model.model."))
    assert factor_of(path) == 1.0
    alone = read_lora(path).digest
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 12, "alpha_pattern": {}, "use_dora": False}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert factor_of(path) == 4.0
    assert read_lora(path).digest not in (alone, ""), "what is made of it is another one"
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": True}))
    assert factor_of(path) == pytest.approx(12 / RANK**0.5)
    assert factor_of(write(tmp_path / "other.safetensors", tensors())) == 1.0, "it is not that file's"


def test_what_stands_beside_a_file_and_says_how_it_is_used_is_in_its_digest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", tensors())
    found = [read_lora(path).digest]
    for scale in (1, 2):
        (tmp_path / "a.retake.json").write_text(json.dumps({"guidance_scale": scale}))
        found.append(read_lora(path).digest)
    assert len(set(found)) == 3 and all(digest.startswith(found[0]) for digest in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "the metadata of a.safetensors cannot be read"),
        ("{", "cannot be read"),
        ("[" * 100_000, "nested too deep"),
        ('{"lora_alpha": "many"}', "could not convert string to float"),
        ('{"lora_alpha": NaN}', "lora_alpha is nan"),
        ('{"transformer.use_dora": true}', "says that it is a DoRA"),
    ],
)
def test_metadata_that_say_no_alpha_are_refused(tmp_path: Path, text: str, message: str) -> None:
    save_file(tensors(), tmp_path / "a.safetensors", metadata={"lora_adapter_metadata": text})
    with pytest.raises(ModelError, match=message):
        read_lora(tmp_path / "a.safetensors")


@pytest.mark.parametrize("strength", ["nan", "inf", "-inf"])
def test_a_strength_that_is_no_number_is_refused(tmp_path: Path, strength: str) -> None:
    path = write(tmp_path / "a.safetensors", tensors())
    with pytest.raises(ConfigError, match=f"has the strength {strength}"):
        read_loras([f"{path}:{strength}"])
