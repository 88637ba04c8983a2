"""The house rules as tests: sizes, import directions (at run time), side effects, and the name `kernels`.

Each checker takes (module, tree) or all modules and returns what violates it; each has a test that feeds it a
violation. A rule that cannot fail is no rule.
"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("engine", "kernels", "export", "bench")
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_TRITON_KERNEL_LINES = 400, 60, 120
MAX_POSITIONAL_ARGUMENTS = 8

BASE = (
    *("engine.types", "engine.protocols", "engine.errors", "engine.words", "engine.plugins"),
    "kernels.files",
)
"""The contract, how a count is told, how a plugin is found, and how a file is written: whoever imports the
engine may use it."""
HOUSES = {
    "kernels": "",
    "engine": "kernels",
    "export": "engine kernels",
    "bench": "export engine kernels",
}
"""House -> the houses below it, which it may import."""
ROOMS = {
    "settings": "",
    "video": "",
    "weights": "kernels",
    "machine": "weights kernels",
    "runs": "settings",
    "datasets": "video",
    "quant": "kernels",
    "denoise": "settings machine video weights quant autoencoder kernels",
    "autoencoder": "machine quant kernels",
    "generators": "settings machine video weights quant denoise autoencoder kernels",
    "critics": "settings machine video weights quant kernels",
    "selectors": "machine video runs loop",
    "loop": "runs video",
    "build": "settings machine video runs datasets weights denoise loop kernels",
    "cluster": "settings machine runs loop build kernels",
    "report": "video runs loop",
    "watch": "runs report",
    "demo": "settings machine video datasets autoencoder generators critics selectors loop",
    "commands": "settings machine video runs datasets weights loop build cluster report watch demo kernels",
    "api": "settings machine video runs datasets loop build report",
}
"""Room of the engine -> the rooms (and houses) below it. Models are reached by name, through plugins."""
ROOMS_ABOVE = {
    "export": {
        "forms": "",
        "spec": "forms",
        "dtypes": "",
        "profiles": "spec dtypes",
        "model_inputs": "spec",
        "quantization": "spec model_inputs",
        "artifacts": "spec",
        "verify": "spec quantization",
        "trt": "spec dtypes profiles",
        "subjects": "forms spec dtypes model_inputs quantization artifacts",
        "targets": "forms spec dtypes profiles model_inputs quantization artifacts trt",
        "form_fit": "forms spec subjects targets",
        "pipeline": "forms spec dtypes quantization artifacts verify subjects targets trt form_fit",
        "denoiser": "forms spec dtypes model_inputs artifacts subjects targets pipeline",
        "generator_inputs": "forms spec quantization subjects pipeline",
        "parity": "spec quantization artifacts subjects targets verify pipeline generator_inputs",
        "commands": "forms spec artifacts trt pipeline generator_inputs parity",
    },
    "bench": {
        "files": "",
        "console": "",
        "campaign": "",
        "baselines": "",
        "perf": "files console campaign baselines",
        "dataset": "",
        "submission": "",
        "scoring": "files console",
        "analysis": "scoring",
        "table": "files console scoring analysis",
        "results_page": "files console",
        "quality": "files console campaign scoring analysis results_page",
        "commands": "console dataset submission",
    },
}
"""House -> room or loose file -> those of the house below it; the houses below are open to all.

