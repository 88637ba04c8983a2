"""What every plugin owes: the entry point of its kind, and a test file that names it."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from engine import plugins

TESTS = Path(__file__).parent
ENTRY_POINTS = {
    "engine.datasets": ("open_dataset", {"root"}),
    "engine.generators": ("load", {"folder", "device", "dtype"}),
    "engine.critics": ("load", {"folder", "device", "dtype", "quantization"}),
    "engine.selectors": ("build", {"settings"}),
}
ROOMS = {"engine.generators": ("generator", "PIPELINES"), "engine.critics": ("critic", "MODEL_TYPES")}
"""A family of models is a folder: its file that loads one, and where it declares what it loads."""


def loads_something(package: str, name: str) -> bool:
    return package not in ROOMS or hasattr(plugins.load(package, name), ROOMS[package][1])


PLUGINS = [
    (package, name)
    for package in ENTRY_POINTS
    for name in plugins.names(package)
    if loads_something(package, name)
]


def missing(package: str, name: str) -> list[str]:
    """What the plugin lacks, in words."""
    function_name, parameters = ENTRY_POINTS[package]
    module = plugins.load(package, name)
    if package in ROOMS:
        module = plugins.load(f"{package}.{name}", ROOMS[package][0])
    entry = getattr(module, function_name, None)
    if not callable(entry):
        return [f"no function {function_name}"]
    signature = inspect.signature(entry)
    faults = [f"no parameter {p}" for p in sorted(parameters - signature.parameters.keys())]
    if signature.return_annotation is inspect.Signature.empty:
        faults.append(f"{function_name} does not say what it returns")
    return faults


@pytest.mark.parametrize(("package", "name"), PLUGINS)
def test_plugin_has_its_entry_point(package: str, name: str) -> None:
    assert missing(package, name) == []


@pytest.mark.parametrize(("package", "name"), PLUGINS)
def test_plugin_is_named_in_a_test(package: str, name: str) -> None:
    assert any(
        name in path.read_text() for path in TESTS.rglob("test_*.py") if path.name != Path(__file__).name
    )


def test_every_kind_has_a_plugin() -> None:
    assert {package for package, _ in PLUGINS} == ENTRY_POINTS.keys()


def test_a_module_without_the_entry_point_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENTRY_POINTS, "engine.selectors", ("no_such_function", {"x"}))
    assert missing("engine.selectors", "consensus") == ["no function no_such_function"]
