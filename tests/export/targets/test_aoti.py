"""AOTInductor packages: keys and bad input in milliseconds; one compilation on the processor, marked slow."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny_export
import torch
from torch import Tensor, nn

from engine.quant.linears import QuantizedLinear
from export.artifacts.device_identity import Machine
from export.artifacts.store import Artifact, Store
from export.spec import ExportError, ExportSpec, Gate, Profile, Subject, TensorSpec
from export.targets import aoti, aoti_weights

SPEC = ExportSpec(
    subject="thing",
    inputs=(
        TensorSpec(name="x", dims=("B", 8), dtype="fp32"),
        TensorSpec(name="scale", dims=("B",), dtype="fp32"),
    ),
    outputs=(TensorSpec(name="y", dims=("B", 4), dtype="fp32"),),
    profiles=(Profile(name="one", sizes={"B": 1}), Profile(name="three", sizes={"B": 3})),
    tolerance={},
    weights_digest="sha256:thing",
)
FAST = {"aot_inductor.compile_wrapper_opt_level": "O0"}
"""Halves the time of the C++ compiler; the wrapper only calls the kernels."""


class Thing(nn.Module):
    """One linear layer, a table in the module, and one that tracing makes for each batch."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)
        self.register_buffer("table", torch.linspace(1, 2, 64).reshape(16, 4).t(), persistent=False)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        made = torch.tensor([float(len(x))] * 16)
        return torch.nn.functional.gelu(self.linear(x)) * scale[:, None] + self.table @ made


class OnOneDevice(Thing):
    """Without the tensor that tracing makes, which lies in main memory."""

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return torch.nn.functional.gelu(self.linear(x)) * scale[:, None] + self.table[:, 0]


class Branching(Thing):
    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return super().forward(x, scale) if float(scale.sum()) > 0 else x[:, :4]


def no_gate(recipe: str, capability: int) -> Gate:
    raise AssertionError("packages have no gate")


def subject(module: nn.Module | None = None, spec: ExportSpec = SPEC) -> Subject:
    torch.manual_seed(0)
    made = (Thing() if module is None else module).eval()
    return Subject(module=made, spec=spec, inputs=(torch.zeros(1, 8), torch.zeros(1)), gate=no_gate)


def key(**changes: Any) -> str:
    arguments: dict[str, Any] = {"recipe": "bf16", "scales": None, "loras": (), "settings": {}}
    return aoti.key_of(subject(), **{**arguments, **changes}).digest


def test_the_key_holds_all_that_changes_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        key(),
        key(recipe="fp8"),
        key(scales="s"),
        key(loras=(("l", 1.0),)),
        key(settings={"max_autotune": True}),
    }
    monkeypatch.setattr(torch, "__version__", "9.9")
    assert len(keys | {key()}) == 6


def test_a_processor_package_does_not_depend_on_the_gpu_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Machine(gpu="RTX 4090", compute_capability=89, driver="580", cpu="x86_64 avx2")
    monkeypatch.setattr(aoti, "present_machine", lambda index=0: card)
    before = key()
    monkeypatch.setattr(aoti, "present_machine", lambda index=0: dataclasses.replace(card, driver="590"))
    assert key() == before
    monkeypatch.setattr(aoti, "present_machine", lambda index=0: dataclasses.replace(card, cpu="x86_64"))
    assert key() != before
    assert aoti._machine(torch.device("cuda")).gpu == "RTX 4090"


@pytest.mark.parametrize("recipe", ["fp8", "int8"])
def test_our_kernels_take_the_inner_blocks(recipe: str) -> None:
    made = aoti.quantize(tiny_export.subject("fp32", num_layers=4), recipe)
    formats = {
        name: part.format for name, part in made.module.named_modules() if isinstance(part, QuantizedLinear)
    }
    assert len(formats) == 2 * 8 and set(formats.values()) == {recipe}
    plain = tiny_export.subject("fp32", num_layers=4)
    (exact, found) = (one.module(*one.inputs) for one in (plain, made))
    assert 0 < tiny_export.relative(found, exact) < 0.1
    torch.export.export(made.module, made.inputs, strict=False)  # the kernels do not hinder the tracing


