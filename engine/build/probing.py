"""Which probe of hidden states a run chooses by, and whether it was fitted on takes of this generator.

States are of weights, so that a probe is bound to those that made them, LoRA files and their strengths among
them. Decides nothing about takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from engine.build.model_folders import ModelFolder, find_generator
from engine.denoise.lora import lora_digest, lora_files, lora_marks
from engine.denoise.states import refuse_states
from engine.errors import ConfigError
from engine.loop.scout_policy import forms_of
from engine.loop.selection import load_selectors
from engine.loop.state_probe import FIT, PROBE_FILE, StateProbe, read_probe
from engine.protocols import Selector
from engine.runs.manifest import MANIFEST, WEIGHT_SUFFIXES, Digest, read_manifest, weight_digests
from engine.settings.config import LoopConfig, RunConfig, read_config
from engine.settings.loop import SCOUT
from engine.settings.selectors import SelectorsConfig
from engine.types import SelectorSettings, StateSites

STATES: Final = "states"
"""The selector's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    path: Path
    probe: StateProbe


def keeps_states(config: RunConfig) -> bool:
    return config.selectors.keep_states or STATES in config.loop.all_selectors


def probing(config: RunConfig, generator: Path, digest: Digest) -> Probing | None:
    """Of a run whose selectors name states, else None. ConfigError where there is no probe that fits."""
    if STATES not in config.loop.all_selectors:
        return None
    loras = config.generator.loras
    marks = lora_marks(loras, [lora_digest(path, digest) for path in lora_files(loras)])
    return _found(
        config.selectors.states_probe, generator, made_with(weight_digests(generator, digest), marks)
    )


def selectors_of(config: RunConfig, device: str, probe: Probing | None) -> dict[str, Selector]:
    """Those that a run asks; `probe` as `probing` gives it."""
    settings = config.selectors.on(device)
    path = None if probe is None else probe.path
    return load_selectors(config.loop.all_selectors, replace(settings, states_probe=path))


def require_sites(probe: Probing | None, loop: LoopConfig, generator: Any) -> None:
    """ConfigError where takes or scouts keep no states as the probe reads them."""
    if probe is not None:
        for sites in sites_asked(loop, generator):
            probe.probe.require(sites)


def sites_asked(loop: LoopConfig, generator: Any) -> Iterator[StateSites]:
    """Where the takes and scouts keep states by which selectors of the loop choose."""
    if STATES in loop.compared_by:
        yield generator.sites
    if loop.method != SCOUT or STATES not in loop.scout_choosers:
        return
    for form in forms_of(loop):
        if form.whole:
            yield generator.in_steps(form.steps).sites
        else:
            sites: StateSites = generator.sites
            num = sum(step < form.steps for step in sites.steps)
            yield replace(sites, steps=sites.steps[:num], timesteps=sites.timesteps[:num])


def keep_states_of(found: ModelFolder, config: RunConfig) -> bool:
    """Whether takes of this generator keep hidden states. ConfigError where they cannot."""
    if not keeps_states(config):
        return False
    if not found.has_states:
        raise refuse_states(f"the family {found.family}", "it has no forward that gives them")
    if config.denoise.engine:
        raise refuse_states("an exported denoiser", "it gives velocities alone")
    return True


def made_with(weights: Mapping[str, str], loras: Sequence[str]) -> dict[str, Any]:
    """What states are of: sha256 of the generator's weights by file, and what each LoRA does to them."""
    return {"generator": dict(weights), "loras": list(loras)}


def made_with_of(config: RunConfig, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Of the takes of a run, by what it wrote down. ConfigError where it wrote nothing down."""
    digests = manifest.get("models", {}).get("generator", {}).get("sha256", {})
    weights = {name: digest for name, digest in digests.items() if Path(name).suffix in WEIGHT_SUFFIXES}
    loras = [*manifest.get("loras", {}).values()]
    if not weights or len(loras) != len(config.generator.loras):
        raise ConfigError(
            f"{MANIFEST} of {config.out} does not say which weights made its takes",
            fix="put the manifest of the run back, or make a new run",
        )
    return made_with(weights, lora_marks(config.generator.loras, loras))


def selector_settings(
    folder: Path, device: str, names: Sequence[str], *, probe: Path | None = None
) -> SelectorSettings:
    """Of a run folder, for whoever chooses among its takes by the selectors `names`; `probe` in place of its
    own. ConfigError where states are among them and no probe fits its takes."""
    given = (folder / "config.toml").is_file()
    config = read_config(folder) if given else None
    settings = (SelectorsConfig() if config is None else config.selectors).on(device)
    if STATES not in names or config is None:
        return replace(settings, states_probe=probe or settings.states_probe)
    wanted = str(probe or config.selectors.states_probe or "")
    of = made_with_of(config, read_manifest(folder / MANIFEST))
    generator = None if wanted else find_generator(config.generator.name).path
    return replace(settings, states_probe=_found(wanted, generator, of).path)


def _found(wanted: str, generator: Path | None, of: Mapping[str, Any]) -> Probing:
    path = Path(wanted) if wanted or generator is None else generator / PROBE_FILE
    if not path.is_file():
        what = f"selectors.states_probe {wanted} is no file" if wanted else f"{generator} has no {PROBE_FILE}"
        raise ConfigError(f"the selector states needs a probe: {what}", fix=f"{FIT}; or give --states-probe")
    probe = read_probe(path)
    if probe.made_with != of:
        raise ConfigError(
            f"{path} was fitted on takes of other weights than these",
            fix=f"{FIT}, on takes of this generator",
        )
    return Probing(path=path, probe=probe)
