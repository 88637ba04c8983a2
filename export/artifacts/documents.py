"""A JSON document beside an artifact, read by one function: whatever is wrong with it is one clear error.

Knows no content. Invariant: what is returned is an object with the keys, of the types, that were asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from export.spec import ExportError
from kernels.files import read_json

MAX_BYTES: Final = 2**26
"""More than any of these documents, and far less than the memory of a host."""


def read_document(
    path: Path, kinds: Mapping[str, type], *, fix: str, schema: int | None = None
) -> dict[str, Any]:
    """The object in `path`, which has at least these keys with values of these types.

    schema: the one that this version reads, where the document states its own. ExportError when it cannot be
    read, is larger than MAX_BYTES, no JSON object, nested beyond what Python reads, of another schema, or has
    a key missing or of another type.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ValueError(f"it has {size} bytes, more than {MAX_BYTES}")
        document = read_json(path)
        if not isinstance(document, dict):
            raise ValueError(f"it is a {type(document).__name__}, not an object")
        if schema is not None and document["schema"] != schema:
            problem = f"{path} has schema {document['schema']}; this version reads {schema}"
            raise ExportError(problem, fix=fix)
        for name, kind in kinds.items():
            if not isinstance(document[name], kind):
                raise ValueError(f"{name} is {type(document[name]).__name__}, not {kind.__name__}")
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error}", fix=fix) from error
    except (ValueError, KeyError) as error:
        raise ExportError(f"{path} is damaged: {error!r}", fix=fix) from error
    return document
