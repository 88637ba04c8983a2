"""Forms that know the prefix: equal to the runtime's forward, traced to graphs that give the same bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import tiny_denoise
import tiny_export as tiny
import torch
from torch import Tensor

from engine.denoise.layers import BoundAttention, bind
from engine.denoise.sampler import PrefixTimestep
from engine.generators.wan.denoiser import FastDenoiser
from engine.generators.wan.own_prefix import use_own_prefix
from engine.generators.wan.prefix_keys import for_take, prefix_note
from export.forms import DENSE, PREFIX_SPARSE, Form
from export.model_inputs import ExportedDenoiser, OwnPrefixExport
from export.quantization.calibrate import errors, observe
from export.quantization.quantize import quantize
from export.spec import ExportError, Profile, Subject, spec_from_record
from export.subjects import wan_forms
from export.verify import eager_side, verify, whole
from kernels.attention import triton_prefix_sparse

SIZES = {"B": 1, "F": 4, "h": 16, "w": 24, "L": 12}
"""96 tokens a frame: four blocks of keys behind a prefix of one frame, the last of them cut."""
PROFILE = Profile(name="tiny", sizes=SIZES)
TOKENS = 96
FORMS = {
    "sparse": Form(attention=PREFIX_SPARSE, prefix_frames=1),
    "own": Form(own_prefix=True, prefix_frames=1),
    "own sparse": Form(attention=PREFIX_SPARSE, own_prefix=True, prefix_frames=1),
    "own in step": Form(own_prefix=True, prefix_frames=1, in_step=True),
}
EVERY = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)

torch.set_num_threads(1)


def transformer(form: Form) -> Any:
    made = tiny.transformer()
    if form.own_prefix:
        use_own_prefix(made, form.prefix_frames, SIZES["F"])
    return made


def subject(form: Form, **changes: Any) -> Subject:
    return wan_forms.prepare(transformer(form), **{"profiles": (PROFILE,), "form": form, **changes})


def at(value: float, prefix_frames: int = 1) -> PrefixTimestep:
    return PrefixTimestep(
        value=value, prefix_frames=prefix_frames, latent_frames=SIZES["F"], tokens_per_frame=TOKENS
    )


def video(seed: int) -> Tensor:
    """One prefix, and noise of each seed behind it."""
    made = torch.randn(1, 4, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    made[:, :, 1:] = torch.randn(1, 4, 3, 16, 24, generator=torch.Generator().manual_seed(seed))
    return made


def text(length: int = 12) -> Tensor:
    return torch.randn(1, length, 16, generator=torch.Generator().manual_seed(3))


def denoiser_of(made: Subject) -> Any:
    """As a package is run, of the modules themselves; notes how often the prefix was computed."""

    def run(profile: Profile, inputs: Mapping[str, Tensor]) -> Tensor:
        return made.module(*(inputs[tensor.name] for tensor in made.spec.inputs))

    if made.once is None:
        return ExportedDenoiser(spec=made.spec, run=run)
    return OwnPrefixExport(spec=made.spec, run=run, once=made.once.module)


def fast(form: Form) -> FastDenoiser:
    """The runtime's forward with the same kernels."""
    sparse = BoundAttention(name=PREFIX_SPARSE, run=triton_prefix_sparse.run, takes_prefix=True)
    wan = tiny_denoise.fast_wan(transformer(form), element_wise=bind("plain"), quantized_attention=sparse)
    ranges = () if form.attention == DENSE else ((0.0, 1000.0),)
    return FastDenoiser(wan, quantized_ranges=(ranges,) * len(wan.blocks))


@EVERY
def test_a_form_is_what_the_runtime_computes_at_every_step(form: Form) -> None:
    ours = for_take(denoiser_of(subject(form)), (900.0, 300.0), 0.0)
    oracle = fast(form)
    with torch.no_grad():
        words = oracle.prepare(text())
        for step, value in enumerate((900.0, 300.0)):
            exact = oracle(video(step + 1), at(value), words, branch="cond")
            found = ours(video(step + 1), at(value), text(), branch="cond")
            assert tiny_denoise.largest(found[:, :, 1:], exact[:, :, 1:]) < 1e-5


def test_sparse_is_not_dense() -> None:
    """Else the test above would not tell whether anything was left out."""
    with torch.no_grad():
        dense, sparse = (
            denoiser_of(subject(form))(video(1), at(900.0), text(), branch="cond")
            for form in (Form(), FORMS["sparse"])
        )
    assert tiny_denoise.largest(sparse, dense) > 1e-4


def test_the_prefix_is_computed_once_a_take(monkeypatch: pytest.MonkeyPatch) -> None:
    made = subject(FORMS["own"])
    assert made.once is not None
    calls: list[torch.Size] = []
    made.once.module.register_forward_pre_hook(lambda module, given: calls.append(given[0].shape))
    whole = denoiser_of(made)
    assert prefix_note(whole, 0.0) == "computed once a take"
    with torch.no_grad():
        for _ in range(2):
            take = for_take(whole, (900.0, 300.0), 0.0)
            first, second = (take(video(1), at(900.0), text(), branch="cond") for _ in range(2))
            assert torch.equal(first, second)
        assert calls == [(1, 4, 1, 16, 24)] * 2
        assert torch.equal(whole(video(1), at(900.0), text(), branch="cond"), first)  # never a foreign prefix
    assert len(calls) == 3


