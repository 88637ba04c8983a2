"""Retake's own GPU kernels: attention, linear and fused element-wise operations.

Imports no kernel on purpose: other libraries probe a package of this name, and importing it must stay free of
side effects. Reach an implementation through its module, for example `kernels.dispatch`.

Hugging Face's package `kernels` has the same import name, and transformers and diffusers use it where it is
installed. Where this one stands in front of it, or in its place, the other's modules are found by `__path__`
and its names (`get_kernel`, ...) by `__getattr__`. Where it is not installed nothing of that is here.
"""

import importlib
import importlib.metadata
import re
from pathlib import Path
from typing import Any

_OTHER = "kernels"
"""The distribution whose import name this package shares; ours is retake-engine."""


def _other_files() -> list[Path]:
    """The modules of the other package, from its own record; none where it is not installed."""
    try:
        listed = importlib.metadata.files(_OTHER) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    own = [file for file in listed if file.parts[0] == "kernels" and file.suffix in (".py", ".so", ".pyd")]
    modules = [file for file in own if len(file.parts) == 2 or file.parts[2:] == ("__init__.py",)]
    return [Path(str(file.locate())) for file in modules]


_OTHER_FILES = _other_files()
_OTHER_FOLDERS = sorted({str(file.parent) for file in _OTHER_FILES if file.parent.name == "kernels"})
__path__ += [folder for folder in _OTHER_FOLDERS if Path(folder).resolve() != Path(__file__).parent.resolve()]


def __getattr__(name: str) -> Any:
    """What the other package offers under this name; AttributeError where there is no such thing."""
    if _OTHER_FILES and name == "__version__":
        return importlib.metadata.version(_OTHER)
    if not name.startswith("_"):
        for file in _OTHER_FILES:
            module = file.parent.name if file.name == "__init__.py" else file.name.partition(".")[0]
            if module == "kernels" or not re.search(rb"\b%s\b" % name.encode(), file.read_bytes()):
                continue
            found = getattr(importlib.import_module(f"kernels.{module}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module 'kernels' has no attribute {name!r}")
