"""Where an artifact was compared with its module, and what came out: beside it, one entry for each place.

Knows no comparison. Invariant: an entry is of this very artifact; without one, nothing is said of how right
it is. The file is none of the artifact's: it is written after the build, on any machine that runs it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from export.artifacts.documents import read_document
from export.artifacts.store import Artifact
from export.spec import ExportError
from kernels.files import whole_file

FILE: Final = "verified.json"
SCHEMA: Final = 1
_FIX: Final = "delete that file and run `retake export verify`"


def verifications(artifact: Artifact) -> list[Mapping[str, Any]]:
    """Entries in the order they were made, none where nothing was compared yet. ExportError when damaged."""
    path = artifact.folder / FILE
    if not path.exists():
        return []
    document = read_document(path, {"artifact": str, "verifications": list}, fix=_FIX, schema=SCHEMA)
    if document["artifact"] != artifact.digest:
        raise ExportError(f"{path} is of artifact {document['artifact'][:16]}", fix=_FIX)
    found: list[Mapping[str, Any]] = document["verifications"]
    wrong = [entry for entry in found if not _is_entry(entry)]
    if wrong:
        raise ExportError(f"{path} is damaged: an entry without place, failures or outputs", fix=_FIX)
    return found


def note(artifact: Artifact, entry: Mapping[str, Any]) -> None:
    """Keep what a comparison gave; it takes the place of an earlier one at the same `place`.

    ExportError when the file there is damaged, or cannot be written.
    """
    kept = [other for other in verifications(artifact) if other["place"] != entry["place"]]
    document = {"schema": SCHEMA, "artifact": artifact.digest, "verifications": [*kept, entry]}
    path = artifact.folder / FILE
    try:
        with whole_file(path) as part:
            part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error}", fix="make the folder writable") from error


def _is_entry(entry: Any) -> bool:
    kinds = {"place": dict, "failures": list, "outputs": list, "num_forwards": int, "inputs_are": str}
    return isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in kinds.items())
