"""The compilers that torch and triton call while a model runs: whether they make what can be loaded.

Each is asked by the library that will call it, on a few lines of code, since which compiler that is, is the
library's affair (CXX, CC, PATH). Nothing is kept of what they make.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

SHARED_RUNTIMES: Final = (b"libstdc++.so", b"libc++.so")
"""Of g++ and of clang: a library that shares one names it."""
CPP_FIX: Final = "install g++ (Debian, Ubuntu: apt-get install g++), or name one: CXX=/usr/bin/g++"
C_FIX: Final = "install gcc (Debian, Ubuntu: apt-get install gcc), or name one: CC=/usr/bin/gcc"
HEADERS_FIX: Final = (
    "install the headers of this Python (Debian, Ubuntu: apt-get install python3-dev; of another version "
    "its own, such as python3.12-dev)"
)
_TRITON: Final = """
import sys
from triton import knobs
from triton.runtime.build import compile_module_from_src
print(knobs.cache.dir)
sys.stdout.flush()
knobs.cache.dir = sys.argv[1]  # another than its own, or it would find what it made before
SOURCE = '''#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "retake_probe", 0, -1, 0};
PyMODINIT_FUNC PyInit_retake_probe(void) { return PyModule_Create(&module); }
'''
compile_module_from_src(SOURCE, "retake_probe")
"""


def cpp_fault() -> tuple[str, str] | None:
    """Problem and fix where the C++ compiler that torch would call makes nothing that torch can load.

    torch's libraries share a C++ runtime. A compiler that puts one of its own into what it makes (g++ with
    -static-libstdc++, or built so) ends the process that loads it, and cannot precompile torch's headers.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "probe.cpp"), Path(folder, "probe.so")
        source.write_text("#include <iostream>\nvoid probe() { std::cout << 1; }\n", encoding="ascii")
        try:
            compiler = get_cpp_compiler()
            command = [compiler, "-shared", "-fPIC", str(source), "-o", str(library)]
            subprocess.run(command, capture_output=True, text=True, check=True)  # nosec B603 # a fixed probe
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            return f"needs a C++ compiler, and none works here: {_cause(said)}", CPP_FIX
        if not any(runtime in library.read_bytes() for runtime in SHARED_RUNTIMES):
            return (
                f"needs a C++ compiler that shares libstdc++: {compiler} links it statically, and torch "
                "would crash as it loads what it makes",
                "name a compiler that shares the system's libstdc++, for example CXX=/usr/bin/g++",
            )
    return None


def triton_fault() -> tuple[str, str] | None:
    """Problem and fix where triton cannot compile what it launches kernels with: C, with Python's headers.

    In a process of its own, whose errors of the compiler are caught.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(  # nosec B603 # our own interpreter and script
            [sys.executable, "-c", _TRITON, folder],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode == 0:
        return None
    if "Python.h" in done.stderr:
        return "its C compiler finds no Python.h", HEADERS_FIX
    return f"cannot compile C: {_cause(done.stderr)}", C_FIX


def _cause(text: str) -> str:
    """The first error of a compiler, else the last line, where Python says what was wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[-1] if lines else "no message")
