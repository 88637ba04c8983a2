"""Model folders: where one is, which family loads it, what it lacks, how many bytes its weights have.

Reads configs and safetensors headers, never a weight, and imports no torch: a wrong folder is refused in
milliseconds. A family is a room in engine/generators or engine/critics, which says itself what it loads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from engine import plugins
from engine.build import hub
from engine.errors import ModelError
from engine.machine.own_code import own_code, refuse_own_code
from engine.settings.config import BUNDLED
from engine.settings.model_names import added_model, added_models
from engine.settings.notation import is_hub_name
from engine.weights.header import SUFFIXES
from engine.weights.linked import linked_file, require_unchanged
from engine.words import command_line, counted
from kernels.files import parse_json, read_json

GENERATORS = "engine.generators"
CRITICS = "engine.critics"
MODELS = Path(__file__).parents[1] / "demo" / "models"

# The parts of a pipeline that run, unless a family names its own as PARTS. Others (an image encoder, a second
# transformer) are checked where model_index.json names a class for them, but for what a family calls UNUSED.
PIPELINE_PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
WEIGHTLESS_PARTS = {
    "tokenizer": "tokenizer_config.json",
    "text_tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
LIBRARIES = ("diffusers", "transformers")
MOST_NAMED = 3
"""Of the models in a folder that may have been meant."""
TITLES = {"generator": "a video generator", "critic": "a vision-language critic"}
CRITIC_LAYOUT = "config.json, *.safetensors, tokenizer.json, tokenizer_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A complete model folder. `family` names the room of `package` that loads it."""

    path: Path
    package: str
    family: str

    @property
    def lends(self) -> bool:
        """Whether a critic of the same folder can read by the generator's own text tower."""
        return bool(getattr(plugins.load(self.package, self.family), "LENDS", False))

    @property
    def has_states(self) -> bool:
        """Whether takes of this family can keep hidden states."""
        return bool(getattr(plugins.load(self.package, self.family), "STATES", False))

    def loader(self) -> ModuleType:
        """The module whose `load` reads the folder, such as generators/wan/generator.py."""
        kind = self.package.rpartition(".")[2].removesuffix("s")
        return plugins.load(f"{self.package}.{self.family}", kind)


def find_generator(name: str) -> ModelFolder:
    """`name` is "demo" or a diffusers folder. Raises ModelError: no folder, unknown family, part missing."""
    path = _folder(name, "generator")
    _require_kind(path, "generator")
    index = _read_json(path / "model_index.json", TITLES["generator"], _layout(PIPELINE_PARTS))
    class_name = str(index.get("_class_name", ""))
    families = _families(GENERATORS, "PIPELINES")
    family = next((families[start] for start in families if class_name.startswith(start)), None)
    if family is None:
        raise _unknown_family(path, "model_index.json _class_name", class_name, families)
    declared: Any = plugins.load(GENERATORS, family)
    parts = getattr(declared, "PARTS", PIPELINE_PARTS)
    listed = [
        key
        for key, value in index.items()
        if isinstance(value, list)
        and value[:1] not in ([None], [])
        and key not in getattr(declared, "UNUSED", ())
    ]
    own = [key for key in listed if index[key][0] not in LIBRARIES]
    if own:
        raise own_code(path / "model_index.json", f"{own[0]} of {index[own[0]][0]!r}")
    for part in dict.fromkeys([*parts, *listed]):
        _require_part(path, part, parts)
        refuse_own_code(path / part)
    require_unchanged(path)
    return ModelFolder(path=path, package=GENERATORS, family=family)


def find_critic(name: str) -> ModelFolder:
    """`name` is "demo" or a transformers folder. Raises ModelError as `find_generator` does."""
    path = _folder(name, "critic")
    _require_kind(path, "critic")
    config = _read_json(path / "config.json", TITLES["critic"], CRITIC_LAYOUT)
    model_type = str(config.get("model_type", ""))
    families = _families(CRITICS, "MODEL_TYPES")
    if model_type not in families:
        for family in plugins.names(CRITICS):
            if reason := getattr(plugins.load(CRITICS, family), "REFUSED", {}).get(model_type):
                raise ModelError(f"{path} cannot be a critic: {reason}", fix="name another one with --critic")
        raise _unknown_family(path, "config.json model_type", model_type, families)
    refuse_own_code(path)
    _require_weights(path, "the model", CRITIC_LAYOUT)
    if not _has_words(path):
        raise _missing(path, "the tokenizer (tokenizer.json)", CRITIC_LAYOUT)
    return ModelFolder(path=path, package=CRITICS, family=families[model_type])


