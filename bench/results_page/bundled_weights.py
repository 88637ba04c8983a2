"""Measurements of other weights than those bundled now: the page says so beside each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bench.results_page.result_files import ResultFile, manifests
from engine.build.model_folders import find_critic, find_generator
from engine.runs.manifest import weight_digests
from engine.settings.config import BUNDLED

Weights = Mapping[str, Mapping[str, str]]
"""By role, the sha256 of each file of weights."""

MEASURED: Final[dict[str, tuple[str, ...]]] = {
    "world": ("generator",),
    "plan_confidence": ("critic",),
    "demo_run": ("generator", "critic"),
    "demo_quality": ("generator", "critic"),
    "critic_stages": ("generator", "critic"),
    "loop_controls": ("generator", "critic"),
    "state_fit": ("generator",),
    "selectors": ("generator", "critic"),
    "loop_budget": ("generator", "critic"),
    "loop_variants": ("generator", "critic"),
    "scout_finishes": ("generator", "critic"),
    "denoiser_quality": ("generator",),
    "export_quality": ("generator",),
    "export_errors": ("generator",),
    "policy": ("generator",),
    "vae_calibration": ("generator",),
}
"""Kinds of measurements whose figures follow from the bundled weights, and from which of them."""
TOLD: Final = "Weights: others than those bundled now"
ASIDE: Final = " (of other weights than the bundled ones)"


def bundled() -> Weights:
    """Of the models that a run takes by default."""
    folders = {"generator": find_generator(BUNDLED).path, "critic": find_critic(BUNDLED).path}
    return {role: weight_digests(folder) for role, folder in folders.items()}


def outdated(file: ResultFile, today: Weights) -> bool:
    """Whether a figure of `file` is of other weights than `today`'s, or of weights that it does not name."""
    roles = MEASURED.get(file.kind, ())
    told = [manifest for manifest in manifests(file.document) if manifest.get("models")]
    other = any(_weights(manifest, role) != today[role] for manifest in told for role in roles)
    return bool(roles) and (other or not told)


def _weights(manifest: Mapping[str, Mapping[str, Mapping[str, str]]], role: str) -> Mapping[str, str]:
    """Of a manifest's files those of weights: configuration and tokenizers are listed beside them."""
    files = manifest.get("models", {}).get(role, {})
    return {name: digest for name, digest in files.items() if name.endswith(".safetensors")}
