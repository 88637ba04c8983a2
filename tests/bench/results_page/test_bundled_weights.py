"""A measurement of weights that are bundled no more says so: in its section and where it is quoted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from measurements import kernel_rows, put

from bench.results_page.bundled_weights import ASIDE, MEASURED, TOLD, Weights, bundled, outdated
from bench.results_page.page import SECTIONS, make_page
from bench.results_page.result_files import ResultFile

TODAY: Weights = {"generator": {"transformer/a.safetensors": "11"}, "critic": {"model.safetensors": "22"}}


def _file(kind: str, models: dict[str, Any] | None) -> ResultFile:
    document = {} if models is None else {"manifest": {"models": models}}
    return ResultFile(name=kind, kind=kind, document=document)


def test_weights_decide_and_other_files_do_not() -> None:
    told = {"generator": {"transformer/a.safetensors": "11", "retake.json": "33"}}
    assert not outdated(_file("policy", told), TODAY)
    assert outdated(_file("policy", {"generator": {"transformer/a.safetensors": "12"}}), TODAY)
    assert outdated(_file("demo_quality", told), TODAY), "its critic is not told"
    assert not outdated(_file("demo_quality", {**told, "critic": {"model.safetensors": "22"}}), TODAY)


@pytest.mark.parametrize("models", [None, {}])
def test_weights_that_are_not_told_are_not_todays(models: dict[str, Any] | None) -> None:
    assert outdated(_file("denoiser_quality", models), TODAY)
    assert not outdated(_file("attention", models), TODAY), "no bundled model was measured"


def test_every_shard_must_be_of_these_weights() -> None:
    manifests = [{"models": {"generator": {"transformer/a.safetensors": digest}}} for digest in ("11", "12")]
    assert outdated(ResultFile(name="a", kind="policy", document={"manifests": manifests}), TODAY)
    assert not outdated(ResultFile(name="a", kind="policy", document={"manifests": manifests[:1]}), TODAY)


def test_kinds_are_those_of_the_page_and_roles_are_bundled() -> None:
    assert MEASURED.keys() <= SECTIONS.keys()
    assert {role for roles in MEASURED.values() for role in roles} == bundled().keys()


def test_the_page_and_its_quotes_say_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MEASURED, "attention", ("generator",))
    for name, weights in (("old", {}), ("new", dict(bundled()))):
        put(tmp_path, name, {"kind": "attention", "rows": kernel_rows(), "manifest": {"models": weights}})
    page = make_page(tmp_path)
    assert page.outdated == {"old"}
    assert page.text.count(TOLD) == 1
    assert page.link("old").endswith(ASIDE) and not page.link("new").endswith(ASIDE)
