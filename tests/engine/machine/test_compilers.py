"""The compilers that torch and triton call: real ones, and real ones that are broken in the usual ways."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch._inductor.config

from engine.machine.compilers import cpp_fault, triton_fault


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="ascii")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('exec g++ "$@"', ""),
        ('exec g++ -static-libstdc++ "$@"', "links it statically"),
        ('exec g++ --no-such-option "$@"', "error: unrecognized command-line option"),
    ],
)
def test_what_torch_would_call(text: str, says: str, tmp_path: Path) -> None:
    compiler = (None, script(tmp_path / "g++", text))
    with torch._inductor.config.patch({"cpp.cxx": compiler}):
        fault = cpp_fault()
    if says:
        assert fault is not None and says in fault[0] and "CXX=/usr/bin/g++" in fault[1]
    else:
        assert fault is None


def test_what_triton_would_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.delenv("CC", raising=False)
    assert triton_fault() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    fault = triton_fault()
    assert fault is not None and "Failed to find C compiler" in fault[0] and "CC=" in fault[1]


def test_a_python_without_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of Debian without python3-dev: the compiler works and finds no Python.h."""
    pytest.importorskip("triton")
    without = (
        'for a; do shift; case "$a" in -I*) ;; *) set -- "$@" "$a";; esac; done; exec gcc -nostdinc "$@"'
    )
    monkeypatch.setenv("CC", script(tmp_path / "cc", without))
    fault = triton_fault()
    assert fault is not None and "Python.h" in fault[0] and "python3-dev" in fault[1]
