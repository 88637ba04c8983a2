"""Packages of the forms that know a prefix: compiled, loaded, equal to the module; never the wrong form."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny_export as tiny
import torch
from torch import Tensor

from engine.denoise.sampler import PrefixTimestep
from engine.generators.wan.own_prefix import use_own_prefix
from engine.generators.wan.prefix_keys import for_take
from export.artifacts.store import Artifact, Store
from export.forms import PREFIX_SPARSE, Form
from export.model_inputs import KEYS, OwnPrefixExport, named_inputs
from export.spec import ExportError, Profile, Subject
from export.subjects import wan_forms
from export.targets import aoti
from kernels.reference import compare

FAST = {"aot_inductor.compile_wrapper_opt_level": "O0"}
SPARSE = Form(attention=PREFIX_SPARSE, prefix_frames=1)
OWN = Form(own_prefix=True, prefix_frames=1)
OWN_SPARSE = Form(attention=PREFIX_SPARSE, own_prefix=True, prefix_frames=1)
PROFILE = Profile(name="tiny", sizes={"B": 1, "F": 4, "h": 16, "w": 24, "L": 12})
TOKENS = 96
ALLOWED = {"cpu": 1e-5, "cuda": 0.02}
"""Relative error to the module: fp32 with its sums in other orders; bf16 rounded elsewhere by fused code."""


def subject(form: Form, device: str = "cpu", *, num_layers: int = 1) -> Subject:
    on_gpu = device == "cuda"
    given: dict[str, Any] = {"attention_head_dim": 64} if on_gpu else {}
    transformer: Any = tiny.transformer("bf16" if on_gpu else "fp32", num_layers=num_layers, **given)
    if form.own_prefix:
        use_own_prefix(transformer, 1, 4)
    return wan_forms.prepare(transformer.to(device), profiles=(PROFILE,), form=form)


def built(form: Form, folder: Path, device: str = "cpu") -> Artifact:
    return aoti.build(subject(form, device), "bf16", Store(folder), settings=FAST)


def at(value: float) -> PrefixTimestep:
    return PrefixTimestep(value=value, prefix_frames=1, latent_frames=4, tokens_per_frame=TOKENS)


def steps(device: str) -> Iterator[tuple[Tensor, PrefixTimestep, Tensor]]:
    """Of one take: noise of its own behind one prefix."""
    source = torch.Generator().manual_seed(0)
    prefix, text = torch.randn(1, 4, 1, 16, 24, generator=source), torch.randn(1, 9, 16, generator=source)
    for value in (900.0, 300.0):
        noisy = torch.randn(1, 4, 3, 16, 24, generator=source)
        yield torch.cat([prefix, noisy], dim=2).to(device), at(value), text.to(device)


def require_equal(made: Subject, folder: Path, device: str) -> None:
    """Two steps of a take through the stored packages, and through the modules."""
    form = made.spec.form
    package = aoti.load(folder, device, form=form)
    assert isinstance(package, OwnPrefixExport) == form.own_prefix
    take = for_take(package, (900.0, 300.0), 0.0)
    for latents, timestep, text in steps(device):
        with torch.inference_mode():
            found = take(latents, timestep, text, branch="cond")
            exact = by_module(made, latents, timestep, text)
        behind = slice(1 if form.own_prefix else 0, None)
        assert compare(found[:, :, behind], exact[:, :, behind]).relative < ALLOWED[device]
        assert not form.own_prefix or not found[:, :, 0].any()


def by_module(made: Subject, latents: Tensor, timestep: PrefixTimestep, text: Tensor) -> Tensor:
    inputs = named_inputs(made.spec, PROFILE, latents, timestep, text)
    if made.once is not None:
        inputs[KEYS] = made.once.module(latents[:, :, :1].contiguous())
    out: Tensor = made.module(*(inputs[tensor.name] for tensor in made.spec.inputs))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("form", [SPARSE, OWN, OWN_SPARSE], ids=str)
def test_a_package_of_a_form_computes_what_the_module_computes(form: Form, tmp_path: Path) -> None:
    made = built(form, tmp_path)
    require_equal(subject(form), made.folder, "cpu")


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("form", [SPARSE, OWN, OWN_SPARSE], ids=str)
def test_a_package_of_a_form_runs_on_the_gpu(form: Form, tmp_path: Path) -> None:
    made = built(form, tmp_path, "cuda")
    require_equal(subject(form, "cuda"), made.folder, "cuda")


def stored(form: Form, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """Files that are no packages, for what is checked before they are opened."""

    def compile_nothing(
        part: Subject, profile: Profile, path: Path, *rest: Any
    ) -> tuple[dict[str, float], Mapping[str, Tensor]]:
        path.write_bytes(b"package")
        return {"compile": 1.0}, dict(part.module.named_parameters())

    monkeypatch.setattr(aoti, "_compile", compile_nothing)
    monkeypatch.setattr(aoti, "TRY_TO_LOAD", "pass")
    monkeypatch.setattr(aoti, "require_compiler", lambda: None)
    return built(form, folder)


def test_both_graphs_share_one_file_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = stored(OWN, tmp_path, monkeypatch)
    assert set(made.files) == {"tiny.pt2", "prefix-16x24.pt2", "weights.safetensors"}
    assert made.details["form"] == str(OWN) and made.key["spec"]["form"] == OWN.record()
    given: list[tuple[str, dict[str, int]]] = []

    def model(package: Any, path: Path, profile: str, device: torch.device) -> None:
        given.append((profile, {name: t.data_ptr() for name, t in package._weights.items()}))

    monkeypatch.setattr(aoti.Package, "_model", model)
    package = aoti.load_module(made.folder, "cpu", form=OWN)
    assert package.once is not None and {name for name, _ in given} == {"tiny", "prefix-16x24"}
    assert given[0][1] == given[1][1]  # one copy in memory


def test_another_form_than_was_asked_for_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {form: stored(form, tmp_path, monkeypatch).folder for form in (SPARSE, OWN, OWN_SPARSE)}
    assert len(set(folders.values())) == 3
    for form, folder in folders.items():
        for asked in {Form(), *folders, dataclasses.replace(form, prefix_frames=2)} - {form}:
            with pytest.raises(ExportError, match=f"built as: {form}; asked is: {asked}"):
                aoti.load(folder, "cpu", form=asked)


def test_an_attention_that_the_device_does_not_take_is_refused_by_name(tmp_path: Path) -> None:
    """Its scores are kept in memory on a CPU, and these are too many."""
    profile = Profile(name="large", sizes={"B": 1, "F": 4, "h": 160, "w": 240, "L": 12})
    transformer = tiny.transformer(num_layers=1, rope_max_seq_len=128)
    made = wan_forms.prepare(transformer, profiles=(profile,), form=SPARSE)
    with pytest.raises(ExportError, match=f"{PREFIX_SPARSE} cannot be exported: .* scores") as caught:
        aoti.build(made, "bf16", Store(tmp_path))
    assert "--attention dense" in str(caught.value.fix)
