"""The imports of the model libraries, most of a start: without what no run uses, and beside other work.

diffusers and transformers import what is installed of some dozen other packages, whether it is used or not.
Knows no family by name.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from engine.build.model_folders import ModelFolder, find_critic, find_generator
from engine.settings.environment import offline

if TYPE_CHECKING:
    from engine.settings.config import RunConfig

UNUSED: Final[Mapping[str, str]] = {
    "deepspeed": "training on several machines; accelerate imports its optimizers",
    "librosa": "sound; transformers' audio utilities",
    "peft": "adapters, which are merged before they are loaded; diffusers' loaders, with all of its methods",
    "scipy": "schedules that are refused, and losses of detectors; all schedulers of diffusers",
    "sklearn": "a curve for assisted generation, which nothing here does",
    "soundfile": "sound; transformers' audio utilities",
    "soxr": "sound; transformers' audio utilities",
    "torchaudio": "sound; transformers' audio utilities. Built for another torch it ends every import",
    "torchvision": "pictures are prepared by us. Built for another torch it ends every import",
}
"""Package -> what diffusers, transformers or accelerate import it for, and why a run can do without."""

_importing = threading.Lock()


@contextmanager
def without_unused() -> Iterator[None]:
    """Inside, `UNUSED` count as not installed, but for what is imported already.

    Python's own way: a name that is None among the modules is not found. The libraries remember what they did
    not find, so this is for processes of ours, and not for who imports the engine beside other things.
    """
    modules: dict[str, Any] = sys.modules
    hidden = [name for name in UNUSED if name not in modules]
    modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            if modules.get(name, name) is None:
                del modules[name]


def import_families(*found: ModelFolder) -> None:
    """The modules that load these folders. One thread imports, another waits for it."""
    with _importing, _uncollected():
        for one in found:
            one.loader()


@contextmanager
def importing_ahead(config: RunConfig) -> Iterator[None]:
    """Inside, a thread imports what the run will load its models with; where it fails, the run will tell."""

    def work() -> None:
        import_families(find_generator(config.generator.name), find_critic(config.critic.name))

    offline()
    with without_unused(), ThreadPoolExecutor(1, "retake-imports") as thread:
        thread.submit(work)
        yield


@contextmanager
def _uncollected() -> Iterator[None]:
    """Imports make many objects and no garbage: the collector takes a sixth of their time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
