"""How a run chooses takes: by a gain model that was fitted for its models and selectors, else by rules.

Reads the file, and says in words which of both it is and why, and with which prompt the loop begins for that.
Decides nothing about takes (loop/policy.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from engine.errors import ConfigError
from engine.loop.expected_gain import OF_CRITIQUE, OF_PROMPT, RANK, GainModel
from engine.loop.policy import CRITIC_SCORE, first_prompt
from engine.runs.manifest import Digest, weight_digests
from engine.settings.loop import AUTO, BRIEF, PAPER, PLAN, LoopConfig
from kernels.files import read_json

GAIN_FILE: Final = "gain.json"
NONE: Final = "none"
KIND, SCHEMA = "gain_model", 1
FIT = "fit it: python -m bench.quality.fit_gain --help"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choosing:
    """`gain` is None where rules choose; `why` is for the manifest and the log."""

    gain: GainModel | None
    why: str


def choosing(
    wanted: str, *, generator: Path, critic: Path, selectors: Sequence[str], digest: Digest
) -> Choosing:
    """wanted: loop.gain, which is a file, "none", or "" for the critic folder's own, if it has one.

    The critic folder's is left aside where it was fitted with other weights or needs a selector that does not
    run. Raises ConfigError: a file that was asked for by name is not there, unreadable or does not fit.
    """
    if wanted == NONE:
        return Choosing(gain=None, why="by rules, as loop.gain says")
    path = Path(wanted) if wanted else critic / GAIN_FILE
    if not path.is_file():
        if wanted:
            raise ConfigError(f"loop.gain {wanted} is no file", fix=f'{FIT}; or set loop.gain = "none"')
        return Choosing(gain=None, why=f"by rules: {critic.name} has no {GAIN_FILE}")
    document = read_gain(path)
    if problem := _problem(document, generator, critic, selectors, digest):
        if wanted:
            raise ConfigError(f"loop.gain {path} {problem}", fix=f'{FIT}; or set loop.gain = "none"')
        return Choosing(gain=None, why=f"by rules: {GAIN_FILE} of {critic.name} {problem}")
    return Choosing(gain=model_of(document), why=f"by expected gain, fitted on {document['fitted_on']}")


def first_prompt_told(loop: LoopConfig, chosen_by: Choosing) -> str | None:
    """What the first prompt "auto" became, and why; None where it was named, or the loop has none."""
    if (loop.method, loop.first_prompt) != (PAPER, AUTO):
        return None
    if first_prompt(loop, chosen_by.gain) == PLAN:
        return (
            "first prompt: plan, since the gain model is sure that it is better than the dataset's sentence; "
            f"--first-prompt {BRIEF} compares both"
        )
    why = "the gain model is not sure that the plan's is better"
    if chosen_by.gain is None:
        why = f"there is no gain model to say that the plan's is better (takes are chosen {chosen_by.why})"
    return f"first prompt: brief, since {why}; --first-prompt {PLAN} begins with the plan's"


def document_of(model: GainModel, *, generator: Path, critic: Path, fitted_on: str, digest: Digest) -> Any:
    """What `read_gain` reads. fitted_on: in words, for whoever asks where the weights are from."""
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "fitted_on": fitted_on,
        "fitted_with": _weights_of(generator, critic, digest),
        **asdict(model),
    }


def read_gain(path: Path) -> Mapping[str, Any]:
    """Raises ConfigError for what `document_of` did not make."""
    try:
        document = read_json(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", fix=FIT) from error
    if not isinstance(document, dict) or document.get("kind") != KIND or document.get("schema") != SCHEMA:
        raise ConfigError(f"{path} is no gain model of schema {SCHEMA}", fix=FIT)
    try:
        model = model_of(document)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{path} is no whole gain model: {error}", fix=FIT) from error
    known = {*OF_CRITIQUE, *OF_PROMPT}
    if strange := [name for name in model.weights if name not in known and not name.startswith(RANK)]:
        raise ConfigError(f"{path} weighs {', '.join(strange)}, which no take has", fix=FIT)
    return document


def model_of(document: Mapping[str, Any]) -> GainModel:
    return GainModel(
        weights={str(name): float(value) for name, value in document["weights"].items()},
        covariance=tuple(tuple(float(value) for value in row) for row in document["covariance"]),
        deviations=float(document["deviations"]),
        acceptable=tuple(float(share) for share in document.get("acceptable", ())),
    )


def _problem(
    document: Mapping[str, Any], generator: Path, critic: Path, selectors: Sequence[str], digest: Digest
) -> str | None:
    needed = [name for name in model_of(document).selectors if name != CRITIC_SCORE]
    if missing := [name for name in needed if name not in selectors]:
        return f"reads {', '.join(missing)}, which loop.selectors does not name"
    if document["fitted_with"] != _weights_of(generator, critic, digest):
        return "was fitted with other weights than these"
    return None


def _weights_of(generator: Path, critic: Path, digest: Digest) -> dict[str, dict[str, str]]:
    """sha256 of the weights: who writes the takes, and who judges them."""
    return {
        name: weight_digests(folder, digest)
        for name, folder in (("generator", generator), ("critic", critic))
    }
