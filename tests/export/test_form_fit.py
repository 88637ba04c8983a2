"""Which target can hold which form: every other is refused by name, with what can."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_wan import build_folder

from export import generator_inputs
from export.form_fit import require_form
from export.forms import PLAIN, PREFIX_SPARSE, Form
from export.pipeline import TARGETS
from export.spec import ExportError

SPARSE = Form(attention=PREFIX_SPARSE, prefix_frames=2)
OWN = Form(own_prefix=True, prefix_frames=2)
IN_STEP = Form(own_prefix=True, prefix_frames=2, in_step=True)


def test_every_target_has_the_dense_forms_and_a_package_all() -> None:
    for target in TARGETS:
        require_form(PLAIN, "wan_dit", target)
        require_form(IN_STEP, "wan_dit", target)
    for form in (SPARSE, OWN, Form(attention=PREFIX_SPARSE, own_prefix=True, prefix_frames=2)):
        require_form(form, "wan_dit", "aoti")


@pytest.mark.parametrize("target", ["onnx", "tensorrt-rtx", "tensorrt"])
@pytest.mark.parametrize(
    ("form", "why"), [(SPARSE, "a kernel of ours"), (OWN, "two engines, each with a copy")]
)
def test_no_graph_holds_a_form(target: str, form: Form, why: str) -> None:
    with pytest.raises(ExportError, match=f"target {target} cannot hold the form: {form}; .*{why}") as caught:
        require_form(form, "wan_dit", target)
    assert caught.value.fix == "use --target aoti, or --attention dense, which every target has"


def test_other_subjects_have_one_form() -> None:
    with pytest.raises(ExportError, match="vae_decoder has one form alone"):
        require_form(SPARSE, "vae_decoder", "aoti")


def test_the_form_of_a_folder_is_that_of_its_training(tmp_path: Path) -> None:
    folder = build_folder(tmp_path / "all")  # whose six frames of prefix are padded to nine
    source, made = generator_inputs.outline(str(folder))
    assert generator_inputs.form_of(source, made, "dense", "wan_dit", "onnx") == PLAIN
    assert generator_inputs.form_of(source, made, PREFIX_SPARSE, "wan_dit", "onnx") == Form(
        attention=PREFIX_SPARSE, prefix_frames=3
    )
    own = shutil.copytree(folder, tmp_path / "own")
    told = json.loads((own / "retake.json").read_text(encoding="utf-8"))
    (own / "retake.json").write_text(json.dumps(told | {"prefix_attention": "own"}), encoding="utf-8")
    source, made = generator_inputs.outline(str(own))
    for target in TARGETS:
        assert generator_inputs.form_of(source, made, "dense", "wan_dit", target) == Form(
            own_prefix=True, prefix_frames=3, in_step=target != "aoti"
        )
    assert generator_inputs.form_of(source, made, "dense", "vae_decoder", "onnx") == PLAIN
