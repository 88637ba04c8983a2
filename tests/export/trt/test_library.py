"""Finding TensorRT: what is said when it is missing, what it builds for, what is refused beforehand."""

from __future__ import annotations

import sys

import pytest

from export.spec import RECIPES, ExportError
from export.trt.library import Library, check_capability, find, import_library, is_installed

RTX = Library(
    target="tensorrt-rtx",
    module_name="tensorrt_rtx",
    version="1.7.1",
    needs_gpu=False,
    capabilities=(75, 80, 86, 89, 120, 121),
)
needs_rtx = pytest.mark.skipif(
    not is_installed("tensorrt-rtx"), reason="the package tensorrt-rtx is not installed"
)


def test_an_unknown_target_lists_the_known() -> None:
    with pytest.raises(ExportError, match="'tensorrt_rtx' is not a TensorRT target; nearest: tensorrt-rtx"):
        import_library("tensorrt_rtx")


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_a_missing_library_says_how_to_install_it(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules, target.replace("-", "_"), None
    )  # how Python marks what cannot be imported
    with pytest.raises(ExportError) as caught:
        find(target)
    assert f"needs the Python package {target}" in caught.value.problem
    assert f"pip install {target}" in caught.value.fix and "NVIDIA's own package index" in caught.value.fix


@pytest.mark.parametrize("recipe", ["fp8", "fp8-attention"])
@pytest.mark.parametrize("capability", [80, 86])
def test_fp8_is_refused_where_there_is_none(recipe: str, capability: int) -> None:
    with pytest.raises(ExportError, match=rf"needs compute capability 8.9, not {capability / 10}") as caught:
        check_capability(RTX, RECIPES[recipe], capability)
    assert "int8" in caught.value.fix


def test_a_card_the_library_does_not_know_is_refused() -> None:
    with pytest.raises(ExportError, match="cannot build for compute capability 90") as caught:
        check_capability(RTX, RECIPES["fp8"], 90)
    assert "aoti" in caught.value.fix


@pytest.mark.parametrize(("recipe", "capability"), [("fp8", 89), ("int8", 80), ("nvfp4", 120), ("bf16", 86)])
def test_what_fits_is_let_through(recipe: str, capability: int) -> None:
    check_capability(RTX, RECIPES[recipe], capability)


@needs_rtx
def test_the_installed_library_builds_without_a_gpu() -> None:
    found = find("tensorrt-rtx")
    assert not found.needs_gpu and {86, 89, 120} <= set(found.capabilities) and 90 not in found.capabilities
