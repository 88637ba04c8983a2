"""The exported form that a run denoises with: by its folder, or the newest of a target that fits.

Knows no engine: what the run needs comes as sizes. Invariant: what is found is of the run's very checkpoint,
has a profile for its video and can be executed here; everything else is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import nearest
from engine.generators.wan.own_prefix import told_prefix_attention
from engine.generators.wan.settings import OWN
from engine.words import command_line, counted
from export.artifacts.places import places
from export.artifacts.store import MANIFEST, Artifact, Store, read_artifact
from export.artifacts.weights import folder_digest
from export.forms import DENSE, Form
from export.model_inputs import ExportedDenoiser, OwnPrefixExport
from export.pipeline import ONNX, TARGETS
from export.spec import ExportError, Profile, spec_from_record
from export.subjects import wan_dit
from export.subjects._loading import component_folder
from export.targets import aoti, onnx, tensorrt

MAX_LISTED = 4
"""So many artifacts that do not fit are named with their reason; the others are counted."""
AGAIN = "export this generator again, here and for this video; `retake export list` shows what there is"
LORAS = ExportError("it has LoRAs merged", fix="give its folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a run asks of an artifact. `sizes`: F, h, w and L of one forward, as in export/model_inputs.py."""

    checkpoint: Path
    """The generator's folder."""
    sizes: Mapping[str, int]
    single_rows: bool
    """Whether some forwards have one row of text; two rows can be run as one after the other."""
    device: str
    prefix_frames: int = 0
    """Latent frames of a take that are its clean prefix."""


def find(wanted: str, store: Path, needs: Needs) -> Artifact:
    """`wanted` is the folder of an artifact, or a target: then the newest fitting one below `store` or a
    folder that `retake export --out` was given.

    ExportError says what does not fit, of every candidate. By target only artifacts without LoRAs, whose
    attention is dense, are taken.
    """
    weights = folder_digest(component_folder(needs.checkpoint, "transformer"))
    if wanted in TARGETS:
        return _newest(wanted, store, needs, weights)
    folder = Path(wanted)
    if not folder.is_dir():
        raise ExportError(
            f"denoiser {wanted!r} is neither a folder nor a target{nearest(folder.name, TARGETS)}",
            fix=f"give the folder of an artifact, or one of: {', '.join(TARGETS)}",
        )
    artifact = read_artifact(folder)
    misfit = _misfit(artifact, needs, weights)
    if misfit is not None:
        raise ExportError(f"{folder.name} cannot denoise this run: {misfit.problem}", fix=misfit.fix)
    return artifact


def load(artifact: Artifact, device: str) -> ExportedDenoiser | OwnPrefixExport:
    """The Denoiser over what `find` returned; ExportError when its files cannot be opened."""
    target = artifact.key["target"]
    if target == ONNX:
        return onnx.load(artifact.folder, device)
    if target == aoti.TARGET:
        return aoti.load(artifact.folder, device)
    return tensorrt.load(artifact.folder, device, caches=artifact.folder.parent / "caches")


def describe(artifact: Artifact) -> dict[str, str]:
    """For the manifest of a run: what the artifact is and what it was made of."""
    key = artifact.key
    loras = ", ".join(f"{digest[:16]} at {strength:g}" for digest, strength in key["loras"])
    return {
        "target": key["target"],
        "recipe": key["recipe"],
        "artifact": artifact.folder.name,
        "artifact_digest": artifact.digest,
        "built_by": f"{key['target']}: {key['library']}",
        **({"loras": loras} if loras else {}),
        **({} if (form := _form(artifact)).is_plain else {"form": str(form)}),
    }


