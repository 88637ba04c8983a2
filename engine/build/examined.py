"""What a file or folder is, what it lacks, and how to go on: `retake models check`. Reads no weight.

Every fault is told with its fix instead of raised, so that a check says all that it can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.build import hub
from engine.build.added import OPTIONS, missing_parts
from engine.build.model_folders import GENERATORS, finder
from engine.build.weight_files import family_module, is_lora, look_at
from engine.denoise.lora import read_lora
from engine.denoise.lora_alpha import PEFT_FILE
from engine.errors import ModelError, RetakeError
from engine.settings.config import BUNDLED
from engine.settings.model_names import added_model
from engine.settings.notation import is_hub_name
from engine.weights.header import SUFFIXES, read_header
from engine.weights.linked import read_links, require_unchanged
from engine.words import command_line, counted
from kernels.files import read_json

Digest = Callable[[Path], str]
_GIVE = "give a weight file, a model folder, or a name of `retake models list`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    problem: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """`kind`: "transformer", "vae", "text_encoder", "LoRA", "generator folder", "critic folder" or "unknown".

    `weights`: type -> number of elements, as the headers state them. `use`: the command to go on with.
    """

    path: Path
    kind: str
    what: str
    stored: str = ""
    weights: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    use: str | None = None

    @property
    def ok(self) -> bool:
        return not self.faults


def examine(path: Path, digest: Digest) -> Examined:
    """ModelError where there is nothing at `path`, which may be the name of an added model too, or of one in
    the hub's cache. `digest`: for files that were linked with theirs."""
    if not path.exists():
        name = str(path)
        found = hub.cached(name) if is_hub_name(name) else added_model(name)
        if found is None:
            raise _nothing(name)
        path = found
    try:
        return _folder(path, digest) if path.is_dir() else _file(path)
    except (RetakeError, OSError) as error:
        return Examined(path=path, kind="unknown", what="nothing that can be used", faults=(_fault(error),))


def _nothing(name: str) -> ModelError:
    if name == BUNDLED:
        return ModelError(f"{name!r} names the bundled models, which need no check", fix=_GIVE)
    if not is_hub_name(name):
        return ModelError(f"{name} does not exist, nor was a model added as that", fix=_GIVE)
    return ModelError(
        f"{name} is no file or folder here, and the hub's cache {hub.cache()} does not have it whole",
        fix=f"download it, {hub.describe(name)}:\n  {hub.command(name)}\nor {_GIVE}",
    )


def _file(path: Path) -> Examined:
    header = read_header(path)
    if is_lora(header):
        return _lora(path, header.types)
    file = look_at(path)
    reader = family_module(file.family, "single_file")
    faults: list[Fault] = []
    if reader is not None:
        try:
            reader.require_whole(file.contents, file.part)
        except RetakeError as error:
            faults.append(_fault(error))
    use = None
    if file.part.kind not in OPTIONS:
        words: list[object] = ["retake", "models", "add", path, "NAME"]
        for part, near in missing_parts(file, {}).items():
            words += [OPTIONS[part], near[0] if near else part.upper()]
        use = command_line(*words)
    return Examined(
        path=path,
        kind=file.part.kind,
        what=file.part.title,
        stored=file.format,
        weights=header.types,
        faults=tuple(faults),
        use=use,
    )


def _lora(path: Path, types: Mapping[str, int]) -> Examined:
    found = read_lora(path)
    ranks = Counter(update.down.shape[0] for update in found.updates.values())
    rank = f" of rank {', '.join(str(rank) for rank in sorted(ranks))}" if ranks else ""
    steps = (
        ""
        if found.grid is None or not found.grid.timesteps
        else f", {counted(len(found.grid.timesteps), 'step')}"
    )
    others = counted(len(found.deltas), "other weight or bias", "other weights and biases")
    changes = f"{counted(len(found.updates), 'layer')}{rank}, {others}"
    return Examined(
        path=path,
        kind="LoRA",
        what=f"LoRA that changes {changes}{steps}",
        stored=", ".join(types),
        weights=types,
        use=command_line("retake", "run", "CLIPS", "--generator", "MODEL", "--lora", path),
    )


def _folder(path: Path, digest: Digest) -> Examined:
    if (adapter := path / PEFT_FILE).is_file() and not (path / "config.json").is_file():
        return _lora(adapter, read_header(adapter).types)
    found = finder(path)(str(path))
    role = "generator" if found.package == GENERATORS else "critic"
    faults: list[Fault] = []
    try:
        require_unchanged(path, digest)
        family: Any = found.loader()
        family.load(path, device="cpu", dtype="bf16", with_weights=False)
    except (RetakeError, OSError) as error:
        faults.append(_fault(error))
    weights: Counter[str] = Counter()
    for file in sorted(path.rglob("*")):
        if file.suffix in SUFFIXES and file.is_file():
            weights.update(read_header(file).types)
    links = read_links(path)
    return Examined(
        path=path,
        kind=f"{role} folder",
        what=f"{role} of the family {found.family}" + (f", of {len(links)} links" if links else ""),
        stored=_quantization(path),
        weights=dict(weights.most_common()),
        faults=tuple(faults),
        use=command_line("retake", "run", "CLIPS", f"--{role}", path),
    )


def _quantization(path: Path) -> str:
    """As config.json of a critic states it."""
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    stated = config.get("quantization_config")
    return (
        f"quantized: {stated.get('quant_method', 'unknown')}" if isinstance(stated, dict) else "not quantized"
    )


def _fault(error: RetakeError | OSError) -> Fault:
    if isinstance(error, RetakeError):
        return Fault(problem=error.problem, fix=error.fix)
    return Fault(problem=str(error), fix="check the path and its rights")