The results page reads files and measures nothing; scoring knows nobody who scores with it; neither a subject
nor TensorRT knows a target. Heavy commands run as processes of their own, so they import no evaluator.
"""
ALONE = {
    "engine.types": (),
    "engine.errors": (),
    "engine.words": (),
    "engine.plugins": ("engine.errors",),
    "engine.protocols": ("engine.types", "engine.errors"),
    "engine.cli": ("engine.commands", "engine.plugins"),
}
"""Modules with rules of their own: the loose files of the engine."""
THE_METHOD = tuple(
    f"engine.loop.{name}"
    for name in (
        *("scenario", "scouting", "scheduler", "lanes", "policy", "scout_policy", "prompting"),
        *("ranking", "expected_gain"),
    )
)
"""They know no store, no clip and no model: only each other and the contract."""
# The truth of the simulated scenes is for training and measuring: no module of the loop may reach it.
MAY_IMPORT_DEMO = ("engine.demo", "engine.commands", "export.generator_inputs", "bench")

Modules = dict[str, ast.Module]


def in_package(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def is_command(module: str) -> bool:
    return module.split(".")[1:2] == ["commands"]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that can run: all but the bodies of `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and is_type_checking(child.test):
            for other in child.orelse:
                yield from runtime_nodes(other)
        else:
            yield from runtime_nodes(child)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def imports(module: str, tree: ast.Module, *, is_package: bool = False) -> set[str]:
    """Absolute names of all that is imported at run time, also in functions; `from a import b` gives a.b."""
    found: set[str] = set()
    for node in runtime_nodes(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base]).rstrip(".")
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def our_imports(modules: Modules) -> dict[str, set[str]]:
    """module -> our modules it imports. `engine.types.Video` counts as `engine.types`."""
    graph: dict[str, set[str]] = {}
    for module, tree in modules.items():
        targets = set()
        is_package = any(other.startswith(module + ".") for other in modules)
        for name in imports(module, tree, is_package=is_package):
            if name.split(".")[0] in PACKAGES:
                candidates = [name, name.rpartition(".")[0]]
                targets.add(next((c for c in candidates if c in modules), name))
        graph[module] = targets - {module}
    return graph


# The checkers.


def is_kernel(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(d).startswith(("triton.jit", "jit")) for d in node.decorator_list)


def file_too_long(source: str) -> list[str]:
    num_lines = len(source.splitlines())
    return [f"{num_lines} lines"] if num_lines > MAX_FILE_LINES else []


def functions_too_long(module: str, tree: ast.Module) -> list[str]:
    found = []
    for node in functions(tree):
        assert node.end_lineno is not None
        # the signature of a command is its table of options, and the docstring its --help
        first = node.body[1:2] or node.body if is_command(module) else [node]
        num_lines = node.end_lineno - first[0].lineno + 1
        if num_lines > (MAX_TRITON_KERNEL_LINES if is_kernel(node) else MAX_FUNCTION_LINES):
            found.append(f"{node.name} has {num_lines} lines")
    return found


def missing_docstring(module: str, tree: ast.Module) -> list[str]:
    return [] if ast.get_docstring(tree) else ["no module docstring"]


def environment_reads(module: str, tree: ast.Module) -> list[str]:
    if module == "engine.settings.environment":
        return []
    names = ("os.environ", "os.getenv", "os.putenv")
    text = [ast.unparse(node) for node in runtime_nodes(tree) if isinstance(node, ast.Attribute)]
    imported = imports(module, tree).intersection(names)
    return sorted({t for t in text if t in names} | imported)


def prints(module: str, tree: ast.Module) -> list[str]:
    if is_command(module) or in_package(module, "bench") or in_package(module, "engine.demo.training"):
        return []
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        f"print in line {c.lineno}" for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"
    ]


def broad_excepts(module: str, tree: ast.Module) -> list[str]:
    if module == "engine.loop.lanes":
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = [] if node.type is None else ast.unparse(node.type).strip("()").split(", ")
            if node.type is None or {"Exception", "BaseException"}.intersection(caught):
                found.append(f"broad except in line {node.lineno}")
    return found


def keyword_bags(module: str, tree: ast.Module) -> list[str]:
    return [
        f"{node.name}(**{node.args.kwarg.arg})"
        for node in functions(tree)
        if node.args.kwarg is not None and not node.name.startswith("_")
    ]


def triton_imports(module: str, tree: ast.Module) -> list[str]:
    homes = ("kernels.attention", "kernels.linear", "kernels.fused")
    if any(in_package(module, home) for home in homes):
        return []
    return sorted(name for name in imports(module, tree) if name.split(".")[0] == "triton")


def too_many_positional(module: str, tree: ast.Module) -> list[str]:
    """Calls with more than eight; the code of Triton's kernels and their launches have no other way."""
    kernels = [node for node in functions(tree) if is_kernel(node)]
    exempt = {call for kernel in kernels for call in ast.walk(kernel)}
    return [
        f"{len(node.args)} positional arguments in line {node.lineno}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and len(node.args) > MAX_POSITIONAL_ARGUMENTS
        and node not in exempt
        and not isinstance(node.func, ast.Subscript)
    ]


def waits_in_launch(module: str, tree: ast.Module) -> list[str]:
    """`.item()`, `.tolist()`, `.cpu()` and `synchronize` stop the host until the device is done."""
    waiting = {"item", "cpu", "synchronize", "tolist"}
    return [
        f"{node.name} calls .{call.func.attr}() in line {call.lineno}"
        for node in functions(tree)
        if node.name == "launch"
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in waiting
    ]


