"""Models by the name that they have on the Hugging Face hub: the folder in its cache, and how to get one.

Looks into the cache only; nothing is fetched but by `download`, which the user asks for. Sizes are those of a
whole repository, licences as its card states them: both are said before anything is fetched.
"""

from __future__ import annotations

import shutil
import subprocess  # nosec B404 # the hub's own command
import sys
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ModelError
from engine.settings.environment import for_download, offline
from engine.settings.notation import is_hub_name
from engine.words import command_line

_CARD = "https://huggingface.co/"
GB = 10**9
_OTHER = "other, see its card"
_LEADERBOARD = "google-deepmind/physics-IQ-benchmark"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosted:
    """A repository: its weights as they are stored, in GB of 10^9 bytes, and its licence."""

    repository: str
    about_gb: float | None
    """None: not known here."""
    licence: str
    what: str
    published: str = ""
    """Its published score of Physics-IQ Verified, and where it stands."""


HOSTED = {
    one.repository: one
    for one in (
        Hosted(
            repository="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
            about_gb=34,
            licence="Apache-2.0",
            what="generator: fp32 transformer and autoencoder, text encoder in bf16",
            published="27.7 from one picture (arXiv 2606.18943)",
        ),
        Hosted(
            repository="Wan-AI/Wan2.2-I2V-A14B-Diffusers",
            about_gb=None,
            licence="Apache-2.0",
            what="generator: two transformers, of which one works at a time",
            published="32.2 from one picture (arXiv 2606.18943)",
        ),
        Hosted(
            repository="Wan-AI/Wan2.1-VACE-1.3B-diffusers",
            about_gb=None,
            licence="Apache-2.0",
            what="generator with a control network",
        ),
        Hosted(
            repository="Wan-AI/Wan2.1-VACE-14B-diffusers",
            about_gb=None,
            licence="Apache-2.0",
            what="generator with a control network",
        ),
        Hosted(
            repository="nvidia/AnyFlow-FAR-Wan2.1-1.3B-Diffusers",
            about_gb=None,
            licence=_OTHER,
            what="generator in four steps a chunk",
        ),
        Hosted(
            repository="nvidia/AnyFlow-FAR-Wan2.1-14B-Diffusers",
            about_gb=None,
            licence=_OTHER,
            what="generator in four steps a chunk",
        ),
        Hosted(
            repository="nvidia/Cosmos3-Edge",
            about_gb=9.2,
            licence="OpenMDW-1.1",
            what="generator",
            published=f"32.7 from one picture ({_LEADERBOARD})",
        ),
        Hosted(
            repository="nvidia/Cosmos3-Nano",
            about_gb=None,
            licence="OpenMDW-1.1",
            what="generator and critic",
            published=f"43.0 from 3 s ({_LEADERBOARD})",
        ),
        Hosted(
            repository="nvidia/Cosmos3-Super",
            about_gb=None,
            licence="OpenMDW-1.1",
            what="generator and critic",
            published=f"50.8 from 3 s ({_LEADERBOARD})",
        ),
        Hosted(
            repository="Qwen/Qwen3-VL-2B-Instruct",
            about_gb=4.3,
            licence="Apache-2.0",
            what="critic",
        ),
        Hosted(
            repository="Qwen/Qwen3-VL-4B-Instruct",
            about_gb=8.9,
            licence="Apache-2.0",
            what="critic",
        ),
        Hosted(
            repository="Qwen/Qwen3-VL-8B-Instruct",
            about_gb=17.5,
            licence="Apache-2.0",
            what="critic",
        ),
        Hosted(
            repository="Qwen/Qwen3-VL-8B-Instruct-FP8",
            about_gb=10.6,
            licence="Apache-2.0",
            what="critic in FP8",
        ),
        Hosted(
            repository="Qwen/Qwen3.5-9B",
            about_gb=19.3,
            licence="Apache-2.0",
            what="critic, most of whose layers keep a state",
        ),
        Hosted(
            repository="Qwen/Qwen2.5-VL-3B-Instruct",
            about_gb=7.5,
            licence="Qwen Research License",
            what="critic",
        ),
        Hosted(
            repository="Qwen/Qwen2.5-VL-7B-Instruct",
            about_gb=16.6,
            licence="Apache-2.0",
            what="critic",
        ),
        Hosted(
            repository="Qwen/Qwen2.5-VL-7B-Instruct-AWQ",
            about_gb=6.9,
            licence="Apache-2.0",
            what="critic in 4 bits",
        ),
    )
}
DIFFUSERS = {
    "Wan-AI/Wan2.2-TI2V-5B": "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
    "Wan-AI/Wan2.2-I2V-A14B": "Wan-AI/Wan2.2-I2V-A14B-Diffusers",
    "Wan-AI/Wan2.1-VACE-1.3B": "Wan-AI/Wan2.1-VACE-1.3B-diffusers",
    "Wan-AI/Wan2.1-VACE-14B": "Wan-AI/Wan2.1-VACE-14B-diffusers",
}
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
    return command_line("hf", "download", repository(name))


def describe(name: str) -> str:
    """ "about 34 GB, licence Apache-2.0", or where what is not known here is told."""
    one = HOSTED.get(repository(name))
    card = f"{_CARD}{repository(name)}"
    if one is None:
        return f"size and licence: {card}"
    size = "" if one.about_gb is None else f"about {one.about_gb:g} GB, "
    return f"{size}licence {one.licence}, {card}"


def download(name: str) -> Path:
    """Fetch it by the hub's own command, which shows how far it is; its folder. A half one is completed.

    ModelError where the disk is too small for what is known of it, or the command fails.
    """
    repo, place = repository(name), cache()
    place.mkdir(parents=True, exist_ok=True)
    free, one = shutil.disk_usage(place).free, HOSTED.get(repo)
    about_gb = one.about_gb if one else None
    if about_gb is not None and cached(name) is None and free < about_gb * GB:
        raise ModelError(
            f"{repo} takes about {about_gb:g} GB; {place} has {free / GB:.1f} GB left",
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
