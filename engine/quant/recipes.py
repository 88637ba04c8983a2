"""Which layers of a model family may be 8-bit and which stay as they are, as data beside the family.

A table names every nn.Linear of the family, and the parameters that no surgery may touch. It is checked
against the loaded module, strictly both ways: a pattern that matches nothing and a layer that no pattern
names are errors, so that a new version of the library shows here and not as a silently worse video.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from dataclasses import dataclass

from torch import nn

from engine.errors import RetakeError


class SurgeryError(RetakeError):
    """A module does not have what a modification expects to find in it; nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A layer or parameter that keeps its precision. `pattern` as in fnmatch, on the dotted name."""

    pattern: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantTable:
    """The layers of a model family. Names as `module.named_modules()` and `named_parameters()` give them."""

    family: str
    blocks: str  # the list of repeated blocks
    num_first_kept: int  # whole blocks at the beginning that stay
    num_last_kept: int  # and at the end
    quantized: tuple[str, ...]  # patterns of linear layers below one block
    one_product: tuple[tuple[str, ...], ...]  # of these, layers that the fast forward multiplies at once
    kept_in_block: tuple[Kept, ...]
    kept: tuple[Kept, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A table applied to a module: every nn.Linear is in exactly one of the two."""

    quantized: tuple[str, ...]
    kept: tuple[str, ...]


_WAN_QUANTIZED = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "attn2.to_q",
    "attn2.to_out.0",
    "ffn.net.0.proj",
    "ffn.net.2",
)
_WAN_ONE_PRODUCT = (("attn1.to_q", "attn1.to_k", "attn1.to_v"),)
_WAN_KEPT_IN_BLOCK = (
    Kept(pattern="attn2.to_k", why="text keys: computed once per prompt, so 8 bits save nothing"),
    Kept(pattern="attn2.to_v", why="text values: computed once per prompt, so 8 bits save nothing"),
    Kept(pattern="scale_shift_table", why="modulation multiplies every channel of every token"),
)
_WAN_KEPT = (
    Kept(pattern="patch_embedding.*", why="the first layer that sees the latents"),
    Kept(pattern="condition_embedder.time_embedder.*", why="the timestep decides the size of the step"),
    Kept(pattern="condition_embedder.time_proj*", why="all modulation comes out of it"),
    Kept(pattern="condition_embedder.text_embedder.*", why="computed once per prompt"),
    Kept(pattern="proj_out*", why="the final projection is the velocity itself"),
    Kept(pattern="scale_shift_table", why="modulation of the final norm"),
)

WAN = QuantTable(
    family="wan",
    blocks="blocks",
    num_first_kept=1,
    num_last_kept=1,
    quantized=_WAN_QUANTIZED,
    one_product=_WAN_ONE_PRODUCT,
    kept_in_block=_WAN_KEPT_IN_BLOCK,
    kept=_WAN_KEPT,
)
WAN_IMAGE = QuantTable(
    family="wan_image",
    blocks="blocks",
    num_first_kept=1,
    num_last_kept=1,
    quantized=_WAN_QUANTIZED,
    one_product=_WAN_ONE_PRODUCT,
    kept_in_block=(
        *_WAN_KEPT_IN_BLOCK,
        Kept(pattern="attn2.add_?_proj", why="image keys and values: computed once per prompt"),
    ),
    kept=(
        *_WAN_KEPT,
        Kept(pattern="condition_embedder.image_embedder.*", why="computed once per prompt"),
    ),
)
_COSMOS3_QUANTIZED = (
    "self_attn.add_q_proj",
    "self_attn.add_k_proj",
    "self_attn.add_v_proj",
    "self_attn.to_add_out",
    "mlp_moe_gen.up_proj",
    "mlp_moe_gen.down_proj",
)
_COSMOS3_QKV = ("self_attn.add_q_proj", "self_attn.add_k_proj", "self_attn.add_v_proj")
_COSMOS3_KEPT_IN_BLOCK = tuple(
    Kept(pattern=pattern, why="understanding tower: computed once per prompt, so 8 bits save nothing")
    for pattern in ("self_attn.to_q", "self_attn.to_k", "self_attn.to_v", "self_attn.to_out", "mlp.*_proj")
)
COSMOS3_EDGE = QuantTable(
    family="cosmos3_edge",
    blocks="layers",
    num_first_kept=1,
    num_last_kept=1,
    quantized=_COSMOS3_QUANTIZED,
    one_product=(_COSMOS3_QKV,),
    kept_in_block=_COSMOS3_KEPT_IN_BLOCK,
    kept=(
        Kept(pattern="proj_in*", why="the first layer that sees the latents"),
        Kept(pattern="time_embedder.*", why="the timestep decides the size of the step"),
        Kept(pattern="proj_out*", why="the final projection is the velocity itself"),
        Kept(pattern="lm_head*", why="makes words, which no step asks for"),
    ),
)
COSMOS3 = dataclasses.replace(
    COSMOS3_EDGE,
    family="cosmos3",
    quantized=(*_COSMOS3_QUANTIZED, "mlp_moe_gen.gate_proj"),
    one_product=(_COSMOS3_QKV, ("mlp_moe_gen.gate_proj", "mlp_moe_gen.up_proj")),
)
TABLES = {table.family: table for table in (WAN, WAN_IMAGE, COSMOS3, COSMOS3_EDGE)}


