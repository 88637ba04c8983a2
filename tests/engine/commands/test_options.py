"""Options made from settings: every setting has one, the flags of before stay, values arrive as from TOML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from engine import cli
from engine.commands._options import names, run_settings, with_settings
from engine.settings.config import load_config, settings
from engine.settings.fields import Entry

FLAGS = {
    "out": "--out",
    "limit": "--limit",
    "shard": "--shard",
    "device": "--device",
    "dtype": "--dtype",
    "generator.name": "--generator",
    "generator.steps": "--steps",
    "generator.guidance_scale": "--guidance-scale",
    "generator.negative": "--negative",
    "denoise.preset": "--preset",
    "denoise.engine": "--denoiser",
    "denoise.allow_fallback": "--allow-fallback",
    "denoise.attention": "--attention",
    "denoise.quantized_attention": "--quantized-attention",
    "denoise.linear": "--linear",
    "denoise.policy": "--policy",
    "denoise.compile": "--compile",
    "denoise.cfg_gate": "--cfg-gate",
    "denoise.step_cache": "--step-cache",
    "denoise.early_stop": "--early-stop",
    "critic.name": "--critic",
    "critic.quantization": "--quantization",
    "loop.loops": "--loops",
    "loop.samples": "--samples",
    "loop.seed": "--seed",
    "loop.only_incomplete": "--only-incomplete",
    "loop.selectors": "--selectors",
    "schedule.overlap": "--overlap/--no-overlap",
}
"""What people have in their scripts."""
COMMANDS = ("run", "plan", "demo")
ENTRIES = [entry for entry in run_settings() if not entry.setting.positional]


def parameters(command: str) -> dict[str, Any]:
    group: Any = typer.main.get_command(cli.app)
    return {parameter.name: parameter for parameter in group.commands[command].params}


def flags(parameter: Any) -> str:
    return "/".join([*parameter.opts, *parameter.secondary_opts])


def test_every_setting_has_an_option_of_its_own() -> None:
    assert sorted(entry.key for entry in ENTRIES) == sorted(set(settings()) - {"dataset"})
    options = [entry.option for entry in ENTRIES]
    assert len(set(options)) == len(options)


@pytest.mark.parametrize("command", COMMANDS)
def test_run_plan_and_demo_take_the_same_settings(command: str) -> None:
    found = parameters(command)
    assert ("dataset" in found) == (command != "demo")
    for entry in ENTRIES:
        parameter = found[entry.key.replace(".", "_")]
        assert parameter.opts == [entry.option]
        assert parameter.rich_help_panel == entry.panel
    every = [option for parameter in found.values() for option in parameter.opts + parameter.secondary_opts]
    assert len(set(every)) == len(every), "no option of the command itself clashes"


def test_the_flags_of_before_are_the_flags() -> None:
    found = parameters("run")
    assert {key: flags(found[key.replace(".", "_")]) for key in FLAGS} == FLAGS
    assert flags(found["config"]) == "--config"
    assert flags(parameters("plan")["timed"]) == "--time/--no-time"
    assert {"--measure", "--count", "--json"} <= {flags(found) for found in parameters("demo").values()}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_default_and_range_of_each_setting(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    output = CliRunner().invoke(cli.app, [command, "--help"]).output
    for entry in ENTRIES:
        line = next(line for line in output.splitlines() if f" {entry.option} " in line)
        assert entry.setting.help in line, entry.key
        assert not entry.default_text or f"default: {entry.default_text}" in line, entry.key
        assert entry.setting.bounds in line, entry.key
        assert "|".join(entry.setting.choices) in line, entry.key
    panels = [line.split(" ")[1] for line in output.splitlines() if line.startswith("╭─ ")]
    ours = ["Run", "Generator", "Denoising", "Critic", "Loop", "Selectors", "Machine"]
    assert [panel for panel in panels if panel in ours] == ours


def test_what_is_not_given_has_a_default_or_says_what_happens() -> None:
    assert [entry.key for entry in ENTRIES if not entry.default_text] == []


given: list[Mapping[str, object]] = []
app = typer.Typer()


@app.command()
@with_settings(without=("dataset",))
def keep(overrides: Mapping[str, object], more: int = 1) -> None:
    """Keeps what it was given."""
    given.append({**overrides, "more": more})


def call(*arguments: str) -> Result:
    given.clear()
    return CliRunner().invoke(app, arguments)


def sample(entry: Entry) -> tuple[list[str], str]:
    """An allowed value other than the default: as arguments, and as TOML."""
    if entry.kind is bool:
        on = not entry.default
        return [entry.option if on else f"--no-{entry.option[2:]}"], str(on).lower()
    if entry.key == "shard":
        return [entry.option, "2/3"], '"2/3"'
    if entry.kind in (int, float):
        low, high = entry.setting.low or 0, entry.setting.high
        value = entry.kind(low + 6 if entry.kind is int else low + 0.25)
        value = value if high is None else min(value, entry.kind(high))
        return [entry.option, str(value)], str(value)
    text = entry.setting.choices[-1] if entry.setting.choices else "a,b"
    listed = str(names(text)).replace("'", '"')
    return [entry.option, text], listed if entry.kind not in (str, Path) else f'"{text}"'


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.key)
def test_an_option_says_what_toml_says(entry: Entry, tmp_path: Path) -> None:
    arguments, value = sample(entry)
    assert call(*arguments).exit_code == 0
    assert list(given[0]) == [entry.key, "more"]
    overrides = {key: value for key, value in given[0].items() if key != "more"}
    file = tmp_path / "settings.toml"
    section = f"[{entry.section}]\n" if entry.section else ""
    file.write_text(f"{section}{entry.name} = {value}\n", encoding="utf-8")
    base = {"dataset": "scenes"}
    from_options = load_config(None, base | overrides, default_out=Path("run"))
    assert from_options == load_config(file, base, default_out=Path("run"))
    assert from_options != load_config(None, base, default_out=Path("run")), "the value arrives"


def test_what_is_not_given_is_not_passed_and_own_options_are() -> None:
    assert call("--more", "3").exit_code == 0
    assert given == [{"more": 3}]
    assert call("--patience", "many").exit_code == 2
    assert call("--dataset", "scenes").exit_code == 2, "left out"
