"""Model folders as objects: a generator and a critic, loaded and ready to be asked.

Knows no dataset and no run. Settings are those of docs/settings.md by their key, as in TOML.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.protocols import Critic, Generator
from engine.settings.config import BUNDLED, RunConfig, load_config

Settings = Mapping[str, object]
"""By key, such as {"loop.loops": 2, "denoise.preset": "fast", "device": "cpu"}; see docs/settings.md."""


def load_generator(folder: str = BUNDLED, settings: Settings | None = None) -> Generator:
    """A video model with its weights on the device.

    folder: "demo", which is bundled, or a diffusers folder of the Wan family with per-token timesteps.
    settings: of `generator`, `denoise`, `device` and `dtype`, and `selectors.keep_states`, with which a take
    has `states`; the others are of no account here.

    What it makes is described by `spec` (width and height in pixels, fps, frames of prefix and continuation).
    Raises ModelError for a folder that cannot be loaded, ConfigError for a setting that does not exist or
    does not fit this machine, another RetakeError for an artifact of `denoise.engine` that does not fit.
    """
    from engine.build import exported, prepare, preset
    from engine.build.model_folders import find_generator

    config = _config({"generator.name": folder}, settings)
    found = find_generator(config.generator.name)
    device, dtype = _ready(config)
    config = preset.chosen(config, device, dtype).config
    outline: Any = prepare.load_generator(config, found, device, dtype, with_weights=False)
    form = exported.find(config.denoise, found.path, outline, device)
    loaded = exported.load(form, config.denoise, device)
    return prepare.load_generator(config, found, device, dtype, with_weights=True, form=loaded)


def load_critic(folder: str = BUNDLED, settings: Settings | None = None) -> Critic:
    """A vision-language model with its weights on the device.

    folder: "demo", which is bundled, or a transformers folder of Qwen3-VL or Qwen2.5-VL.
    settings: of `critic`, `device` and `dtype`; the others are of no account here.

    Raises ModelError and ConfigError as `load_generator` does.
    """
    from engine.build import prepare
    from engine.build.model_folders import find_critic

    config = _config({"critic.name": folder, "schedule.overlap": False}, settings)  # one reply at a time
    found = find_critic(config.critic.name)
    return prepare.load_critic(config, found, *_ready(config), with_weights=True)


def _config(given: Settings, settings: Settings | None) -> RunConfig:
    """No dataset is read and nothing is written: both paths are there because a run's settings have them."""
    return load_config(None, {"dataset": ".", "out": ".", **given, **(settings or {})})


def _ready(config: RunConfig) -> tuple[str, str]:
    """Device and dtype, with this process made ready for them as before a run."""
    from engine.machine import compiled
    from engine.machine.device import resolve_device, resolve_dtype, use_threads
    from engine.settings.environment import cache_folder, compile_into, num_threads, offline

    offline()
    device = resolve_device(config.device)
    if compiled.hold(cache_folder() / "compiled"):
        compile_into(cache_folder() / "compiled")
    if device == "cpu":
        use_threads(num_threads())
    return device, resolve_dtype(config.dtype, device)
