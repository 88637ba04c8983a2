"""What is exported, as data: tensors of named dimensions, shapes to build for, recipes, tolerances, gates.

Imports no torch and knows no target. Invariant: a spec that exists is consistent: every named dimension has a
positive size in every profile, and every recipe it speaks of exists. Tensors at the interface are fp32 (or
int64); the exported graph casts inside, so that no caller depends on the recipe. What `once` hands to the
steps keeps the model's type: no caller looks into it.
B batch . Z latent channels . F latent frames . h, w latent pixels . L text tokens . D text width
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.errors import RetakeError, nearest
from export.forms import ATTENTIONS, NO_FORM, PLAIN, Form

if TYPE_CHECKING:
    from torch import Tensor, nn

DTYPES = ("fp32", "fp16", "bf16", "int64")
"""Names of element types in specs and records."""


class ExportError(RetakeError):
    """An export, its inputs or what was built cannot be used as asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the weights, activations and attention of a subject are stored and multiplied.

    linear: "none", "fp8" (W8A8), "int8" (W8A8, SmoothQuant), "int4" (weights alone), "nvfp4" (W4A4).
    """

    name: str
    linear: str
    fp8_attention: bool
    dtype: str
    """Element type of what is not quantized; a target may be asked for another one."""
    min_compute_capability: int
    runs_in_onnxruntime: bool
    layout: int = 1
    """Of its graph. 1: a product for each linear; 2: one for all linears that read the same tensor. It stands
    in the key of what is built of a graph, so that none of another layout is taken for it."""

    @property
    def merges(self) -> bool:
        return self.layout == 2

    @property
    def key_options(self) -> dict[str, int]:
        """Left out where 1, so that what was built before there were layouts keeps its key."""
        return {} if self.layout == 1 else {"layout": self.layout}


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="bf16",
            linear="none",
            fp8_attention=False,
            dtype="bf16",
            min_compute_capability=80,
            runs_in_onnxruntime=False,  # its CPU provider has no bf16 convolution
        ),
        Recipe(
            name="fp16",
            linear="none",
            fp8_attention=False,
            dtype="fp16",
            min_compute_capability=80,
            runs_in_onnxruntime=True,
        ),
        Recipe(
            name="fp8",
            linear="fp8",
            fp8_attention=False,
            dtype="fp16",
            min_compute_capability=89,
            runs_in_onnxruntime=True,
            layout=2,
        ),
        Recipe(
            name="fp8-attention",
            linear="fp8",
            fp8_attention=True,
            dtype="fp16",
            min_compute_capability=89,
            runs_in_onnxruntime=True,
            layout=2,
        ),
        Recipe(
            name="int8",
            linear="int8",
            fp8_attention=False,
            dtype="fp16",
            min_compute_capability=80,
            runs_in_onnxruntime=True,
            layout=2,
        ),
        Recipe(
            name="int4",
            linear="int4",
            fp8_attention=False,
            dtype="fp16",
            min_compute_capability=80,
            runs_in_onnxruntime=True,
        ),
        Recipe(
            name="nvfp4",
            linear="nvfp4",
            fp8_attention=False,
            dtype="fp16",
            min_compute_capability=120,
            runs_in_onnxruntime=False,  # the dynamic FP4 quantizer is an operator of TensorRT alone
        ),
    )
}


def recipe_of(name: str) -> Recipe:
    """The recipe of that name; ExportError names the known ones."""
    if name not in RECIPES:
        raise ExportError(
            f"{name!r} is not a quantization recipe{nearest(name, RECIPES)}",
            fix=f"use one of: {', '.join(RECIPES)}",
        )
    return RECIPES[name]


def require_attention(name: str) -> None:
    """ExportError for an attention that no artifact has."""
    if name not in ATTENTIONS:
        why = NO_FORM.get(name)
        problem = f"no artifact has attention {name!r}" + (f": {why}" if why else "")
        raise ExportError(problem, fix=f"use one of: {', '.join(ATTENTIONS)}")


def require_capability(recipe: Recipe, compute_capability: int) -> None:
    """ExportError when GPUs of `compute_capability` (89 for 8.9) cannot execute the recipe."""
    if compute_capability < recipe.min_compute_capability:
        fitting = [r.name for r in RECIPES.values() if r.min_compute_capability <= compute_capability]
        problem = (
            f"recipe {recipe.name} needs compute capability {recipe.min_compute_capability / 10}, "
            f"not {compute_capability / 10}"
        )
        fix = f"use one of: {', '.join(fitting)}" if fitting else "use a GPU of capability 8.0 or more"
        raise ExportError(problem, fix=fix)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output. A dimension is a fixed size or the name of one that the profiles give."""

    name: str
    dims: tuple[str | int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ExportError(
                f"tensor {self.name}: dtype {self.dtype!r}", fix=f"use one of: {', '.join(DTYPES)}"
            )
        fixed = [dim for dim in self.dims if isinstance(dim, int) and dim < 1]
        if fixed or not all(self.dims):
            raise ExportError(f"tensor {self.name}: dimensions {self.dims}", fix="give sizes of at least 1")

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in self.dims)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One static shape: the size of every named dimension (so minimum, optimum and maximum coincide)."""

    name: str
    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """The built form may differ from the eager module by this: norm(difference) / norm(eager), and cosine."""

    relative: float
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What the layer table of a built engine must show; None leaves a number free."""

    num_fused_attention: int
    fused_attention_dtype: str
    """Element type of its inputs: "fp8", "fp16" or "bf16"."""
    num_fp8_gemm: int | None
    num_int8_gemm: int | None
    merged_qkv: bool
    max_activation_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSpec:
    """A subject's interface, the shapes to build it for, and how far each recipe may be off."""

    subject: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[Profile, ...]
    tolerance: Mapping[str, Tolerance]
    """By recipe; a recipe without an entry is not offered for the subject."""
    weights_digest: str
    form: Form = PLAIN
    once: ExportSpec | None = None
    """What is computed once a take, by a second graph over the same weights; its outputs are inputs here."""

    def __post_init__(self) -> None:
        names = [tensor.name for tensor in (*self.inputs, *self.outputs)]
        if len(set(names)) != len(names):
            raise ExportError(f"{self.subject}: tensor names repeat: {names}", fix="name each tensor once")
        if not self.profiles:
            raise ExportError(f"{self.subject}: no profile", fix="give at least one shape")
        labels = [profile.name for profile in self.profiles]
        if len(set(labels)) != len(labels):
            raise ExportError(f"{self.subject}: profiles {labels} repeat", fix="name each profile once")
        for profile in self.profiles:
            self._check(profile)
        for recipe in self.tolerance:
            recipe_of(recipe)

    def _check(self, profile: Profile) -> None:
        where = f"{self.subject}, profile {profile.name}"
        wanted, given = set(self.named_dims), set(profile.sizes)
        if wanted != given:
            problem = f"{where}: sizes for {sorted(given)}, dimensions are {sorted(wanted)}"
            raise ExportError(problem, fix="give exactly one size for each named dimension")
        bad = {name: size for name, size in profile.sizes.items() if size < 1}
        if bad:
            raise ExportError(f"{where}: sizes {bad}", fix="give sizes of at least 1")

    @property
    def named_dims(self) -> tuple[str, ...]:
        """Named dimensions in order of first appearance."""
        dims = [dim for tensor in (*self.inputs, *self.outputs) for dim in tensor.dims]
        return tuple(dict.fromkeys(dim for dim in dims if isinstance(dim, str)))

    @property
    def varying_dims(self) -> tuple[str, ...]:
        """Named dimensions that do not have the same size in every profile: dynamic in the graph."""
        return tuple(dim for dim in self.named_dims if len({p.sizes[dim] for p in self.profiles}) > 1)

    def input(self, name: str) -> TensorSpec:
        found = {tensor.name: tensor for tensor in self.inputs}
        assert name in found, f"{name} is not among {sorted(found)}"
        return found[name]

    def tolerance_of(self, recipe: str) -> Tolerance:
        """ExportError when the subject does not offer the recipe."""
        recipe_of(recipe)
        if recipe not in self.tolerance:
            problem = f"{self.subject} cannot be exported as {recipe}"
            raise ExportError(problem, fix=f"use one of: {', '.join(self.tolerance)}")
        return self.tolerance[recipe]

    def record(self) -> dict[str, Any]:
        """As JSON values, complete: `spec_from_record` gives an equal spec."""

        def tensor(spec: TensorSpec) -> dict[str, Any]:
            return {"name": spec.name, "dims": list(spec.dims), "dtype": spec.dtype}

        return {
            "subject": self.subject,
            "inputs": [tensor(spec) for spec in self.inputs],
            "outputs": [tensor(spec) for spec in self.outputs],
            "profiles": [{"name": p.name, "sizes": dict(p.sizes)} for p in self.profiles],
            "tolerance": {
                name: {"relative": t.relative, "cosine": t.cosine} for name, t in self.tolerance.items()
            },
            "weights_digest": self.weights_digest,
            # left out where plain, so that what was built before there were forms keeps its key
            **({} if self.form.is_plain else {"form": self.form.record()}),
            **({} if self.once is None else {"once": self.once.record()}),
        }

    def require_form(self, asked: Form) -> None:
        """ExportError that names both forms unless this is the form that is asked for."""
        if self.form != asked:
            raise ExportError(
                f"{self.subject} was built as: {self.form}; asked is: {asked}",
                fix="export the form that is asked for; --attention and the model's prefix decide it",
            )