def finder(path: Path) -> Callable[[str], ModelFolder]:
    """The one of `find_generator` and `find_critic` that the folder is for. ModelError for a folder of
    neither kind, which says what else it is."""
    if (path / "model_index.json").is_file():
        return find_generator
    config = path / "config.json"
    if not config.is_file():
        weights = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
        fix = "give the folder that holds one of the two, or a weight file"
        if weights:
            fix = f"take its weight files one by one: {_checks(path / weights[0])}"
        elif near := [*_models_in(path, "generator"), *_models_in(path, "critic")]:
            fix = f"take the models in it one by one: {_checks(near[0])}"
        raise ModelError(
            f"{path} is no model folder: it has neither model_index.json, as a video generator has, nor "
            "config.json, as a critic has",
            fix=fix,
        )
    part = _read_json(config, "a model", CRITIC_LAYOUT).get("_class_name")
    if part is not None:
        raise ModelError(
            f"{path} is one part of a video generator ({part})",
            fix="give the folder above it, which has model_index.json, or lay the part over a model with "
            "`retake models add`",
        )
    return find_critic


def weight_elements(folder: Path) -> int:
    """Number of parameters in every safetensors file under `folder`, from the headers alone."""
    return sum(_elements(path) for path in sorted(folder.rglob("*.safetensors")))


def _elements(path: Path) -> int:
    """A safetensors file starts with the header's length (8 bytes, little endian) and the header in JSON."""
    try:
        with path.open("rb") as file:
            header = parse_json(file.read(int.from_bytes(file.read(8), "little")))
        return sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise ModelError(
            f"{path} ({path.stat().st_size} bytes) is not a safetensors file: {error}",
            fix="copy or download the file again",
        ) from error


def _families(package: str, declaration: str) -> dict[str, str]:
    """What the families of `package` say they load -> the family; one that declares nothing loads nothing."""
    return {
        loaded: family
        for family in plugins.names(package)
        for loaded in getattr(plugins.load(package, family), declaration, ())
    }


def _folder(name: str, what: str) -> Path:
    path = MODELS / what if name == BUNDLED else Path(name)
    if path.is_dir():
        return path
    if (added := added_model(name)) is not None:
        return added
    if path.is_file():
        raise ModelError(
            f"{what} {name!r} is a file, not a model folder",
            fix=f"see what it is and how it is used: {_checks(path)}"
            if what == "generator"
            else "give the folder that it belongs to: a critic is a folder of transformers",
        )
    if is_hub_name(name):
        found = hub.cached(name)
        if found is not None:
            return found
        raise ModelError(
            f"{what} {name!r} is no folder here, and the hub's cache {hub.cache()} does not have it whole",
            fix=f"download it, {hub.describe(name)}:\n  {hub.command(name)}\n"
            "or repeat with --download, or give a model folder",
        )
    if name == BUNDLED:
        raise ModelError(
            f"the bundled {what} is missing from this installation ({path} is not a folder)",
            fix=f"reinstall from a complete checkout, or give a folder with --{what}",
        )
    names = [folder.name for folder in added_models()]
    nor = f", nor one of the models that were added: {', '.join(names)}" if names else ""
    raise ModelError(
        f"{what} {name!r} is neither {BUNDLED!r} nor a folder{nor}",
        fix=f"give --{what} {BUNDLED} or a model folder",
    )


def _checks(path: Path) -> str:
    return command_line("retake", "models", "check", path)


def _require_kind(path: Path, what: str) -> None:
    """ModelError for a folder of the other kind, a part of a generator, or a folder around models."""
    if (path / ("model_index.json" if what == "generator" else "config.json")).is_file():
        return
    (other,) = TITLES.keys() - {what}
    if _is_model(path, other):
        raise ModelError(
            f"{path} is {TITLES[other]}, not {TITLES[what]}", fix=f"give it with --{other}, not --{what}"
        )
    if what == "generator" and (path.parent / "model_index.json").is_file():
        raise ModelError(
            f"{path} is one part of a model, not a video generator",
            fix=f"give the folder above it: {command_line('--generator', path.parent)}",
        )
    if near := _models_in(path, what):
        meant = ", or ".join(command_line(f"--{what}", folder) for folder in near)
        raise ModelError(f"{path} is not {TITLES[what]}, but holds some", fix=f"name one: {meant}")


