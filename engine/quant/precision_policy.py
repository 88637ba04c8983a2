"""Which layers of one checkpoint may be 8-bit, and at which timesteps: what a calibration decided, as a file.

The file lies beside the model and is bound to it by a digest. It lists permissions: a layer, a format and a
range of timesteps (1000 is noise, 0 is clean) that no schedule changes; whatever it does not list is bf16.
Knows no kernel. "8-bit with skip" is no format here: no kernel of ours both rounds to 8 bits and skips.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import nn

from engine.errors import ModelError
from engine.quant.recipes import QuantRecipe, SurgeryError, resolve
from kernels.files import parse_json, read_json

SCHEMA = 2
"""2: FP8 layers are measured with the sums of their GEMM, and full accumulation is a format of its own."""
FILE = "precision_policy.json"
AUTO, OFF = "auto", "off"
LINEAR, ATTENTION = "linear", "attention"
KINDS = (LINEAR, ATTENTION)
BF16 = "bf16"
NEXT_BEST = {"fp8": ("fp8_full_accum",)}
"""What a linear layer gets that may not have the format of the rest, before it stays bf16."""
SAMPLE_BYTES = 65536
"""Of each tensor in the digest: training moves every tensor, and a start stays fast with weights of 60 GB."""

Range = tuple[float, float]
"""Timesteps from the first to the second, both included."""
Curve = tuple[tuple[float, float], ...]
"""(timestep, all change of a trajectory from noise to it), the noisiest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEntry:
    """`layer` may be in `format` at timesteps from `low` to `high`, both included."""

    layer: str
    kind: str  # "linear" or "attention"
    format: str  # "fp8" or "int8"; of a linear layer "fp8_full_accum" too, of attention "sparse" and "sol"
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a calibration decided. `source` is the digest of the weights that it was measured on; `changes`
    has a curve for each rule by which steps may be left out."""

    source: str
    producer: str
    entries: tuple[PolicyEntry, ...]
    changes: Mapping[str, Curve] = field(default_factory=dict)

    def other_linears(self, module: nn.Module, recipe: QuantRecipe, format: str) -> dict[str, str]:
        """What the layers get that the recipe would quantize and that may not be `format`, as the rest is:
        the next best format, or "bf16".

        Layers that share a GEMM share its format: one that may not be 8-bit keeps the others with it.
        SurgeryError for a policy that names other layers.
        """
        names = resolve(recipe, module).quantized
        entries = [entry for entry in self.entries if entry.kind == LINEAR]
        _refuse_unknown({entry.layer for entry in entries}.difference(names))
        admitted = {name: {entry.format for entry in entries if entry.layer == name} for name in names}
        others = {}
        for name in names:
            common = set.intersection(*(admitted[other] for other in _together(recipe, name)))
            wanted = (format, *NEXT_BEST.get(format, ()))
            others[name] = next((one for one in wanted if one in common), BF16)
        return {name: found for name, found in others.items() if found != format}

    def attention_ranges(self, layers: Iterable[str], format: str) -> tuple[tuple[Range, ...], ...]:
        """For each of `layers` the timesteps at which its attention may be `format`."""
        known = list(layers)
        entries = [entry for entry in self.entries if entry.kind == ATTENTION]
        _refuse_unknown({entry.layer for entry in entries}.difference(known))
        return tuple(
            tuple((e.low, e.high) for e in entries if e.layer == layer and e.format == format)
            for layer in known
        )

    def save(self, path: Path) -> None:
        lines = ",\n".join(f"  {json.dumps(asdict(entry))}" for entry in self.entries)
        head = f'{{\n "schema": {SCHEMA},\n "source": {json.dumps(self.source)},\n'
        head += f' "producer": {json.dumps(self.producer)},\n'
        curves = ",\n".join(f"  {json.dumps(rule)}: {json.dumps(c)}" for rule, c in self.changes.items())
        head += f' "changes": {{\n{curves}\n }},\n "entries": [\n' if curves else ' "entries": [\n'
        path.write_text(f"{head}{lines}\n ]\n}}\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Reads what `save` wrote; raises ModelError for anything else."""
        try:
            document = read_json(path)
            if document["schema"] != SCHEMA:
                raise ValueError(f"schema {document['schema']}, this version reads {SCHEMA}")
            entries = tuple(PolicyEntry(**entry) for entry in document["entries"])
            if wrong := {entry.kind for entry in entries}.difference(KINDS):
                raise ValueError(f"kinds {sorted(wrong)}, known are {', '.join(KINDS)}")
            changes = {rule: _curve(points) for rule, points in document.get("changes", {}).items()}
            return cls(
                source=document["source"], producer=document["producer"], entries=entries, changes=changes
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"policy {path} is not usable: {error}",
                fix='calibrate again, or set denoise.policy = "off"',
            ) from error


def _curve(points: Iterable[tuple[float, float]]) -> Curve:
    """ValueError for what is no curve."""
    curve = tuple((float(timestep), float(total)) for timestep, total in points)
    times, totals = [point[0] for point in curve], [point[1] for point in curve]
    falls = all(after < before for before, after in itertools.pairwise(times))
    rises = all(after >= before for before, after in itertools.pairwise(totals))
    if not (curve and falls and rises and all(map(math.isfinite, (*times, *totals)))):
        raise ValueError("changes are timesteps that fall, each with a total that does not")
    return curve


def find(folder: Path | None, wanted: str) -> tuple[Policy | None, str]:
    """(the policy to follow, a note). `wanted`: "auto" looks in `folder`, a generator's; "off"; or a path.

    One that was measured on other weights is passed over with a note, or refused (ModelError) when it was
    named.
    """
    if wanted == OFF:
        return None, OFF
    path = Path(wanted) if wanted != AUTO else None if folder is None else folder / FILE
    if path is None or (wanted == AUTO and not path.is_file()):
        return None, "none beside the model"
    policy = Policy.load(path)
    found = None if folder is None else checkpoint_digest(folder)
    if policy.source == found:
        return policy, f"followed: {policy.producer}"
    problem = f"it was measured on weights {policy.source[:16]}, the model has {str(found)[:16]}"
    if wanted != AUTO:
        raise ModelError(
            f"policy {path} is of another model: {problem}",
            fix='calibrate this model, or set denoise.policy = "off"',
        )
    return None, f"ignored: {problem}"


def checkpoint_digest(folder: Path, part: str = "transformer") -> str:
    """sha256 over names, shapes and the first bytes of every tensor of a part of a generator's folder: the
    same whatever dtype it is loaded with."""
    files = sorted((folder / part).glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} has no {part}/*.safetensors", fix="copy or download it again")
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            header = file.read(int.from_bytes(file.read(8), "little"))
            data = file.tell()
            total.update(header)
            tensors = {name: t for name, t in parse_json(header).items() if name != "__metadata__"}
            for _, tensor in sorted(tensors.items()):
                first, last = tensor["data_offsets"]
                file.seek(data + first)
                total.update(file.read(min(SAMPLE_BYTES, last - first)))
    return total.hexdigest()


def _together(recipe: QuantRecipe, name: str) -> tuple[str, ...]:
    """The layers that share a GEMM with this one, itself included."""
    for locals_ in recipe.merged:
        for local in locals_:
            if name.endswith(f".{local}"):
                block = name.removesuffix(local)
                return tuple(f"{block}{other}" for other in locals_)
    return (name,)


def _refuse_unknown(layers: Iterable[str]) -> None:
    if unknown := sorted(layers):
        raise SurgeryError(
            f"the policy names layers that the model does not have: {', '.join(unknown)}",
            fix="calibrate this model again",
        )
