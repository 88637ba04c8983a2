"""What a single weight file is: which part of which model, in which format, or a LoRA. Reads headers alone.

Families are asked in turn, by `identify` in their `files.py`; one without has no files of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

from engine import plugins
from engine.build.model_folders import GENERATORS
from engine.errors import ModelError
from engine.weights.contents import Contents, contents
from engine.weights.header import GGUF, Header, read_header
from engine.weights.parts import Part
from engine.words import command_line, counted

FILES: Final = "files"
_LORA = re.compile(r"\.(lora_A|lora_B|lora_down|lora_up|diff|diff_b|dora_scale|hada_\w+|lokr_\w+)(\.|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """`part` of a model of `family`."""

    path: Path
    family: str
    part: Part
    contents: Contents

    @property
    def format(self) -> str:
        """How its weights are stored, and what is done with them, in words."""
        found, header = self.contents.quantization, self.contents.header
        words = "; its own tokenizer is not read" if self.contents.has_words else ""
        if found == "none":
            return f"{header.format}, {', '.join(header.types)}{words}"
        used = "dequantized once, into the precision of the run"
        if self.contents.num_input_scales:
            used += f"; its {counted(self.contents.num_input_scales, 'scale')} of inputs are not used"
        return f"{header.format}, {found}: {used}{words}"


def is_lora(header: Header) -> bool:
    """Whether its tensors are changes of weights rather than weights."""
    return any(_LORA.search(name) for name in header.tensors)


def look_at(path: Path) -> WeightFile:
    """ModelError for a file that is no part of a model that is known, or of none that can be run."""
    header = read_header(path)
    if is_lora(header):
        raise ModelError(
            f"{path} is a LoRA, no model",
            fix=f"name it beside a model: {command_line('--lora', path)}, as often as you like",
        )
    found = contents(header)
    for family in plugins.names(GENERATORS):
        module = family_module(family, FILES)
        if module is not None and (part := module.identify(found.shapes)) is not None:
            if part.not_run is not None:
                raise ModelError(
                    f"{path} is a {part.title}: {part.not_run}, which no run can use",
                    fix=f"take one of: {module.SUPPORTED}",
                )
            return WeightFile(path=path, family=family, part=part, contents=found)
    architecture = header.metadata.get("general.architecture", "") if header.format == GGUF else ""
    fix = "give a file of one of: " + "; ".join(supported())
    if (path.parent / "config.json").is_file():
        fix = f"give the folder that it belongs to, {path.parent}; or {fix}"
    elif architecture:
        fix += ". A critic is a folder of transformers, and is not read as GGUF"
    raise ModelError(
        f"{path} ({counted(len(header.tensors), 'tensor')}, the first "
        f"{min(header.tensors, default='none')}) is no part "
        f"of a model that is known{f': its architecture is {architecture!r}' if architecture else ''}",
        fix=fix,
    )


def supported() -> list[str]:
    """What the families read from single files, in words."""
    modules = (family_module(family, FILES) for family in plugins.names(GENERATORS))
    return [str(module.SUPPORTED) for module in modules if module is not None]


def family_module(family: str, name: str) -> ModuleType | None:
    """A module of a family of generators; None where it has none of that name."""
    package = f"{GENERATORS}.{family}"
    return plugins.load(package, name) if name in plugins.names(package) else None
