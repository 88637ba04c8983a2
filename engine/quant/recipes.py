"""Which layers of a model family may be 8-bit and which stay as they are: a recipe, data beside the family.

A recipe names every nn.Linear of the family, and the parameters that no surgery may touch. It is checked
against the loaded module, strictly both ways: a pattern that matches nothing and a layer that no pattern
names are errors, so that a new version of the library shows here and not as a silently worse video.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from torch import nn

from engine.errors import RetakeError
from engine.words import counted


class SurgeryError(RetakeError):
    """A module does not have what a modification expects to find in it; nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A layer or parameter that keeps its precision. `pattern` as in fnmatch, on the dotted name."""

    pattern: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantRecipe:
    """The layers of a model family. Names as `module.named_modules()` and `named_parameters()` give them."""

    family: str
    blocks: str  # the list of repeated blocks
    num_first_kept: int  # whole blocks at the beginning that stay
    num_last_kept: int  # and at the end
    quantized: tuple[str, ...]  # patterns of linear layers below one block
    merged: tuple[tuple[str, ...], ...]  # of these, layers that the fast forward runs as one GEMM
    kept_in_block: tuple[Kept, ...]
    kept: tuple[Kept, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A recipe applied to a module: every nn.Linear is in exactly one of the two."""

    quantized: tuple[str, ...]
    kept: tuple[str, ...]


def resolve(recipe: QuantRecipe, module: nn.Module) -> Resolved:
    """Sorts every nn.Linear of the module; raises SurgeryError where recipe and module disagree."""
    linears = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    names = {*linears, *(name for name, _ in module.named_parameters())}
    blocks = sorted(
        {name.split(".")[1] for name in names if name.startswith(f"{recipe.blocks}.")}, key=lambda i: int(i)
    )
    problems = _unmatched(recipe, names, blocks)
    quantized, kept = [], []
    for name in linears:
        index, local = _split(recipe, name)
        wanted = index is not None and any(fnmatch.fnmatchcase(local, p) for p in recipe.quantized)
        rules = recipe.kept if index is None else recipe.kept_in_block
        spared = any(fnmatch.fnmatchcase(local, rule.pattern) for rule in rules)
        if wanted == spared:
            problems.append(f"{name} is named {'twice' if wanted else 'nowhere'}")
        elif wanted and index is not None and _is_inner(recipe, index, len(blocks)):
            quantized.append(name)
        else:
            kept.append(name)
    if problems:
        raise SurgeryError(
            f"the recipe {recipe.family!r} and {type(module).__name__} disagree: {'; '.join(problems)}"
            f"\n  {counted(len(linears), 'linear layer')}, of which it would quantize {len(quantized)}",
            fix="correct the recipe in engine/generators/*/recipes.py, or use that of this model's family",
        )
    return Resolved(quantized=tuple(quantized), kept=tuple(kept))


def _split(recipe: QuantRecipe, name: str) -> tuple[int | None, str]:
    """(index of the block, name below it), or (None, name) outside of the blocks."""
    if not name.startswith(f"{recipe.blocks}."):
        return None, name
    _, index, local = name.split(".", 2)
    return int(index), local


def _is_inner(recipe: QuantRecipe, index: int, num_blocks: int) -> bool:
    return recipe.num_first_kept <= index < num_blocks - recipe.num_last_kept


def _unmatched(recipe: QuantRecipe, names: set[str], blocks: list[str]) -> list[str]:
    """Patterns that match nothing, those of a block in every block."""
    if not blocks:
        return [f"there are no {recipe.blocks!r}"]
    outside = [name for name in names if _split(recipe, name)[0] is None]
    found = [
        f"{rule.pattern!r} matches nothing"
        for rule in recipe.kept
        if not any(fnmatch.fnmatchcase(name, rule.pattern) for name in outside)
    ]
    patterns = [*recipe.quantized, *(rule.pattern for rule in recipe.kept_in_block)]
    local: dict[int, list[str]] = {int(index): [] for index in blocks}
    for name in names:
        index, rest = _split(recipe, name)
        if index is not None:
            local[index].append(rest)
    for pattern in patterns:
        missing = [
            str(i)
            for i, rests in local.items()
            if not any(fnmatch.fnmatchcase(rest, pattern) for rest in rests)
        ]
        if missing:
            found.append(f"{pattern!r} matches nothing in {recipe.blocks} {', '.join(missing)}")
    return found
