"""docs/settings.md is what the settings say now, and has them all."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from engine.settings.config import RunConfig, load_config, settings
from engine.settings.docs import PATH, main, settings_page, sidecar_settings
from engine.settings.fields import Entry, entries
from engine.settings.presets import PRESETS, DenoiseSettings

ENTRIES = list(entries(RunConfig))


def section(name: str) -> str:
    """Of the page: what stands below the heading of a section."""
    page = settings_page()
    start = page.index(f"`[{name}]`" if name else "## Run")
    return page[start:].partition("\n## ")[0]


def test_the_page_in_the_repository_is_that_of_these_settings() -> None:
    assert PATH.read_text(encoding="utf-8") == settings_page(), "run `make docs`"


def test_a_stale_page_is_seen_and_made_anew(tmp_path: Path) -> None:
    stale = tmp_path / "settings.md"
    stale.write_text(settings_page().replace("| 4 |", "| 5 |"), encoding="utf-8")
    assert stale.read_text(encoding="utf-8") != settings_page()
    main([str(stale)])
    assert stale.read_text(encoding="utf-8") == settings_page()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.key)
def test_every_setting_is_documented_in_its_section(entry: Entry) -> None:
    (row,) = [
        line for line in section(entry.section).splitlines() if line.endswith(f" {entry.setting.help} |")
    ]
    assert row.startswith(f"| `{entry.name}` | ")
    option = entry.option.removeprefix("--")
    assert f"`--{option}`" in row or f"`--no-{option}`" in row or entry.setting.positional
    assert f" {entry.default_text or 'must be given'} |" in row
    assert f" {entry.allowed} |" in row


def test_the_page_has_no_other_settings() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (?:`--|DATASET)", settings_page(), re.MULTILINE)
    assert rows == [key.rpartition(".")[2] for key in settings()]


def test_what_may_stand_beside_a_model_is_documented_for_each_family() -> None:
    found = {family: cls for _, family, cls in sidecar_settings()}
    assert found.keys() >= {"wan", "qwen_vl"}
    tables = settings_page().partition("retake.json`\n")[2]
    for family, cls in found.items():
        table = tables.partition(f"`{family}`:")[2].partition("\nA ")[0]
        rows = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
        assert list(rows) == [entry.name for entry in entries(cls)]
        for entry in entries(cls):
            cells = (entry.default_text, entry.allowed, entry.setting.help)
            assert all(cells) and rows[entry.name].endswith(f" | {' | '.join(cells)} |")


def test_the_presets_are_those_of_the_code() -> None:
    for part in entries(DenoiseSettings):
        cells = [str(getattr(preset, part.name)) for preset in PRESETS.values()]
        if all(cell not in ("None", "()") and not cell.startswith("(") for cell in cells):
            assert f"| `{part.name}` | {' | '.join(cells)} |" in section("denoise")
    assert "| `quantized_attention` | not set | auto | auto |" in section("denoise")


def test_the_example_is_read(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", settings_page(), re.DOTALL)
    (tmp_path / "settings.toml").write_text(example, encoding="utf-8")
    config = load_config(tmp_path / "settings.toml", {"dataset": "scenes", "out": "run"})
    assert config.denoise.preset == tomllib.loads(example)["denoise"]["preset"]