def spec_from_record(record: Mapping[str, Any]) -> ExportSpec:
    """The inverse of `ExportSpec.record`; ExportError when a key is missing or unknown."""
    try:
        return ExportSpec(
            subject=record["subject"],
            inputs=tuple(TensorSpec(**{**t, "dims": tuple(t["dims"])}) for t in record["inputs"]),
            outputs=tuple(TensorSpec(**{**t, "dims": tuple(t["dims"])}) for t in record["outputs"]),
            profiles=tuple(Profile(**p) for p in record["profiles"]),
            tolerance={name: Tolerance(**t) for name, t in record["tolerance"].items()},
            weights_digest=record["weights_digest"],
            form=Form(**record.get("form", {})),
            once=spec_from_record(record["once"]) if "once" in record else None,
        )
    except (KeyError, TypeError) as error:
        raise ExportError(f"the record of a spec is not readable: {error!r}", fix="export again") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearGroup:
    """Linears that read the same tensor, so that one quantizer of it serves all.

    `shared` is the module path where that quantizer goes; None: the group is one linear that owns it.
    """

    name: str
    linears: tuple[str, ...]
    in_features: int
    shared: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A module ready for export (float weights; quantizing changes it in place) and what describes it."""

    module: nn.Module
    spec: ExportSpec
    inputs: tuple[Tensor, ...]
    """An example of each input, at the first profile; on `meta` when the module is."""
    gate: Callable[[str, int], Gate]
    """(recipe, compute capability) -> what the built engine must show."""
    groups: tuple[LinearGroup, ...] = ()
    attentions: tuple[str, ...] = ()
    """Module paths of the attention cores, which take (q, k, v, mask) as [B, A, N, D]."""
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    """Of a module on `meta`: buffers that are in no checkpoint, by name."""
    once: Subject | None = None
    """Of the spec's `once`, over the same transformer."""