def room_of(module: str) -> str:
    """ "engine.loop" of "engine.loop.policy"; a family of generators is a room of its own."""
    depth = 3 if in_package(module, "engine.generators") else 2
    return ".".join(module.split(".")[:depth])


def allowed_imports(module: str) -> tuple[str, ...]:
    house = module.split(".")[0]
    if module in ALONE:
        return ALONE[module]
    if module in THE_METHOD:
        return (*BASE, *THE_METHOD)
    if house in ROOMS_ABOVE:
        room = ".".join(module.split(".")[:2])
        below = ROOMS_ABOVE[house].get(room.rpartition(".")[2], "").split()
        return (room, *(f"{house}.{name}" for name in below), *HOUSES[house].split())
    if house != "engine":
        return (house, *HOUSES[house].split())
    below = ROOMS.get(module.split(".")[1] if "." in module else "", "").split()
    return (*BASE, room_of(module), *(name if name in HOUSES else f"engine.{name}" for name in below))


def wrong_directions(modules: Modules) -> list[str]:
    found = []
    for module, targets in our_imports(modules).items():
        allowed = allowed_imports(module)
        for target in sorted(targets):
            if in_package(target, "engine.demo") and not any(in_package(module, m) for m in MAY_IMPORT_DEMO):
                found.append(f"{module} imports {target}: only {', '.join(MAY_IMPORT_DEMO)} may")
            elif not any(in_package(target, name) for name in allowed):
                found.append(f"{module} imports {target}; it may import {', '.join(allowed) or 'nothing'}")
    return found


def cycles(modules: Modules) -> list[str]:
    try:
        graphlib.TopologicalSorter(our_imports(modules)).prepare()
    except graphlib.CycleError as error:
        return [" imports ".join(error.args[1][::-1])]
    return []


# The rules on the tree.

TREE_RULES: list[Callable[[str, ast.Module], list[str]]] = [
    functions_too_long,
    missing_docstring,
    environment_reads,
    prints,
    broad_excepts,
    keyword_bags,
    triton_imports,
    too_many_positional,
    waits_in_launch,
]


@pytest.fixture(scope="module")
def modules() -> Modules:
    return {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sources()}


def test_files_are_short() -> None:
    found = {str(p.relative_to(ROOT)): file_too_long(p.read_text(encoding="utf-8")) for p in sources()}
    assert {name: problem for name, problem in found.items() if problem} == {}


