"""What the environment says: the hub is off, where caches lie, how many cores and threads there are.

The only module that reads or writes environment variables.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from engine.errors import ConfigError

_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # they would tear our own display
}
_before_offline: dict[str, str | None] = {}


def offline() -> None:
    """Forbid model-hub traffic: models are folders. Must run before transformers or diffusers is imported."""
    for name, value in _OFFLINE.items():
        _before_offline.setdefault(name, os.environ.get(name))
        os.environ[name] = value
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the encode lane forks no tokenizer threads


def ray_sends_nothing() -> None:
    """Forbid Ray's usage statistics. Must run before a cluster is started."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


def for_download() -> dict[str, str]:
    """The environment of a program that may use the hub: as it was before `offline`."""
    found = {name: value for name, value in os.environ.items() if name not in _OFFLINE}
    return found | {name: value for name, value in _before_offline.items() if value is not None}


def let_waiting_threads_sleep() -> None:
    """Torch's CPU threads wait for each other awake for some 40 us, then asleep. Must run before torch is
    imported, so the houses that import torch call it first; what the user has set stays.

    libgomp waits for milliseconds: on a busy machine the threads that wait then keep the one that works off
    its core, and a take costs four times the CPU seconds and many times as long. 1000 rounds are too few,
    small layers wait 1.5 times as long; from 2000 on an idle machine is as fast as without a limit.
    """
    if "OMP_WAIT_POLICY" not in os.environ:  # which the number of rounds would overrule
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def let_memory_grow_in_place() -> None:
    """Torch's allocator keeps what each stream freed in one range of addresses that grows and shrinks, not in
    blocks of the sizes that were asked for. Must run before torch is imported; what the user has set stays.

    Steps of a take ask for other sizes each: prefix, denoising and decoding left blocks that fitted none of
    the others, and a run that had 28 GiB at its peak held 56 (bench/results/end_to_end_h200.json).
    """
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys() and sys.platform == "linux":
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def compile_into(folder: Path) -> None:
    """Where torch keeps compiled code, unless the user said so. By default that is a folder of a known name
    below /tmp, which is lost at the next start of the machine, and which another user may have made."""
    if _compiled_by_user() is None:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def compiled_folder() -> Path:
    """Where torch keeps the compiled code of a run: where the user says, else `compiled` in our cache."""
    return Path(_compiled_by_user() or cache_folder() / "compiled")


def _compiled_by_user() -> str | None:
    """TORCHINDUCTOR_CACHE_DIR, but where torch wrote its own default there, as it does once it is imported so
    far that it may compile: by another library, or by a thread that imports ahead."""
    found = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or None
    torchs = sys.modules.get("torch._inductor.runtime.cache_dir_utils")
    is_default = found is not None and torchs is not None and found == torchs.default_cache_dir()
    return None if is_default else found


def inherited() -> dict[str, str]:
    """What a program that we start gets of it: all, as it is."""
    return dict(os.environ)


def chosen_gpus() -> str | None:
    """CUDA_VISIBLE_DEVICES: which GPUs this process may use, or none of them; None: it may use all."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def cache_folder() -> Path:
    """Where results that can be made again are kept: XDG_CACHE_HOME/retake, else ~/.cache/retake."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "retake"


def models_folder() -> Path:
    """Where `retake models add` makes folders of links: in XDG_DATA_HOME, else in ~/.local/share."""
    home = os.environ.get("XDG_DATA_HOME", "")
    data = Path(home) if Path(home).is_absolute() else Path.home() / ".local" / "share"
    return data / "retake" / "models"


def exports_folder() -> Path:
    """Where `retake export` puts artifacts and `--denoiser TARGET` looks for them, unless told otherwise."""
    return cache_folder() / "exports"


def usable_cores() -> int:
    """CPU cores that this process may use, which in a container is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_threads() -> int:
    """CPU threads of the generate lane: RETAKE_THREADS, else every usable core."""
    text = os.environ.get("RETAKE_THREADS", "")
    if not text:
        return usable_cores()
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(
            f"RETAKE_THREADS is {text!r}", fix="set it to a whole number of at least 1, or unset it"
        )
    return int(text)