def _newest(target: str, store: Path, needs: Needs, weights: str) -> Artifact:
    stores = [Store(place) for place in places(store)]
    made = [artifact for found in stores for artifact in found.list() if artifact.key["target"] == target]
    made.sort(key=lambda artifact: (artifact.folder / MANIFEST).stat().st_mtime_ns, reverse=True)
    reasons = []
    for artifact in made:
        misfit = _left_to_the_user(artifact) or _misfit(artifact, needs, weights)
        if misfit is None:
            return artifact
        reasons.append(f"{artifact.folder.name}: {misfit.problem}")
    reasons += [error.problem for found in stores for error in found.damaged()]
    if len(reasons) > MAX_LISTED:
        reasons[MAX_LISTED:] = [f"and {len(reasons) - MAX_LISTED} more"]
    told = "; ".join(reasons) or "there is none of this target"
    raise ExportError(
        f"no {target} artifact in {', '.join(str(found.root) for found in stores)} fits this run: {told}",
        fix=f"make one with `{command_line('retake', 'export', needs.checkpoint, '--target', target)}`, "
        "or give the folder of one",
    )


def _left_to_the_user(artifact: Artifact) -> ExportError | None:
    """Why an artifact that may fit is only taken by its folder: it changes what comes out."""
    if artifact.key["loras"]:
        return LORAS
    attention = _form(artifact).attention
    return None if attention == DENSE else ExportError(f"its attention is {attention}", fix="give its folder")


def _form(artifact: Artifact) -> Form:
    return Form(**artifact.key["spec"].get("form", {}))


def _wrong_form(form: Form, needs: Needs) -> ExportError | None:
    own = told_prefix_attention(needs.checkpoint) == OWN
    if form.own_prefix != own:
        problem = "its prefix looks at {}, the model's at {}".format(
            *("itself alone" if is_own else "everything" for is_own in (form.own_prefix, own))
        )
        return ExportError(problem, fix=AGAIN)
    if form.prefix_frames not in (0, needs.prefix_frames):
        problem = (
            f"it was built as: {form}; the run has {counted(needs.prefix_frames, 'latent frame')} of prefix"
        )
        return ExportError(problem, fix=AGAIN)
    return None


def _misfit(artifact: Artifact, needs: Needs, weights: str) -> ExportError | None:
    """Why the artifact does not serve the run, and what to do; None: it does."""
    key = artifact.key
    if key["subject"] != wan_dit.SUBJECT:
        return ExportError(f"it is a {key['subject']}, not a denoiser", fix=AGAIN)
    # with LoRAs the digest of the checkpoint is followed by theirs
    if key["weights"].partition("+")[0] != weights:
        problem = f"it is of weights {key['weights'][:23]}, this generator has {weights[:23]}"
        return ExportError(problem, fix=f"give the --generator it was made of, or {AGAIN}")
    spec = spec_from_record(key["spec"])
    if wrong := _wrong_form(spec.form, needs):
        return wrong
    if not any(_serves(profile, needs) for profile in spec.profiles):
        built = "; ".join(f"{profile.name} {dict(profile.sizes)}" for profile in spec.profiles)
        rows = ", one row at a time" if needs.single_rows else ""
        problem = f"it was built for {built}, the video needs {dict(needs.sizes)}{rows}"
        return ExportError(problem, fix=AGAIN)
    if len(spec.input("timestep").dims) != 2:
        return ExportError("it takes one timestep for all frames, so no clean prefix", fix=AGAIN)
    try:
        _require_runnable(artifact, needs.device)
    except ExportError as error:
        return error
    return None


def _serves(profile: Profile, needs: Needs) -> bool:
    sizes = profile.sizes
    same = all(sizes[name] == needs.sizes[name] for name in ("F", "h", "w"))
    rows = (1,) if needs.single_rows else (1, 2)
    return same and sizes["L"] >= needs.sizes["L"] and sizes["B"] in rows


def _require_runnable(artifact: Artifact, device: str) -> None:
    target = artifact.key["target"]
    if target == ONNX:
        onnx.require_runnable(artifact.folder, device)
    elif target == aoti.TARGET:
        aoti.require_runnable(artifact, device)
    else:
        tensorrt.require_runnable(artifact, device)