def test_half_precision_is_left_as_it_is() -> None:
    made = aoti.quantize(tiny_export.subject("bf16"), "bf16")
    assert not any(isinstance(part, QuantizedLinear) for part in made.module.modules())


@pytest.mark.parametrize("recipe", ["int4", "nvfp4", "fp8-attention"])
def test_recipes_without_a_kernel_are_refused(recipe: str) -> None:
    with pytest.raises(ExportError, match=f"no kernels for recipe {recipe}"):
        aoti.quantize(tiny_export.subject("fp32"), recipe)


def test_what_cannot_be_traced_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="thing cannot be traced for one"):
        aoti.build(subject(Branching()), "bf16", Store(tmp_path))
    assert Store(tmp_path).list() == [] and not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_a_disk_without_space_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aoti, "CODE_BYTES", 10**15)
    with pytest.raises(ExportError, match="of free disk space"):
        aoti.build(subject(), "bf16", Store(tmp_path))


def stored(tmp_path: Path, **changes: Any) -> Artifact:
    """An artifact with files that are no packages: for what is checked before they are opened."""

    def make(folder: Path) -> Mapping[str, Any]:
        for profile in SPEC.profiles:
            (folder / aoti.file_name(profile)).write_bytes(b"package")
        return {"device": "cpu"}

    made = aoti.key_of(subject(), recipe="bf16", scales=None, loras=(), settings={})
    return Store(tmp_path).store(dataclasses.replace(made, **changes), make, need_bytes=1)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({"library": "2.0"}, {"device": "cpu"}, "built with aoti 2.0, installed is"),
        ({}, {"device": "cuda"}, "was compiled for cpu, not for cuda"),
        ({}, {"device": "cpu", "weights": "sha256:new"}, "of weights sha256:thing"),
        ({"target": "tensorrt"}, {"device": "cpu"}, "is a tensorrt artifact, not a package"),
        (
            {"machine": Machine(gpu=None, compute_capability=None, driver=None, cpu="other")},
            {"device": "cpu"},
            "built on cpu other",
        ),
    ],
)
def test_a_foreign_package_is_not_opened(
    change: dict[str, Any], arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        aoti.load_module(stored(tmp_path, **change).folder, **arguments)


LOAD = """
import sys, torch
from pathlib import Path
from export.targets import aoti
package = aoti.load_module(Path(sys.argv[1]), "cpu")
y = package({"x": torch.ones(3, 8), "scale": torch.ones(3)})["y"]
assert "torch._inductor.graph" not in sys.modules, "the compiler was loaded"
print(*y.flatten().tolist())
"""


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV: no message"),
        ("raise RuntimeError('no such symbol')", "failed: RuntimeError: no such symbol"),
    ],
)
def test_a_package_that_torch_cannot_load_is_an_error_and_not_stored(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_nothing(
        subject: Any, profile: Any, path: Path, *rest: Any
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        path.write_bytes(b"package")
        return {"compile": 1.0}, {"linear.weight": subject.module.linear.weight}

    monkeypatch.setattr(aoti, "_compile", compile_nothing)
    monkeypatch.setattr(aoti, "TRY_TO_LOAD", code)
    with pytest.raises(ExportError, match=f"cannot load it: the process that tried {message}"):
        aoti.build(subject(), "bf16", Store(tmp_path))
    assert not list(tmp_path.rglob("*.pt2"))
    monkeypatch.setattr(aoti, "TRY_TO_LOAD", "pass")
    made = aoti.build(subject(), "bf16", Store(tmp_path))
    assert set(made.files) == {"one.pt2", "three.pt2", "weights.safetensors"}
    weights = aoti_weights.load(made.file("weights.safetensors"), torch.device("cpu"))
    assert torch.equal(weights["linear.weight"], subject().module.linear.weight) and len(weights) == 1


def compiler(tmp_path: Path, options: str) -> tuple[None, str]:
    """A C++ compiler that always has these options, as inductor's setting."""
    script = tmp_path / "compiler"
    script.write_text(f'#!/bin/sh\nexec g++ {options} "$@"\n', encoding="ascii")
    script.chmod(0o755)
    return None, str(script)


@pytest.mark.parametrize(
    ("options", "message"),
    [("-static-libstdc++", "links it statically"), ("-nonsense", "needs a C\\+\\+ compiler")],
)
def test_a_compiler_that_makes_unusable_packages_is_refused_first(
    options: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two C++ runtimes in one process: torch's loader ends it without a word."""
    monkeypatch.setattr(aoti, "_compile", lambda *args: pytest.fail("compiled"))
    with (
        torch._inductor.config.patch({"cpp.cxx": compiler(tmp_path, options)}),
        pytest.raises(ExportError, match=message) as caught,
    ):
        aoti.build(subject(), "bf16", Store(tmp_path / "store"))
    assert "CXX=" in str(caught.value.fix)
    with torch._inductor.config.patch({"cpp.cxx": compiler(tmp_path, "")}):
        aoti.require_compiler()


def require_no_foreign_input(package: aoti.Package) -> None:
    """The package itself would compute with any of these: findings/aoti_another_shape.sh."""
    x, scale = torch.randn(3, 8), torch.rand(3)
    for inputs, message in (
        ({"x": x[:2], "scale": scale[:2]}, "thing was not built for x"),
        ({"x": x, "scale": scale[:1]}, "thing was not built for x"),
        ({"x": x}, "thing was not built for x"),
        ({"x": x.double(), "scale": scale}, "x is torch.float64, built for torch.float32"),
        ({"x": x, "scale": scale.to("meta")}, "scale is on meta, built for cpu"),
    ):
        with pytest.raises(ExportError, match=message):
            package(inputs)


def test_foreign_inputs_never_reach_the_package() -> None:
    package = aoti.Package.__new__(aoti.Package)
    package.spec, package._device = SPEC, torch.device("cpu")
    package._models = [lambda *inputs: pytest.fail("called")] * 2
    require_no_foreign_input(package)


@pytest.mark.slow
def test_a_package_computes_what_the_module_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two profiles are compiled (12 s each); then a fresh process without a compiler runs them."""
    stages: list[str] = []
    made = aoti.build(
        subject(),
        "bf16",
        Store(tmp_path),
        settings=FAST,
        on_progress=lambda stage, peak: stages.append(stage),
    )
    assert stages == ["trace one", "compile one", "trace three", "compile three"]
    assert (
        set(made.files) == {"one.pt2", "three.pt2", "weights.safetensors"}
        and made.details["seconds"]["one"]["compile"] > 0
    )
    package = aoti.load_module(made.folder, "cpu", weights="sha256:thing")
    module = subject().module
    for batch in (3, 1):
        x, scale = torch.randn(batch, 8), torch.rand(batch)
        found = package({"x": x, "scale": scale})["y"]
        torch.testing.assert_close(found, module(x, scale), rtol=1e-5, atol=1e-6)
        strided = torch.stack([x, x], dim=-1)[..., 0]
        assert torch.equal(package({"x": strided, "scale": scale})["y"], found)
    require_no_foreign_input(package)
    monkeypatch.setattr(aoti, "_compile", lambda *args: pytest.fail("compiled again"))
    assert aoti.build(subject(), "bf16", Store(tmp_path), settings=FAST) == made

    bare = {"PATH": "", "PYTHONPATH": str(Path(aoti.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(made.folder)], env=bare, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = module(torch.ones(3, 8), torch.ones(3)).flatten()
    torch.testing.assert_close(torch.tensor([float(v) for v in done.stdout.split()]), expected)


@pytest.mark.gpu
@pytest.mark.slow
def test_a_package_runs_on_the_gpu_without_waiting(tmp_path: Path) -> None:
    one = subject(OnOneDevice().cuda())
    one = dataclasses.replace(one, inputs=tuple(tensor.cuda() for tensor in one.inputs))
    package = aoti.load_module(aoti.build(one, "bf16", Store(tmp_path), settings=FAST).folder, "cuda")
    stream = torch.cuda.Stream()
    x, scale = torch.randn(3, 8, device="cuda"), torch.rand(3, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        package({"x": x, "scale": scale})  # the first call loads the kernels
        torch.cuda._sleep(10**9)
        found = package({"x": x, "scale": scale})["y"]
        assert not stream.query(), "the call waited for the device"
    stream.synchronize()
    torch.testing.assert_close(found, one.module(x, scale), rtol=1e-3, atol=1e-3)
