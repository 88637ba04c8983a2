"""Dockerfile and compose.yaml: what they name is there. Nothing is built here."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path, PurePath
from typing import Any

import pytest
import yaml

from engine.build.gpu_setup import SHARED_BYTES

ROOT = Path(__file__).resolve().parents[1]
Instruction = tuple[str, list[str]]


def instructions(text: str) -> list[Instruction]:
    """Name and words of each, with continued lines joined and comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(line.split()[0], shlex.split(line)[1:]) for line in joined.splitlines() if line.strip()]


DOCKERFILE = instructions((ROOT / "Dockerfile").read_text(encoding="utf-8"))
SERVICE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"][
    "retake"
]
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")


def copied(found: list[Instruction]) -> list[str]:
    """What COPY takes from the repository."""
    ours = [words for name, words in found if name == "COPY" and not words[0].startswith("--from")]
    return [source for words in ours for source in words[:-1]]


def missing(sources: list[str], ignored: list[str]) -> list[str]:
    """Those that are not in the tree, or that .dockerignore keeps from the builder; it lists what may go."""
    assert "*" in ignored
    allowed = [PurePath(line[1:]) for line in ignored if line.startswith("!")]
    return [
        source
        for source in sources
        if not (ROOT / source).exists() or not any(PurePath(source).is_relative_to(one) for one in allowed)
    ]


def words_of(name: str) -> list[list[str]]:
    return [words for found, words in DOCKERFILE if found == name]


def test_what_is_copied_is_there() -> None:
    assert missing(copied(DOCKERFILE), IGNORED) == []
    assert missing(["engine", "gone", "tests"], IGNORED) == ["gone", "tests"]


def test_all_that_the_package_is_made_of_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    houses = {one.rstrip("*") for one in project["tool"]["setuptools"]["packages"]["find"]["include"]} - {
        "retake"
    }
    assert {*houses, "pyproject.toml", project["project"]["readme"], "LICENSE"} <= set(copied(DOCKERFILE))
    assert words_of("ENTRYPOINT") == [[f"[{next(iter(project['project']['scripts']))}]"]]
    asked = next(words for words in words_of("RUN") if any("optional-dependencies" in word for word in words))
    extras = set(re.findall(r"extras\['(\w+)'\]", " ".join(asked)))
    assert extras == {"gpu", "constrained"} and extras <= project["project"]["optional-dependencies"].keys()


def test_the_base_is_pinned_and_of_the_cuda_that_torch_is_built_for() -> None:
    ((_, image),) = [word[0].split("=", 1) for word in words_of("ARG") if word[0].startswith("BASE=")]
    match = re.fullmatch(r"nvidia/cuda:(\d+)\.\d+\.\d+-base-ubuntu24\.04", image)
    assert match is not None
    assert all(words[0] == "${BASE}" for words in words_of("FROM"))
    locked = (ROOT / ".ci" / "constraints-gpu.txt").read_text(encoding="utf-8")
    assert f"nvidia-cudnn-cu{match[1]}==" in locked
    paths = next(words for words in words_of("ENV"))
    assert any("lib/python3.12/" in word for word in paths)  # Ubuntu 24.04's


def test_nobody_is_root_in_the_end() -> None:
    last = max(place for place, (name, _) in enumerate(DOCKERFILE) if name == "FROM")
    assert [words for name, words in DOCKERFILE[last:] if name == "USER"] == [["${UID}"]]
    assert SERVICE["cap_drop"] == ["ALL"]


def test_folders_of_the_image_are_those_that_are_mounted() -> None:
    made = next(words for words in words_of("RUN") if "--directory" in words)
    mounted = {
        one["target"] if isinstance(one, dict) else one.partition(":")[2] for one in SERVICE["volumes"]
    }
    assert (
        {word for word in made if word.startswith("/")} == mounted == {"/cache", "/data", "/models", "/runs"}
    )
    environment = dict(word.split("=", 1) for words in words_of("ENV") for word in words)
    for name in ("XDG_CACHE_HOME", "HF_HOME", "TRITON_CACHE_DIR"):
        assert PurePath(environment[name]).is_relative_to("/cache")


def test_the_service_has_a_gpu_and_enough_shared_memory() -> None:
    (device,) = SERVICE["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
    size = re.fullmatch(r"(\d+)gb", SERVICE["shm_size"])
    assert size is not None and int(size[1]) * 2**30 >= SHARED_BYTES
    assert SERVICE["build"]["target"] in [words[-1] for words in words_of("FROM")]
    assert SERVICE["build"]["args"].keys() <= {words[0].partition("=")[0] for words in words_of("ARG")}


def test_the_page_names_every_variable_and_folder() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    assert [name for name in re.findall(r"\$\{(\w+)", text) if name not in page] == []
    assert "never built here" in page


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is of the extra `audit`")
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(["hadolint", "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
