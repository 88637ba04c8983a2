"""A model of several files under one name: a folder of links, with the configurations that the files lack.

Nothing is converted or copied but a tokenizer's few files that a family writes; what each link leads to is
digested. Invariant: a folder that stands under its name was read as a run would read it, without its weights.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from engine.build import model_folders
from engine.build.beside import parts_near
from engine.build.weight_files import FILES, WeightFile, family_module, look_at
from engine.errors import ConfigError, ModelError, RetakeError
from engine.settings.config import BUNDLED
from engine.settings.environment import models_folder
from engine.settings.model_names import added_model, is_name
from engine.settings.notation import is_hub_name
from engine.weights.linked import LINKS, WEIGHTS, Link, linked_parts, links_document
from engine.words import command_line, counted

Digest = Callable[[Path], str]
OPTIONS: Final = {
    "transformer_2": "--transformer-2",
    "vae": "--vae",
    "text_encoder": "--text-encoder",
    "tokenizer": "--tokenizer",
}
"""Part -> the option that names it."""
FIRST, SECOND = "high", "low"
"""How the names of two experts' files say which is for the noisy steps, and which for the last ones."""
TOKENIZER_FILES: Final = ("tokenizer.json", "spiece.model", "tokenizer_config.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    folder: Path
    kind: str
    """ "generator" or "critic"."""
    links: Mapping[str, Link]
    parts: Mapping[str, str]
    """Part -> what it is and in which format, in words."""


def add(path: Path, name: str, parts: Mapping[str, Path], digest: Digest) -> Added:
    """`path`: the transformer's file, or a folder of a whole model; `parts`: what is laid beside or over it.

    ConfigError for a name that cannot be used, ModelError for what does not fit together, before a weight is
    read.
    """
    _require_free(name)
    if not path.exists():
        raise ModelError(f"{path} does not exist", fix="give a weight file or a model folder")
    for kind, given in parts.items():
        if not given.exists():
            raise ModelError(
                f"{OPTIONS[kind]} {given} does not exist",
                fix="give the file of that part, or the folder of a library",
            )
    file = None if path.is_dir() else _transformer(path)
    if file is not None:
        if lacking := missing_parts(file, parts):
            raise _lacks(file, name, lacking)
        _require_experts(file, parts)
    with _in_the_making(name) as folder:
        if file is None:
            kind, told = _whole_folder(folder, path, parts)
        else:
            kind, told = "generator", _of_files(folder, file, parts)
        links = {
            place.relative_to(folder).as_posix(): Link(
                target=str(place.readlink()), num_bytes=place.stat().st_size, sha256=digest(place)
            )
            for place in sorted(folder.rglob("*"))
            if place.is_symlink()
        }
        document = links_document(links, told)
        (folder / LINKS).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        _read_without_weights(folder, kind)
    return Added(folder=models_folder() / name, kind=kind, links=links, parts=told)


def require_added(name: str) -> Path:
    """The folder of links; ConfigError where there is none."""
    folder = added_model(name)
    if folder is None or not (folder / LINKS).is_file():
        raise ConfigError(f"no model was added as {name!r}", fix="see what there is: retake models list")
    return folder


def remove(name: str) -> None:
    """The folder of links; the files that they lead to stay. ConfigError where there is none."""
    shutil.rmtree(require_added(name))


def missing_parts(file: WeightFile, given: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Parts that must be named beside a transformer -> files near it that would fit."""
    wanted = _needed(file)
    near = parts_near(file.path, file.family, {_kind(part): fits for part, fits in wanted.items()})
    near["tokenizer"] = [folder for folder in _tokenizers_near(file.path) if "tokenizer" not in given]
    return {part: near.get(_kind(part), []) for part in (*wanted, "tokenizer") if part not in given}


def _needed(file: WeightFile) -> dict[str, dict[str, Any]]:
    """Part beside a transformer -> what its configuration must say."""
    module = family_module(file.family, FILES)
    assert module is not None
    needed: dict[str, dict[str, Any]] = module.fits(file.part.config)
    return needed


def _kind(part: str) -> str:
    """What a part is: the second transformer is one too."""
    return part.removesuffix("_2")


def _require_experts(file: WeightFile, parts: Mapping[str, Path]) -> None:
    """That two of one model are given where there are two, and not the one for the other, as far as their
    names say."""
    second = parts.get("transformer_2")
    if second is None:
        return
    if "transformer_2" not in _needed(file):
        raise ConfigError(f"{file.part.title} has one transformer", fix="leave --transformer-2 out")
    words = [re.split(r"[^a-z]+", path.name.lower()) for path in (file.path, second)]
    if SECOND in words[0] or FIRST in words[1] or second.resolve() == file.path.resolve():
        raise ConfigError(
            f"{file.path.name} would be the expert for the noisy steps, {second.name} that for the last ones",
            fix="give the file of high noise first, and that of low noise with --transformer-2",
        )
    if second.is_file() and (other := look_at(second).part).config != file.part.config:
        raise ModelError(
            f"{second} is a {other.title}, and {file.path} a {file.part.title}",
            fix="give the two experts of one model",
        )


def _require_free(name: str) -> None:
    if not is_name(name) or name == BUNDLED or is_hub_name(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a model",
            fix="give a word of letters, digits, dots, dashes and underscores, not a path",
        )
    if added_model(name) is not None:
        raise ConfigError(
            f"a model was added as {name!r} already",
            fix="give another name, or remove its links first: "
            + command_line("retake", "models", "remove", name),
        )


@contextmanager
def _in_the_making(name: str) -> Iterator[Path]:
    """A folder that gets its name when all went well; errors tell that name, not the one meanwhile."""
    home = models_folder()
    home.mkdir(parents=True, exist_ok=True)
    folder = home / f".{name}.{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        yield folder
        folder.rename(home / name)
    except RetakeError as error:
        problem, fix = (text.replace(str(folder), name) for text in (error.problem, error.fix))
        raise type(error)(problem, fix=fix) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _transformer(path: Path) -> WeightFile:
    file = look_at(path)
    if file.part.kind in OPTIONS:
        raise ModelError(
            f"{path} is a {file.part.title}, one part of a model",
            fix=f"give the transformer's file first, and this one with {OPTIONS[file.part.kind]}",
        )
    return file


def _of_files(folder: Path, file: WeightFile, parts: Mapping[str, Path]) -> dict[str, str]:
    module = family_module(file.family, FILES)
    assert module is not None
    told = {file.part.kind: _link_file(folder, file.part.kind, file)}
    for kind, path in parts.items():
        told[kind] = _link_part(folder, kind, path)
    for name, values in module.documents(file.part.config).items():
        place = folder / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return told


def _whole_folder(folder: Path, path: Path, parts: Mapping[str, Path]) -> tuple[str, dict[str, str]]:
    found = model_folders.finder(path)(str(path))
    is_pipeline = found.package == model_folders.GENERATORS
    if parts and not is_pipeline:
        raise ConfigError(f"{path} is a critic, which has no such parts", fix="leave the options out")
    told = {kind: what for kind, what in linked_parts(path).items() if kind not in parts}
    for place in sorted(path.rglob("*")):
        inner = place.relative_to(path)
        if (
            place.is_file()
            and inner.parts[0] not in (*parts, LINKS)  # which is written for this folder
            and not any(p.startswith(".") for p in inner.parts)
        ):
            _link(folder / inner, place)
    for kind, given in parts.items():
        told[kind] = _link_part(folder, kind, given)
    return ("generator" if is_pipeline else "critic"), {"folder": f"of the family {found.family}", **told}


def _link_part(folder: Path, kind: str, path: Path) -> str:
    """A file, or the folder of a library."""
    if kind == "tokenizer":
        _require_tokenizer(path)
    if kind == "tokenizer" or path.is_dir():
        return _link_folder(folder / kind, path)
    file = look_at(path)
    if file.part.kind != _kind(kind):
        raise ModelError(
            f"{path} is a {file.part.title}, not the {kind.replace('_', ' ')}",
            fix=f"give {OPTIONS[kind]} that part of this model",
        )
    return _link_file(folder, kind, file)


def _link_file(folder: Path, kind: str, file: WeightFile) -> str:
    place = folder / kind
    place.mkdir()
    config = json.dumps(dict(file.part.config), indent=2) + "\n"
    (place / "config.json").write_text(config, encoding="utf-8")
    (name,) = (name for name in WEIGHTS if Path(name).suffix == f".{file.contents.header.format}")
    _link(place / name, file.path)
    return f"{file.part.title} ({file.format})"


def _require_tokenizer(path: Path) -> None:
    *words, config = TOKENIZER_FILES
    home = path if path.is_dir() else path.parent
    lacking = [] if any((home / name).is_file() for name in words) else [" or ".join(words)]
    lacking += [] if (home / config).is_file() else [config]
    if not path.is_dir() and path.name not in TOKENIZER_FILES:
        problem = f"{path} is no tokenizer"
    elif lacking:
        problem = f"{home} is no tokenizer of a library: it lacks {' and '.join(lacking)}"
    else:
        return
    raise ModelError(
        problem, fix="give --tokenizer the folder tokenizer/ of the model, or tokenizer.json in it"
    )


def _link_folder(place: Path, path: Path) -> str:
    home = path if path.is_dir() else path.parent
    files = [one for one in sorted(home.iterdir()) if one.is_file()]
    if not path.is_dir():
        files = [one for one in files if one.name in TOKENIZER_FILES]
    if not files:
        raise ModelError(f"{path} holds no file", fix="give the folder of that part, as a library saves it")
    for file in files:
        _link(place / file.name, file)
    return f"folder of {counted(len(files), 'file')}"


def _link(place: Path, target: Path) -> None:
    """What another added model has of its own goes with that model, and so it is copied."""
    place.parent.mkdir(parents=True, exist_ok=True)
    found = target.resolve()
    if found.is_relative_to(models_folder().resolve()):
        shutil.copyfile(found, place)
    else:
        place.symlink_to(found)


def _read_without_weights(folder: Path, kind: str) -> None:
    """As a run does before it reads weights: configurations, and the tensors that the headers state."""
    find = model_folders.find_generator if kind == "generator" else model_folders.find_critic
    family: Any = find(str(folder)).loader()
    family.load(folder, device="cpu", dtype="bf16", with_weights=False)


def _lacks(file: WeightFile, name: str, lacking: Mapping[str, list[Path]]) -> ModelError:
    module = family_module(file.family, FILES)
    assert module is not None
    words = [(OPTIONS[part], near[0] if near else part.upper()) for part, near in lacking.items()]
    unknown = [f"{part.upper()}: {module.HOW_TO_GET[part]}" for part, near in lacking.items() if not near]
    names = ", ".join(part.replace("_", " ") for part in lacking)
    command = command_line("retake", "models", "add", file.path, name, *chain(*words))
    return ModelError(
        f"{file.path} is a transformer alone; beside it a model needs: {names}",
        fix="\n  ".join((command, *unknown)),
    )


def _tokenizers_near(path: Path) -> Iterator[Path]:
    for home in (path.absolute().parent, path.absolute().parent.parent):
        folder = home / "tokenizer"
        if any((folder / name).is_file() for name in TOKENIZER_FILES):
            yield folder