@pytest.mark.parametrize("rule", TREE_RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps(rule: Callable[[str, ast.Module], list[str]], modules: Modules) -> None:
    found = {module: rule(module, tree) for module, tree in modules.items()}
    assert {module: problems for module, problems in found.items() if problems} == {}


def loose_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.py") if path.name != "__init__.py")


def test_the_engine_has_few_loose_files() -> None:
    assert loose_files(ROOT / "engine") == sorted(f"{name.split('.')[1]}.py" for name in ALONE)
    assert len(ALONE) <= 6


def test_every_room_has_its_rule() -> None:
    rooms = {path.name for path in (ROOT / "engine").iterdir() if (path / "__init__.py").is_file()}
    assert rooms == ROOMS.keys()


def test_the_files_to_read_exist() -> None:
    """docs/architecture.md leads a newcomer from command to outcome."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\d+\. \**`(engine/\S+\.py)`", page, re.MULTILINE)
    assert len(listed) == 12 and [name for name in listed if not (ROOT / name).is_file()] == []
    assert {f"`{room}/`" for room in ROOMS if room not in ("generators", "critics")} <= set(
        re.findall(r"`\w+/`", page)
    )


def test_imports_point_one_way(modules: Modules) -> None:
    assert wrong_directions(modules) == []


def test_no_import_cycle(modules: Modules) -> None:
    assert cycles(modules) == []


# Every rule fails on a violation.


def long_function(num_lines: int, decorator: str = "") -> str:
    return f"{decorator}\ndef f():\n" + "    x = 1\n" * (num_lines - 1)


@pytest.mark.parametrize(
    ("rule", "module", "bad", "good"),
    [
        (functions_too_long, "engine.x", long_function(61), long_function(60)),
        (
            functions_too_long,
            "kernels.x",
            long_function(121, "@triton.jit"),
            long_function(120, "@triton.jit"),
        ),
        (missing_docstring, "engine.x", "import os", '"""What."""\nimport os'),
        (environment_reads, "engine.x", "import os\nos.environ['A']", "import os\nos.path"),
        (environment_reads, "engine.x", "from os import environ", "from os import path"),
        (environment_reads, "bench.x", "import os\nos.getenv('A')", "os.sysconf('A')"),
        (prints, "engine.x", "print(1)", "log.print(1)"),
        (prints, "engine.demo.scenes", "def f():\n    print(1)", "pprint(1)"),
        (
            broad_excepts,
            "engine.x",
            "try:\n    f()\nexcept:\n    pass",
            "try:\n    f()\nexcept OSError:\n    pass",
        ),
        (broad_excepts, "engine.x", "try:\n    f()\nexcept Exception as e:\n    raise", ""),
        (broad_excepts, "engine.x", "try:\n    f()\nexcept (OSError, Exception):\n    raise", ""),
        (keyword_bags, "engine.x", "def run(**options): ...", "def _run(**options): ..."),
        (keyword_bags, "engine.x", "class A:\n    def run(self, **options): ...", "f(**options)"),
        (triton_imports, "kernels.dispatch", "import triton.language as tl", "import tritonclient"),
        (triton_imports, "engine.x", "def f():\n    from triton import jit", ""),
        (too_many_positional, "engine.x", "f(1, 2, 3, 4, 5, 6, 7, 8, 9)", "f(1, 2, 3, 4, 5, 6, 7, 8, x=9)"),
        (
            too_many_positional,
            "kernels.x",
            "def g():\n    f(1, 2, 3, 4, 5, 6, 7, 8, 9)",
            "@jit\ndef g():\n    f(1, 2, 3, 4, 5, 6, 7, 8, 9)",
        ),
        (
            too_many_positional,
            "kernels.x",
            "wrap(f)(1, 2, 3, 4, 5, 6, 7, 8, 9)",
            "wrap(f)[grid](1, 2, 3, 4, 5, 6, 7, 8, 9)",
        ),
        (waits_in_launch, "engine.x", "def launch(self):\n    x.item()", "def result(self):\n    x.item()"),
        (waits_in_launch, "engine.x", "def launch(self):\n    torch.cuda.synchronize()", ""),
        (
            waits_in_launch,
            "engine.x",
            "def launch(self):\n    return y.cpu()",
            "def launch(self):\n    y.cuda()",
        ),
    ],
)
def test_rule_sees_a_violation(
    rule: Callable[[str, ast.Module], list[str]], module: str, bad: str, good: str
) -> None:
    assert rule(module, ast.parse(bad)) != []
    assert rule(module, ast.parse(good)) == []


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (environment_reads, "engine.settings.environment", "import os\nos.environ['A']"),
        (prints, "engine.commands.run", "print(1)"),
        (prints, "bench.scoring.physics_iq", "print(1)"),
        (prints, "engine.demo.training.train_critic", "print(1)"),
        (prints, "engine.demo.training.schedule", "print(1)"),
        (broad_excepts, "engine.loop.lanes", "try:\n    f()\nexcept Exception:\n    pass"),
        (triton_imports, "kernels.attention.dense", "import triton"),
    ],
)
def test_rule_knows_its_exceptions(
    rule: Callable[[str, ast.Module], list[str]], module: str, source: str
) -> None:
    assert rule(module, ast.parse(source)) == []
    assert rule("engine.other", ast.parse(source)) != []


def test_long_file_is_seen() -> None:
    assert file_too_long("x\n" * 401) and not file_too_long("x\n" * 400)


def tree_of(**code: str) -> Modules:
    """A tree of modules; `__` in a name stands for a dot."""
    names = (
        "engine.types",
        "engine.errors",
        "engine.runs.store",
        "engine.generators.wan",
        "kernels.dispatch",
    )
    present = {name: ast.parse("") for name in names}
    return present | {name.replace("__", "."): ast.parse(text) for name, text in code.items()}


@pytest.mark.parametrize(
    "bad",
    [
        tree_of(engine__types="import engine.errors"),
        tree_of(engine__loop__scheduler="from engine.runs.store import RunStore"),
        tree_of(engine__loop__scheduler="from engine.runs import store"),
        tree_of(engine__loop__scheduler="def f():\n    import engine.runs.store"),
        tree_of(engine__critics__qwen_vl="from engine.generators.wan import load"),
        tree_of(engine__generators__other="from engine.generators.wan import load"),
        tree_of(engine__denoise__sampler="from engine.generators.wan import load"),
        tree_of(engine__settings__config="from kernels.dispatch import choose"),
        tree_of(engine__newcomer="from engine.runs.store import RunStore"),
        tree_of(engine__newcomer__file="from engine.runs.store import RunStore"),
        tree_of(engine__cli="import bench.quality", bench__quality=""),
        tree_of(engine__build__run="from export.denoiser import load", export__denoiser=""),
        tree_of(engine__report__write="from bench.quality import score", bench__quality=""),
        tree_of(engine__runs__store="from engine.demo.scenes import truth", engine__demo__scenes=""),
        tree_of(engine__datasets__folder="from ..demo import scenes", engine__demo__scenes=""),
        tree_of(engine__build__prepare="from engine.demo import scenes", engine__demo__scenes=""),
        tree_of(export__targets__onnx="from engine.demo.scenes import truth", engine__demo__scenes=""),
        tree_of(export__targets__onnx="from bench.quality import score", bench__quality=""),
        tree_of(export__subjects__x="from export.targets import onnx", export__targets__onnx=""),
        tree_of(export__trt__gates="from export.targets import onnx", export__targets__onnx=""),
        tree_of(export__spec="from export import pipeline", export__pipeline=""),
        tree_of(export__newcomer="from export import spec", export__spec=""),
        tree_of(bench__scoring__x="from bench.quality import y", bench__quality__y=""),
        tree_of(bench__table__make="from bench.quality import y", bench__quality__y=""),
        tree_of(bench__results_page__page="from bench.quality import y", bench__quality__y=""),
        tree_of(bench__perf__x="import bench.scoring.y", bench__scoring__y=""),
        tree_of(bench__newcomer__x="import bench.files", bench__files=""),
        tree_of(kernels__dispatch="from engine.types import Video"),
    ],
)
def test_wrong_direction_is_seen(bad: Modules) -> None:
    assert len(wrong_directions(bad)) == 1


def test_right_directions_pass() -> None:
    typing_only = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from engine.runs.store import A"
    good = tree_of(
        engine__loop__scheduler=typing_only,
        engine__generators__wan__forward="from kernels.dispatch import x\nfrom engine.types import y",
        engine__build__prepare="import importlib\nfrom engine.runs import store",
        engine__demo__measure="from engine.types import Video",
        export__targets__onnx="from engine.runs.store import RunStore",
        bench__quality__score="from engine.demo import scenes\nfrom bench.scoring import x",
        bench__scoring__x="",
    )
    assert wrong_directions(good) == []


def test_cycle_is_seen() -> None:
    pair = tree_of(engine__a="from engine import b", engine__b="def f():\n    from engine.a import x")
    assert cycles(pair) and not cycles(tree_of(engine__a="from engine import b", engine__b=""))
    typing_only = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import engine.a"
    assert not cycles(tree_of(engine__a="from engine import b", engine__b=typing_only))


# What importing does, each in a fresh process with this tree first on the path.


def run_fresh(code: str) -> str:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_our_kernels_package_shadows_nothing() -> None:
    """transformers and diffusers look for a package of this name; ours must look like its absence."""
    run_fresh(
        "from transformers import Qwen3VLForConditionalGeneration\n"
        "from diffusers import WanTransformer3DModel\n"
        "from transformers.utils import import_utils as theirs\n"
        "from diffusers.utils import import_utils as others\n"
        "assert theirs.is_kernels_available() is False\n"
        "assert others.is_kernels_available() is False\n"
    )


def test_importing_kernels_has_no_side_effect() -> None:
    run_fresh(
        "import kernels\n"
        f"assert kernels.__file__.startswith({str(ROOT)!r}), kernels.__file__\n"
        "assert not {'torch', 'triton'}.intersection(sys.modules)\n"
        "assert not hasattr(kernels, '__version__')\n"
    )


@pytest.mark.parametrize(
    "module",
    [
        *("types", "protocols", "errors", "plugins", "cli", "loop.policy", "loop.scheduler", "runs.store"),
        *("machine.memory", "settings.config", "api.name.retake"),
    ],
)
def test_importing_does_not_import_torch(module: str) -> None:
    loaded = run_fresh(
        f"import engine.{module}\n"
        "print(*{'torch', 'triton', 'diffusers', 'transformers', 'matplotlib'}.intersection(sys.modules))"
    )
    assert loaded == ""


def test_fresh_process_reports_failures() -> None:
    with pytest.raises(AssertionError, match="no_such_thing"):
        run_fresh("import no_such_thing")
