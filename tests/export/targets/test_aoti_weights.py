"""The weights beside a package: names, dtypes, strides, and what belongs to one profile only."""

from __future__ import annotations

from pathlib import Path

import torch

from export.targets import aoti_weights


def test_tensors_come_back_with_their_strides_and_dtypes(tmp_path: Path) -> None:
    base = torch.randn(6, 4)
    tensors = {
        "dense": base,
        "transposed": base.t(),
        "part": base[2:4],
        "image": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "fp8": torch.randn(8).to(torch.float8_e4m3fn),
        "single": torch.tensor(3),
    }
    aoti_weights.save(tensors, tmp_path / "w.safetensors")
    found = aoti_weights.load(tmp_path / "w.safetensors", torch.device("cpu"))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].stride() == tensor.stride(), name
        assert torch.equal(found[name].float(), tensor.float()), name


def test_profiles_share_what_is_equal_and_nothing_else(tmp_path: Path) -> None:
    kept: dict[str, torch.Tensor] = {}
    weight = torch.ones(3).to(torch.float8_e4m3fn)
    aoti_weights.add(kept, "one", {"weight": weight, "_tensor_constant0": torch.ones(1)})
    aoti_weights.add(kept, "two", {"weight": weight.clone(), "_tensor_constant0": torch.zeros(1)})
    aoti_weights.add(kept, "three", {"weight": weight, "_tensor_constant0": torch.zeros(2)})
    assert set(kept) == {"weight", "_tensor_constant0", "two:_tensor_constant0", "three:_tensor_constant0"}
    one, two, three = (
        aoti_weights.of_profile(name, ["weight", "_tensor_constant0"], kept)
        for name in ("one", "two", "three")
    )
    assert one["weight"] is two["weight"] is three["weight"]
    assert one["_tensor_constant0"] == 1 and two["_tensor_constant0"] == 0
    assert three["_tensor_constant0"].shape == (2,)
