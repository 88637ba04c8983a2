"""Models that ask for Python of their own (`trust_remote_code`): refused by name, before a weight is read.

Without this a library may ask on the terminal whether to run it. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from engine.errors import ModelError
from kernels.files import read_json

CONFIGURATIONS: Final = "*config.json"
"""Of the model, its generation, tokenizer, processor and what that consists of: all that a library reads for
a class that it makes."""
KEY: Final = "auto_map"


def refuse_own_code(folder: Path) -> None:
    """ModelError where a configuration in `folder` itself names code, at whatever depth, or is no object."""
    for path in sorted(folder.glob(CONFIGURATIONS)):
        try:
            document = read_json(path)
        except ValueError as error:
            raise ModelError(f"{path} is not JSON: {error}", fix="copy or download the file again") from error
        if not isinstance(document, dict):
            raise ModelError(f"{path} holds no JSON object", fix="copy or download the file again")
        if named := _named(document):
            raise own_code(path, f"{KEY} {named}")


def own_code(path: Path, where: str) -> ModelError:
    """The error for a file that names it; `where` in words."""
    return ModelError(
        f"{path} asks for code of its own ({where}), which is not run",
        fix="take the model in the layout of the library, without trust_remote_code",
    )


def _named(document: dict[str, Any]) -> Any:
    """What the first `auto_map` that is not empty says, or None."""
    left: list[Any] = [document]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if named := value.get(KEY):
                return named
            left += value.values()
        elif isinstance(value, list):
            left += value
    return None