def _is_model(folder: Path, what: str) -> bool:
    """By the names of its files alone."""
    if what == "generator":
        return (folder / "model_index.json").is_file()
    return (folder / "config.json").is_file() and _has_words(folder)


def _has_words(folder: Path) -> bool:
    return any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json"))


def _models_in(folder: Path, what: str) -> list[Path]:
    """Directly, or as the hub's cache keeps them."""
    found = (one for pattern in ("*", "snapshots/*") for one in sorted(folder.glob(pattern)))
    return [one for one in found if _is_model(one, what)][:MOST_NAMED]


def _read_json(path: Path, what: str, layout: str) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(
            f"{path.parent} has no {path.name}, so it is not {what}", fix=f"give a folder with: {layout}"
        )
    try:
        data = read_json(path)
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}", fix="copy or download the file again") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} holds no JSON object", fix="copy or download the file again")
    return data


def _require_part(path: Path, part: str, parts: Sequence[str]) -> None:
    folder, layout = path / part, _layout(parts)
    if not folder.is_dir():
        raise _missing(path, part, layout)
    if part in WEIGHTLESS_PARTS:
        if not (folder / WEIGHTLESS_PARTS[part]).is_file():
            raise _missing(path, f"{part}/{WEIGHTLESS_PARTS[part]}", layout)
    elif (folder / "config.json").is_file():
        _require_weights(folder, part, layout)
    elif part in parts:
        raise _missing(path, f"{part}/config.json", layout)


def _layout(parts: Sequence[str]) -> str:
    with_weights = "/, ".join(part for part in parts if part not in WEIGHTLESS_PARTS)
    others = "/, ".join(part for part in parts if part in WEIGHTLESS_PARTS)
    return f"model_index.json, {with_weights}/ (each config.json and *.safetensors), {others}/"


def _require_weights(folder: Path, part: str, layout: str) -> None:
    """Linked weights, or at least one safetensors file and every shard that an index names, which may lie in
    other folders."""
    if linked_file(folder) is not None:
        return
    named = [
        name
        for index in sorted(folder.glob("*.safetensors.index*.json"))
        for name in _shards(index, part, layout)
    ]
    shards = dict.fromkeys(sorted(named))
    absent = [
        name
        for name in shards
        if Path(name).is_absolute() or ".." in Path(name).parts or not (folder / name).is_file()
    ]
    if len(absent) == len(shards) and not any(folder.glob("*.safetensors")):
        _refuse_pickles(folder, part)
        raise _missing(folder, f"the weights of {part} (*.safetensors)", layout)
    if absent:
        raise _missing(
            folder, f"{len(absent)} of {counted(len(shards), 'shard')}, the first {absent[0]}", layout
        )


def _shards(index: Path, part: str, layout: str) -> list[str]:
    """The file of each tensor."""
    found = _read_json(index, part, layout).get("weight_map", {})
    names: list[Any] = list(found.values()) if isinstance(found, dict) else [None]
    if not all(isinstance(name, str) for name in names):
        raise ModelError(f"{index} names no files of tensors", fix="copy or download the file again")
    return names


def _refuse_pickles(folder: Path, part: str) -> None:
    if pickles := sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES):
        raise ModelError(
            f"{folder} has the weights of {part} as pickles alone ({pickles[0]}), which can run any code; "
            "none is read",
            fix="take the same model as .safetensors",
        )


def _missing(path: Path, part: str, layout: str) -> ModelError:
    name = hub.name_of(path)
    complete = "complete the folder" if name is None else f"complete the download:\n  {hub.command(name)}\n"
    return ModelError(f"{path} lacks {part}", fix=f"{complete}; its layout is: {layout}")


def _unknown_family(path: Path, where: str, value: str, families: Mapping[str, str]) -> ModelError:
    return ModelError(
        f"{path}: {where} is {value!r}, which no family loads; known: {', '.join(sorted(families))}",
        fix=f"give a folder of one of the families: {', '.join(sorted(set(families.values())))}",
    )
