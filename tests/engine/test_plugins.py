"""A folder is a registry: listed without importing, imported when asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engine import plugins
from engine.errors import ConfigError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "some_critics"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "good.py").write_text("answer = 42\n")
    (folder / "broken.py").write_text("raise RuntimeError('imported')\n")
    (folder / "_helper.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("some_critics")]:
        monkeypatch.delitem(sys.modules, name)
    return "some_critics"


def test_names_lists_files_without_importing_them(package: str) -> None:
    assert plugins.names(package) == ["broken", "good"]
    assert "some_critics.good" not in sys.modules


def test_load_imports_only_the_one_asked_for(package: str) -> None:
    assert plugins.load(package, "good").answer == 42
    assert "some_critics.broken" not in sys.modules


def test_an_unknown_name_lists_what_exists(package: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plugins.load(package, "god")
    assert caught.value.problem == "'god' is not a some_critic; nearest: good"
    assert "broken, good" in caught.value.fix


def test_helpers_are_not_entries(package: str) -> None:
    with pytest.raises(ConfigError):
        plugins.load(package, "_helper")


def test_an_error_inside_a_plugin_is_not_hidden(package: str) -> None:
    with pytest.raises(RuntimeError, match="imported"):
        plugins.load(package, "broken")