def wan_table(module: nn.Module) -> QuantTable:
    """The table of a Wan transformer: with or without image conditioning by CLIP, as its weights say."""
    has_image = any(name.endswith("attn2.add_k_proj") for name, _ in module.named_modules())
    return WAN_IMAGE if has_image else WAN


def cosmos3_table(module: nn.Module) -> QuantTable:
    """The table of a Cosmos3 transformer: with or without a gate in its feed-forward layers."""
    gated = any(name.endswith("mlp_moe_gen.gate_proj") for name, _ in module.named_modules())
    return COSMOS3 if gated else COSMOS3_EDGE


def resolve(table: QuantTable, module: nn.Module) -> Resolved:
    """Sorts every nn.Linear of the module; raises SurgeryError where table and module disagree."""
    linears = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    names = {*linears, *(name for name, _ in module.named_parameters())}
    blocks = sorted(
        {name.split(".")[1] for name in names if name.startswith(f"{table.blocks}.")}, key=lambda i: int(i)
    )
    problems = _unmatched(table, names, blocks)
    quantized, kept = [], []
    for name in linears:
        index, local = _split(table, name)
        wanted = index is not None and any(fnmatch.fnmatchcase(local, p) for p in table.quantized)
        rules = table.kept if index is None else table.kept_in_block
        spared = any(fnmatch.fnmatchcase(local, rule.pattern) for rule in rules)
        if wanted == spared:
            problems.append(f"{name} is named {'twice' if wanted else 'nowhere'}")
        elif wanted and index is not None and _is_inner(table, index, len(blocks)):
            quantized.append(name)
        else:
            kept.append(name)
    if problems:
        raise SurgeryError(
            f"the table {table.family!r} and {type(module).__name__} disagree: {'; '.join(problems)}"
            f"\n  {len(linears)} linear layers, of which it would quantize {len(quantized)}",
            fix="correct the table in engine/quant/recipes.py or use the table of this family: "
            + ", ".join(sorted(TABLES)),
        )
    return Resolved(quantized=tuple(quantized), kept=tuple(kept))


def _split(table: QuantTable, name: str) -> tuple[int | None, str]:
    """(index of the block, name below it), or (None, name) outside of the blocks."""
    if not name.startswith(f"{table.blocks}."):
        return None, name
    _, index, local = name.split(".", 2)
    return int(index), local


def _is_inner(table: QuantTable, index: int, num_blocks: int) -> bool:
    return table.num_first_kept <= index < num_blocks - table.num_last_kept


def _unmatched(table: QuantTable, names: set[str], blocks: list[str]) -> list[str]:
    """Patterns that match nothing, those of a block in every block."""
    if not blocks:
        return [f"there are no {table.blocks!r}"]
    outside = [name for name in names if _split(table, name)[0] is None]
    found = [
        f"{rule.pattern!r} matches nothing"
        for rule in table.kept
        if not any(fnmatch.fnmatchcase(name, rule.pattern) for name in outside)
    ]
    patterns = [*table.quantized, *(rule.pattern for rule in table.kept_in_block)]
    local: dict[int, list[str]] = {int(index): [] for index in blocks}
    for name in names:
        index, rest = _split(table, name)
        if index is not None:
            local[index].append(rest)
    for pattern in patterns:
        missing = [
            str(i)
            for i, rests in local.items()
            if not any(fnmatch.fnmatchcase(rest, pattern) for rest in rests)
        ]
        if missing:
            found.append(f"{pattern!r} matches nothing in {table.blocks} {', '.join(missing)}")
    return found
