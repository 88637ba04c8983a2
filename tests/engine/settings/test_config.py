"""Settings: exact keys, types and ranges refused with the allowed values, TOML round trip."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.settings.config import (
    EXPORT_TARGETS,
    LACKED,
    RENAMED,
    CriticConfig,
    DenoiseConfig,
    GeneratorConfig,
    LoopConfig,
    RunConfig,
    ScheduleConfig,
    load_config,
    read_config,
    settings,
    write_config,
)
from engine.settings.environment import cache_folder, num_threads, offline, usable_cores
from engine.settings.fields import entries
from engine.settings.presets import PRESETS, VAES, DenoiseSettings
from engine.settings.toml import to_toml

ROOT = Path(__file__).parents[3]
MINIMAL: dict[str, object] = {"dataset": "scenes", "out": "run"}


def refused(overrides: dict[str, object]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(None, MINIMAL | overrides)
    return caught.value


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults() -> None:
    config = load_config(None, MINIMAL)
    assert config.loop == LoopConfig()
    assert (config.loop.loops, config.loop.patience, config.schedule.overlap) == (4, 2, True)
    assert config.generator.steps is None  # the model folder decides


def test_paths_become_absolute_and_names_stay_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = MINIMAL | {"generator.name": "./models/wan", "critic.name": "Qwen/Qwen3-VL-8B-Instruct"}
    config = load_config(None, given)
    assert config.dataset == tmp_path / "scenes"
    assert config.generator.name == str(tmp_path / "models/wan")
    assert config.critic.name == "Qwen/Qwen3-VL-8B-Instruct"
    (tmp_path / "Qwen" / "Qwen3-VL-8B-Instruct").mkdir(parents=True)  # which comes first
    assert load_config(None, given).critic.name == str(tmp_path / "Qwen/Qwen3-VL-8B-Instruct")
    assert load_config(None, MINIMAL).critic.name == "demo"


def test_networks_of_the_selectors() -> None:
    given = load_config(None, MINIMAL | {"selectors.vjepa": "models/vjepa"}).selectors
    assert (given.vjepa, given.image_encoder) == (str(Path.cwd() / "models/vjepa"), "")
    on_gpu = given.on("cuda")
    assert (on_gpu.vjepa, on_gpu.image_encoder, on_gpu.device) == (Path(given.vjepa), None, "cuda")
    assert dataclasses.replace(given, device="cpu").on("cuda").device == "cpu"


def test_command_line_wins_over_file_and_none_means_not_given(tmp_path: Path) -> None:
    file = toml(tmp_path, 'dataset = "a"\nout = "b"\n[loop]\nloops = 2\nseed = 5\n')
    config = load_config(file, {"loop.loops": 1, "loop.seed": None})
    assert (config.loop.loops, config.loop.seed) == (1, 5)


def test_unknown_keys_name_the_nearest() -> None:
    error = refused({"generator.guidance_scal": 5.0})
    assert "generator.guidance_scal is not a setting; nearest: generator.guidance_scale" in error.problem
    assert "loop.loops" in refused({"loop.lops": 2}).problem
    assert "device" in refused({"devise": "cpu"}).problem


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("device", "tpu", "auto, cpu, cuda"),
        ("dtype", "fp8", "bf16"),
        ("critic.quantization", "nf5", "nf4"),
        ("loop.loops", -1, "from 0 to 64"),
        ("loop.loops", True, "a whole number"),
        ("loop.loops", 2.5, "a whole number"),
        ("loop.distance_threshold", 1.5, "from 0.0 to 1.0"),
        ("loop.distance_threshold", float("nan"), "from 0.0 to 1.0"),
        ("loop.only_incomplete", 1, "true or false"),
        ("loop.selectors", [], "at least one"),
        ("loop.selectors", ["critic_score", 3], "a list of names"),
        ("generator.steps", 0, "from 1 to 1000"),
        ("generator.guidance_scale", "high", "a number"),
        ("generator.guidance_scale", 0.5, "from 1.0 to 50.0"),
        ("schedule.ahead", 0, "from 1 to 64"),
        ("denoise.preset", "quick", "exact, fast, fastest"),
        ("denoise.forward", "slow", "library, fast"),
        ("denoise.linear", "nf4", "bf16, fp8, fp8_full_accum, int8, auto"),
        ("denoise.element_wise", "theirs", "ours, compiler"),
        ("denoise.compile", "always", "off, on, auto"),
        ("denoise.compile", True, "as text"),
        ("denoise.graphs", "yes", "off, on, auto"),
        ("denoise.vae", "fast", ", ".join(VAES)),
        ("denoise.attention", "sdpa_math", "a list of names"),
        ("denoise.quantized_attention", [1], "a list of names"),
        ("denoise.quantized_first", -0.1, "from 0.0 to 1.0"),
        ("denoise.quantized_last", 1.1, "from 0.0 to 1.0"),
        ("denoise.cfg_gate", 2, "from 0.0 to 1.0"),
        ("denoise.step_cache", 0.6, "from 0.0 to 0.5"),
        ("denoise.early_stop", "never", "a number"),
        ("denoise.engine", True, "as text"),
        ("denoise.allow_fallback", "yes", "true or false"),
        ("limit", 0, "at least 1"),
        ("shard", "3/2", "K from 1 to N"),
        ("shard", "0/2", "K from 1 to N"),
        ("shard", "half", "K from 1 to N"),
        ("out", 7, "a path"),
    ],
)
def test_wrong_values_are_refused_with_what_is_allowed(key: str, value: object, allowed: str) -> None:
    error = refused({key: value})
    assert key.rpartition(".")[0] in error.problem
    assert allowed in error.fix


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_alone_is_the_preset(preset: str) -> None:
    assert load_config(None, MINIMAL | {"denoise.preset": preset}).denoise.settings() == PRESETS[preset]
    assert DenoiseConfig().settings() == DenoiseSettings(), "the default is exact"


def test_parts_are_laid_over_the_preset() -> None:
    """Also those that a preset sets and the user takes back, with values that are false."""
    other: dict[str, object] = {
        "forward": "library",
        "attention": ("sdpa_math",),
        "quantized_attention": (),
        "quantized_first": 0.5,
        "quantized_last": 0.0,
        "linear": "int8",
        "policy": "off",
        "element_wise": "compiler",
        "compile": "off",
        "graphs": "on",
        "vae": VAES[-1],
        "vae_chunk": 3,
        "prefix_kept": 0.2,
        "cfg_gate": 1.0,
        "step_cache": 0.0,
        "step_cache_by": "spectrum",
        "early_stop": 0.1,
    }
    assert list(other) == [part.name for part in dataclasses.fields(DenoiseSettings)]
    own = ("preset", "engine", "allow_fallback")
    assert list(other) == [part.name for part in dataclasses.fields(DenoiseConfig) if part.name not in own]
    for preset, (part, value) in itertools.product(PRESETS, other.items()):
        given = load_config(None, MINIMAL | {"denoise.preset": preset, f"denoise.{part}": value}).denoise
        assert given.settings() == dataclasses.replace(PRESETS[preset], **{part: value})
    everything = MINIMAL | {f"denoise.{part}": value for part, value in other.items()}
    assert load_config(None, everything).denoise.settings() == DenoiseSettings(**other)


def test_parts_of_the_denoiser_survive_the_run_folder(tmp_path: Path) -> None:
    parts = {"preset": "fast", "quantized_attention": [], "attention": ["a", "b"], "step_cache": 0.25}
    config = load_config(None, MINIMAL | {f"denoise.{key}": value for key, value in parts.items()})
    write_config(config, tmp_path / "config.toml")
    assert read_config(tmp_path).denoise == config.denoise
    assert config.denoise.quantized_attention == () and config.denoise.attention == ("a", "b")
    assert config.denoise.linear is None, "what was not given stays the preset's"


def test_an_exported_form_is_a_target_or_a_folder() -> None:
    for target in EXPORT_TARGETS:
        assert load_config(None, MINIMAL | {"denoise.engine": target}).denoise.engine == target
    config = load_config(None, MINIMAL | {"denoise.engine": "exports/a"}).denoise
    assert config.engine == str(Path.cwd() / "exports/a")
    assert config.settings() == DenoiseSettings(), "what a fallback runs"


def test_the_targets_are_those_of_the_export() -> None:
    from export.pipeline import TARGETS

    assert sorted(EXPORT_TARGETS) == sorted(TARGETS)


def test_a_section_must_be_a_table(tmp_path: Path) -> None:
    file = toml(tmp_path, 'dataset = "a"\nout = "b"\nloop = 3\n')
    for overrides in ({}, {"loop.loops": 2}):
        with pytest.raises(ConfigError, match="not a table"):
            load_config(file, overrides)


def test_dataset_and_out_are_required() -> None:
    with pytest.raises(ConfigError, match="dataset is not set"):
        load_config(None, {"out": "run"})


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a file"):
        load_config(tmp_path / "absent.toml", {})
    with pytest.raises(ConfigError, match="is not TOML"):
        load_config(toml(tmp_path, "loops = = 3"), {})


def test_constructed_in_python_it_is_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"loop\.patience"):
        LoopConfig(patience=0)


def test_a_moved_run_folder_reads_back_with_its_new_place(tmp_path: Path) -> None:
    config = load_config(None, MINIMAL)
    write_config(config, tmp_path / "config.toml")
    assert read_config(tmp_path) == dataclasses.replace(config, out=tmp_path)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(
    negative=st.none() | texts,
    selectors=st.lists(texts, min_size=1, max_size=3),
    steps=st.none() | st.integers(1, 1000),
    guidance=st.none() | st.floats(1, 50),
    threshold=st.floats(0, 1),
    overlap=st.booleans(),
)
def test_toml_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    negative: str | None,
    selectors: list[str],
    steps: int | None,
    guidance: float | None,
    threshold: float,
    overlap: bool,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    config = RunConfig(
        dataset=folder / 'a "quoted" \\ name',
        out=folder,
        generator=GeneratorConfig(steps=steps, guidance_scale=guidance, negative=negative),
        critic=CriticConfig(quantization="nf4"),
        loop=LoopConfig(selectors=tuple(selectors), distance_threshold=threshold),
        schedule=ScheduleConfig(overlap=overlap),
    )
    write_config(config, folder / "config.toml")
    assert read_config(folder) == config


def test_every_setting_is_written() -> None:
    config = load_config(
        None,
        MINIMAL
        | {
            "limit": 3,
            "shard": "2/3",
            "generator.steps": 4,
            "generator.guidance_scale": 1,
            "generator.negative": "blur",
            "critic.sure": 0.9,
            "critic.plan_samples": 8,
        }
        | {
            f"denoise.{part.name}": getattr(PRESETS["fastest"], part.name)
            for part in dataclasses.fields(DenoiseSettings)
        },
    )
    written = to_toml(config)
    for key in settings():
        assert f"\n{key.rpartition('.')[2]} = " in "\n" + written, key


def test_threads_come_from_the_environment_or_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETAKE_THREADS", raising=False)
    assert num_threads() == usable_cores() >= 1
    monkeypatch.setenv("RETAKE_THREADS", "3")
    assert num_threads() == 3
    monkeypatch.setenv("RETAKE_THREADS", "many")
    with pytest.raises(ConfigError, match="many"):
        num_threads()


def test_offline_forbids_the_model_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    offline()
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"  # the user's own choice stays


def test_the_example_of_the_readme_is_read_and_all_settings_are_linked(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("## Settings")[2].partition("\n## ")[0]
    (example,) = re.findall(r"```toml\n(.*?)```", shown, re.DOTALL)
    config = load_config(toml(tmp_path, example), MINIMAL)
    assert config != load_config(None, MINIMAL)
    assert "](docs/settings.md)" in shown


def test_cache_folder_follows_the_desktop_rule(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "retake"
    monkeypatch.setenv("HOME", str(tmp_path))
    for ignored in ("", "relative/path"):  # the rule: a path that is not absolute is ignored
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache_folder() == tmp_path / ".cache" / "retake"


OLD_NAMES = '[denoise]\npreset = "fast"\nlow_attention = ["auto"]\nlow_first = 0.25\nlow_last = 0\n'
NEW_NAMES = DenoiseConfig(
    preset="fast", quantized_attention=("auto",), quantized_first=0.25, quantized_last=0.0
)


def test_old_names_are_read_in_run_folders_and_in_a_users_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('dataset = "a"\nout = "b"\n' + OLD_NAMES, encoding="utf-8")
    assert read_config(tmp_path).denoise == NEW_NAMES
    assert load_config(toml(tmp_path, OLD_NAMES), MINIMAL).denoise == NEW_NAMES
    won = load_config(toml(tmp_path, OLD_NAMES), MINIMAL | {"denoise.quantized_first": 0.5}).denoise
    assert won.quantized_first == 0.5, "the command line wins over the old name too"


def test_every_old_name_has_a_present_one_and_is_no_setting() -> None:
    assert set(RENAMED.values()) <= set(settings())
    assert not set(RENAMED) & set(settings())
    assert all(old.rpartition(".")[0] == new.rpartition(".")[0] for old, new in RENAMED.items())


def test_both_names_of_a_setting_are_refused(tmp_path: Path) -> None:
    file = toml(tmp_path, OLD_NAMES + "quantized_last = 0.5\n")
    with pytest.raises(ConfigError, match=r"low_last is the old name of denoise\.quantized_last") as caught:
        load_config(file, MINIMAL)
    assert "remove denoise.low_last" in caught.value.fix


def test_a_part_of_the_denoiser_is_declared_once() -> None:
    """DenoiseConfig takes what is said of a part from DenoiseSettings, and its type with None."""
    declared = {entry.name: entry for entry in entries(DenoiseSettings)}
    parts = [entry for entry in entries(DenoiseConfig) if entry.name in declared]
    assert [entry.name for entry in parts] == list(declared)
    for part in parts:
        one = declared[part.name]
        assert part.hint in (one.hint, one.hint | None) and part.kind == one.kind, part.name
        assert part.default is None
        assert dataclasses.replace(part.setting, unset="") == one.setting, part.name


@pytest.mark.parametrize("key", ["dataset", "out", "generator.name", "critic.name", "loop.selectors"])
def test_text_that_is_not_utf8_is_refused_where_it_is_given(key: str) -> None:
    """Python gives a byte of a file name that is no UTF-8 as a surrogate, which no file of settings holds."""
    given: dict[str, object] = {"dataset": "d", "out": "o"}
    value: object = ["a\udcff"] if key == "loop.selectors" else "a\udcff"
    with pytest.raises(ConfigError, match=rf"{re.escape(key)} is .*udcff.*not UTF-8"):
        load_config(None, given | {key: value})


def test_whole_numbers_of_any_length_are_refused_by_name(tmp_path: Path) -> None:
    long = toml(tmp_path, f"[generator]\nguidance_scale = 1{'0' * 400}\n")
    with pytest.raises(ConfigError, match=r"generator\.guidance_scale is inf, out of range"):
        load_config(long, MINIMAL)
    longer = toml(tmp_path, f"[generator]\nsteps = 1{'0' * 5000}\n")
    with pytest.raises(ConfigError, match="is not TOML: Exceeds the limit"):
        load_config(longer, MINIMAL)


def test_a_run_of_an_older_version_goes_on_as_it_began(tmp_path: Path) -> None:
    config = RunConfig(dataset=tmp_path, out=tmp_path)
    write_config(config, tmp_path / "config.toml")
    assert read_config(tmp_path).loop.first_prompt == "auto", "it has the setting"
    written = (tmp_path / "config.toml").read_text()
    older = "".join(line for line in written.splitlines(keepends=True) if "first_prompt" not in line)
    assert older != written
    (tmp_path / "config.toml").write_text(older)
    assert read_config(tmp_path).loop == dataclasses.replace(config.loop, first_prompt="brief")
    (tmp_path / "config.toml").write_text(older.replace('method = "paper"', 'method = "scout"'))
    assert read_config(tmp_path).loop.first_prompt == "auto", "which scouts have no use for"
    assert set(LACKED) <= set(settings())


def test_a_run_without_its_settings_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lacks config\.toml, in which .*\n.*from a copy of the run"):
        read_config(tmp_path)