def test_a_prefix_in_step_is_one_graph_with_an_attention_more_a_block() -> None:
    made, plain = subject(FORMS["own in step"]), subject(Form())
    assert made.once is None and [t.name for t in made.spec.inputs] == [t.name for t in plain.spec.inputs]
    gates = [one.gate("fp8", 89) for one in (made, plain)]
    assert gates[0].num_fused_attention == 3 * 2 and gates[1].num_fused_attention == 2 * 2
    assert gates[0].num_fp8_gemm == gates[1].num_fp8_gemm
    assert prefix_note(denoiser_of(made), 0.0) is None


def test_scales_and_errors_of_a_prefix_in_step_see_both_attentions() -> None:
    made = subject(FORMS["own in step"])
    scales = observe(made, [made.inputs])
    assert set(scales.attention_amax) == set(made.attentions)
    quantized = quantize(subject(FORMS["own in step"]), "fp8-attention", scales)
    found = errors(made, quantized, "fp8-attention", [made.inputs])
    assert set(made.attentions) <= set(found.layers)
    assert all(0 < cell.relative < 0.2 for cell in found.cells.values())


@EVERY
def test_a_form_is_traced_to_a_graph_of_the_same_bits(form: Form) -> None:
    made = subject(form)
    for part in (made,) if made.once is None else (made.once, made):
        with torch.no_grad():
            program = torch.export.export(part.module, part.inputs, strict=False)
            assert torch.equal(program.module()(*part.inputs), part.module(*part.inputs))


@EVERY
def test_the_record_keeps_the_form(form: Form) -> None:
    spec = subject(form).spec
    assert spec_from_record(spec.record()) == spec and (spec.once is None) != (
        form.own_prefix and not form.in_step
    )
    spec.require_form(form)
    with pytest.raises(ExportError, match=rf"built as: {form}; asked is: attention dense"):
        spec.require_form(Form())


def test_the_plain_form_leaves_no_trace_in_a_record() -> None:
    """What was exported before there were forms has this key."""
    assert not {"form", "once"} & set(subject(Form()).spec.record())


def test_rows_share_the_prefix() -> None:
    two = Profile(name="two", sizes=SIZES | {"B": 2})
    made = subject(FORMS["own"], profiles=(PROFILE, two))
    assert made.once is not None and [p.name for p in made.once.spec.profiles] == ["prefix-16x24"]
    whole = denoiser_of(made)
    with torch.no_grad():
        both = whole(video(1), at(900.0), text().expand(2, -1, -1), branch="both")
        one = whole(video(1), at(900.0), text(), branch="cond")
    torch.testing.assert_close(both, one.expand(2, -1, -1, -1, -1), rtol=1e-5, atol=1e-5)


def test_both_sides_of_a_comparison_make_their_own_prefix() -> None:
    """As `retake export verify` compares: on what a take hands over."""
    made = subject(FORMS["own"])
    spec = wan_forms.as_called(made.spec)
    assert [tensor.name for tensor in spec.inputs] == ["latents", "timestep", "text", "text_mask"]
    other = subject(FORMS["own"])
    assert other.once is not None
    step, once = eager_side(dataclasses.replace(other, once=None)), eager_side(other.once)
    found = verify(
        spec, "fp16", eager_side(made), whole(step, once, other.spec), [made.inputs[: len(spec.inputs)]]
    )
    assert found.num_forwards == 1 and found.outputs[0].relative == 0 and found.failures == ()


def test_a_take_with_another_prefix_is_refused() -> None:
    whole = denoiser_of(subject(FORMS["sparse"]))
    with pytest.raises(ExportError, match="the take has 2 latent frames of prefix"):
        whole(video(1), at(900.0, prefix_frames=2), text(), branch="cond")
    with pytest.raises(ExportError, match="do not say their prefix"):
        whole(video(1), torch.full((1, 4), 900.0), text(), branch="cond")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (Form(attention="fa3_prefix_sparse", prefix_frames=1), "wheel, which a package cannot hold"),
        (Form(attention="fa3_fp8_prefix_sparse", prefix_frames=1), "wheel, which a package cannot hold"),
        (Form(attention="nonsense", prefix_frames=1), "no artifact has attention 'nonsense'"),
        (Form(attention=PREFIX_SPARSE), "0 of them prefix"),
        (Form(attention=PREFIX_SPARSE, prefix_frames=4), "4 latent frames, 4 of them prefix"),
    ],
)
def test_forms_that_are_none(form: Form, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        subject(form)


def test_a_model_is_exported_as_it_was_trained() -> None:
    with pytest.raises(ExportError, match="look at everything"):
        wan_forms.prepare(tiny.transformer(), profiles=(PROFILE,), form=FORMS["own"])
    with pytest.raises(ExportError, match="look at themselves alone") as caught:
        wan_forms.prepare(transformer(FORMS["own"]), profiles=(PROFILE,), form=FORMS["sparse"])
    assert "a form with its own prefix" in str(caught.value.fix)
