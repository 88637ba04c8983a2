"""Kernels of an engine with a product for each linear, and with one for all linears that read one tensor.

Both graphs of a recipe are planned for each card, and its own table is counted; nothing is executed. Weights
are random and scales made up: what the planner makes of a graph depends on its operators and shapes alone.
Two blocks of Wan2.1-1.3B at its full width and video.

    python -m bench.perf.product_layout --out bench/results/product_layout.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import WanTransformer3DModel

from bench.files import write_whole
from bench.perf import export_build
from bench.perf.document import check, headed
from engine.words import counted
from export.spec import RECIPES, Profile, Subject
from export.subjects import wan_dit
from export.targets import onnx
from export.trt.builder import BuildOptions, run_builder
from export.trt.layer_table import parse, summary
from export.trt.library import find

MODEL: Final = export_build.cut(export_build.SMALL, 2)
EIGHT_BITS: Final = ("fp8", "fp8-attention", "int8")
CAPABILITIES: Final = (89, 120)
LAYOUTS: Final = {"each": 1, "one": 2}
"""What a row calls them -> Recipe.layout."""


def subject_of(model: export_build.Model, profile: Profile) -> Subject:
    """Of random weights, in fp16 but for what the library keeps in fp32."""
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(**model.config()).eval()
    islands = set(transformer._keep_in_fp32_modules)
    for name, parameter in transformer.named_parameters():
        if islands.isdisjoint(name.split(".")):
            parameter.data = parameter.data.half()
    return wan_dit.prepare(transformer, profiles=(profile,))


def planned(
    model: export_build.Model, profile: Profile, recipe: str, layout: int, capabilities: Sequence[int]
) -> dict[int, dict[str, Any]]:
    """Compute capability -> the summary of the layer table of that graph."""
    made = subject_of(model, profile)
    scales = export_build.made_up_scales(made)
    shapes = {tensor.name: tensor.shape(profile.sizes) for tensor in made.spec.inputs}
    found = {}
    with tempfile.TemporaryDirectory() as name, in_layout(recipe, layout):
        graph = Path(name) / "graph"
        onnx.build(made, recipe, graph, scales=scales)
        for capability in capabilities:
            work = Path(name) / str(capability)
            work.mkdir()
            built = run_builder(
                find(export_build.RTX),
                graph / onnx.MODEL,
                work,
                compute_capability=capability,
                profiles=[shapes],
                options=BuildOptions(),
                timing_cache=None,
                on_progress=None,
            )
            with built.log.open(encoding="utf-8", errors="replace") as lines:
                found[capability] = summary(parse(lines), 0)
    return found


@contextmanager
def in_layout(recipe: str, layout: int) -> Iterator[None]:
    """The recipe with another layout than its own, to compare with."""
    own = RECIPES[recipe]
    RECIPES[recipe] = replace(own, layout=layout)
    try:
        yield
    finally:
        RECIPES[recipe] = own


def measure(
    model: export_build.Model = MODEL,
    profile: Profile = export_build.PROFILE,
    recipes: Sequence[str] = EIGHT_BITS,
    capabilities: Sequence[int] = CAPABILITIES,
) -> list[dict[str, Any]]:
    """A row for each recipe and card."""
    rows = []
    for recipe in recipes:
        sides = {
            side: planned(model, profile, recipe, layout, capabilities) for side, layout in LAYOUTS.items()
        }
        for capability in capabilities:
            tables = {side: of[capability] for side, of in sides.items()}
            rows.append(
                {
                    "name": f"{recipe} for {capability / 10}",
                    "recipe": recipe,
                    "capability": capability,
                    "num_layers": model.num_layers,
                    "kernels": {side: table["rows"] for side, table in tables.items()},
                    "products": {side: _in_eight_bits(table) for side, table in tables.items()},
                    "activation_bytes": {side: table["activation_bytes"] for side, table in tables.items()},
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def _in_eight_bits(table: Mapping[str, Any]) -> int:
    products: Mapping[str, int] = table["matrix_products"]
    return sum(number for kind, number in products.items() if kind.endswith(("fp8", "int8")))


def document(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The result file."""
    settings = {
        "library": f"{export_build.RTX} {find(export_build.RTX).version}",
        "model": MODEL.name,
        "shape": export_build.SHAPE,
    }
    fewer = [row["kernels"]["one"] < row["kernels"]["each"] for row in rows]
    equal = len({row["products"]["one"] for row in rows}) == 1
    checks = [
        check(
            "one product takes fewer kernels",
            all(fewer),
            f"in {sum(fewer)} of {counted(len(rows), 'engine')}",
        ),
        check("as many 8-bit products for every card", equal, rows[0]["products"]["one"]),
    ]
    command = "python -m bench.perf.product_layout"
    return headed("product_layout", command, settings, checks) | {"rows": list(rows)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.perf.product_layout", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    text = json.dumps(document(measure()), indent=1, allow_nan=False)
    write_whole(options.out, f"{text}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
