"""What a run rests on, for its manifest: digests of models and prefixes, settings, device, kernels chosen.

The digests are computed while the models are loaded, so that weights are read from the disk once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from engine.build.prepare import Prepared
from engine.denoise.lora import lora_digest, lora_files
from engine.loop.policy import first_prompt, scenario_seed
from engine.runs.digests import Ahead, FileDigests
from engine.runs.manifest import Digest, collect, model_files, surroundings
from engine.settings.environment import cache_folder, usable_cores
from engine.settings.loop import PAPER
from engine.weights.linked import require_unchanged
from kernels.files import file_digest


@dataclass(frozen=True, slots=True)
class Facts:
    """Those that are found while something else is done; each waits until it is."""

    digest: Digest
    around: Callable[[], Mapping[str, Any]]


@contextmanager
def facts_ahead(prepared: Prepared) -> Iterator[Facts]:
    """Of what the run rests on, while the models are loaded."""
    folders = (prepared.generator.path, prepared.critic.path)
    paths = [path for folder in folders for path in model_files(folder)]
    paths += [scenario.prefix.path for scenario in prepared.usable]
    digests = Ahead(paths, FileDigests(cache_folder() / "digests"), usable_cores())
    with digests, ThreadPoolExecutor(1, "retake-facts") as thread:
        yield Facts(digests.digest, thread.submit(surroundings).result)


def manifest_of(
    prepared: Prepared, facts: Facts, denoiser: Mapping[str, str], critic: Mapping[str, str]
) -> dict[str, Any]:
    """`denoiser` and `critic` are notes of the loaded models. ModelError where a linked file has changed."""
    config = prepared.config
    for folder in (prepared.generator.path, prepared.critic.path):
        require_unchanged(folder, facts.digest)
    found = collect(
        asdict(config),
        {"generator": prepared.generator.path, "critic": prepared.critic.path},
        seeds={scenario.id: scenario_seed(config.loop.seed, scenario.id) for scenario in prepared.scenarios},
        argv=sys.argv,
        digest=facts.digest,
        around=facts.around,
    )
    resolved = {"device": prepared.device, "dtype": prepared.dtype, "spec": asdict(prepared.spec)}
    prefixes = {scenario.id: facts.digest(scenario.prefix.path) for scenario in prepared.usable}
    probe = prepared.probe
    is_paper = config.loop.method == PAPER
    probes = {} if probe is None else {"states": file_digest(probe.path)}
    return {
        **found,
        "loras": {
            f"{place} {path.name}": lora_digest(path, facts.digest)
            for place, path in enumerate(lora_files(config.generator.loras), start=1)
        },
        "prefixes": prefixes,  # of an unusable one there is nothing to keep to: it may be mended
        "resolved": resolved,
        "denoiser": dict(denoiser),
        "critic": dict(critic),
        "choosing": prepared.choosing.why,
        "first_prompt": first_prompt(config.loop, prepared.choosing.gain) if is_paper else None,
        "probes": probes,
        "memory": {**prepared.memory.document(), "changed": list(prepared.changed)},
    }
