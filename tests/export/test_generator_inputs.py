"""The shape a model is exported for and the takes it is calibrated on, from a tiny model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_exportable import build_exportable
from tiny_run import make_folders

from engine.build.model_folders import find_generator
from engine.errors import ConfigError, ModelError
from export import generator_inputs
from export.pipeline import Request, spec_of


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_exportable(tmp_path_factory.mktemp("model") / "generator")


@pytest.fixture(scope="module")
def made(generator: Path) -> Any:
    folder, found = generator_inputs.outline(str(generator))
    assert folder == generator
    return found


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        # the folder's own: 6 + 3 frames of padded prefix and 8 generated, 32 px at 8 px per latent
        (None, {"F": 5, "h": 4, "w": 4}),
        ("48x64x13", {"F": 4, "h": 6, "w": 8}),
        ("480X832X81", {"F": 21, "h": 60, "w": 104}),
        ("16x16x1", {"F": 1, "h": 2, "w": 2}),
    ],
)
def test_a_profile_for_each_number_of_rows(made: Any, shape: str | None, sizes: dict[str, int]) -> None:
    profiles = generator_inputs.profiles_of(made, shape, (1, 2))
    assert [dict(profile.sizes) for profile in profiles] == [{"B": b, **sizes, "L": 24} for b in (1, 2)]
    assert len({profile.name for profile in profiles}) == 2


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("48x64", "is not HEIGHTxWIDTHxFRAMES"),
        ("48x64x0", "is not HEIGHTxWIDTHxFRAMES"),
        ("axbxc", "is not HEIGHTxWIDTHxFRAMES"),
        ("50x64x13", "for example 48x64x13"),
        ("48x64x80", "for example 48x64x81"),
        ("1x1x1", "for example 16x16x1"),
    ],
)
def test_a_shape_without_latents_is_refused(made: Any, shape: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generator_inputs.profiles_of(made, shape, (1,))


def test_an_unknown_model_is_said() -> None:
    with pytest.raises(ModelError, match="neither 'demo' nor a folder"):
        generator_inputs.outline("nowhere")


def test_the_bundled_scales_are_of_the_bundled_weights(tmp_path: Path) -> None:
    """When this fails the weights have changed: python -m bench.quality.export_calibration scales

    An export would record takes anew, and every recipe would have other scales than the page measured.
    """
    request = Request(
        source=find_generator("demo").path,
        subject="wan_dit",
        target="onnx",
        recipe="fp8",
        profiles=(),
        out=tmp_path,
    )
    assert generator_inputs.bundled_scales(request) is not None


def test_every_step_of_every_take_is_recorded(
    made: Any, generator: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dataset = make_folders(tmp_path_factory.mktemp("data")).dataset
    request = Request(
        source=generator,
        subject="wan_dit",
        target="onnx",
        recipe="fp8",
        profiles=generator_inputs.profiles_of(made, None, (1,)),
        out=tmp_path,
    )
    spec = spec_of(request)
    takes = [
        list(generator_inputs.record(request, spec, dtype="fp32", dataset=dataset, num_scenes=2, seed=seed))
        for seed in (0, 0, 1)
    ]
    # two scenes, three steps, both branches of guidance
    assert [len(take) for take in takes] == [12, 12, 12]
    shapes = [tuple(tensor.shape) for tensor in takes[0][0]]
    assert shapes == [tensor.shape(spec.profiles[0].sizes) for tensor in spec.inputs]
    assert all(torch.equal(a, b) for a, b in zip(takes[0][0], takes[1][0], strict=True))
    assert not torch.equal(takes[0][0][0], takes[2][0][0])  # another seed, other latents
    scales = generator_inputs.calibrate(request, made, dataset=dataset, num_scenes=1)
    assert scales.weights_digest == spec.weights_digest and scales.num_forwards == 6
