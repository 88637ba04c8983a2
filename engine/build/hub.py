"""Models by the name that they have on the Hugging Face hub: the folder in its cache, and how to get one.

Looks into the cache only; nothing is fetched but by `download`, which the user asks for. Sizes are those of a
whole repository, licences as its card states them: both are said before anything is fetched.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess  # nosec B404 # the hub's own command
import sys
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ModelError
from engine.settings.environment import for_download, offline
from engine.settings.notation import is_hub_name

_CARD = "https://huggingface.co/"
GB = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosted:
    """A repository: its weights as they are stored, in GB of 10^9 bytes, and its licence."""

    repository: str
    about_gb: float
    licence: str


HOSTED = {
    one.repository: one
    for one in (
        # fp32 transformer and autoencoder, text encoder in bf16
        Hosted(repository="Wan-AI/Wan2.2-TI2V-5B-Diffusers", about_gb=34, licence="Apache-2.0"),
        Hosted(repository="Qwen/Qwen3-VL-2B-Instruct", about_gb=4.3, licence="Apache-2.0"),
        Hosted(repository="Qwen/Qwen3-VL-4B-Instruct", about_gb=8.9, licence="Apache-2.0"),
        Hosted(repository="Qwen/Qwen3-VL-8B-Instruct", about_gb=17.5, licence="Apache-2.0"),
        Hosted(repository="Qwen/Qwen2.5-VL-3B-Instruct", about_gb=7.5, licence="Qwen Research License"),
        Hosted(repository="Qwen/Qwen2.5-VL-7B-Instruct", about_gb=16.6, licence="Apache-2.0"),
    )
}
DIFFUSERS = {"Wan-AI/Wan2.2-TI2V-5B": "Wan-AI/Wan2.2-TI2V-5B-Diffusers"}
"""Repositories in a layout of their own -> the same weights in that of diffusers."""


def repository(name: str) -> str:
    """Of a name on the hub, the repository whose layout is read here."""
    return DIFFUSERS.get(name, name)


def cached(name: str) -> Path | None:
    """The newest folder of it in the hub's cache; None where there is none, or a half one that the hub's
    library knows to be so. What else a folder lacks is for its reader to say."""
    offline()
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(repository(name), local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, ValueError):
        return None


def cache() -> Path:
    """Where the hub keeps what it fetched: HF_HUB_CACHE, or below HF_HOME."""
    offline()
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def in_cache() -> list[str]:
    """The models of which the cache has a folder, by name."""
    names = ["/".join(folder.name.split("--")[1:]) for folder in sorted(cache().glob("models--*--*"))]
    return [name for name in names if is_hub_name(name) and cached(name) is not None]


def name_of(folder: Path) -> str | None:
    """The model of a folder in the hub's cache; None for any other folder."""
    names = [part.split("--") for part in folder.parts if part.startswith("models--")]
    return "/".join(names[-1][1:]) if names and "snapshots" in folder.parts else None


def command(name: str) -> str:
    """What to type to fetch it."""
    return shlex.join(("hf", "download", repository(name)))


def describe(name: str) -> str:
    """ "about 34 GB, licence Apache-2.0", or where both are told."""
    one = HOSTED.get(repository(name))
    card = f"{_CARD}{repository(name)}"
    return f"about {one.about_gb:g} GB, licence {one.licence}, {card}" if one else f"size and licence: {card}"


def download(name: str) -> Path:
    """Fetch it by the hub's own command, which shows how far it is; its folder. A half one is completed.

    ModelError where the disk is too small for what is known of it, or the command fails.
    """
    repo, place = repository(name), cache()
    place.mkdir(parents=True, exist_ok=True)
    free, one = shutil.disk_usage(place).free, HOSTED.get(repo)
    if one is not None and cached(name) is None and free < one.about_gb * GB:
        raise ModelError(
            f"{repo} takes about {one.about_gb:g} GB; {place} has {free / GB:.1f} GB left",
            fix="make room, or set HF_HOME to a folder on another disk",
        )
    words = [sys.executable, "-m", "huggingface_hub.cli.hf", "download", repo]
    stderr = 2  # stdout is the document's, with --json -
    done = subprocess.run(words, env=for_download(), stdout=stderr, check=False)  # nosec B603
    folder = cached(name) if done.returncode == 0 else None
    if folder is None:
        raise ModelError(
            f"{repo} could not be downloaded: see what the hub's command says above",
            fix=f"mend that and repeat: {command(name)}",
        )
    return folder
