"""Our numbers against the official evaluator's own, computed once on clips that are kept with them.

Goldens: tests/data/scoring_golden.json, made by the command that stands in it, with OpenCV 5.0 and NumPy 2.4.
The official tool with OpenCV 4.10 and 4.14 gives the same bits. NumPy before 2.4 adds up float32 in another
order, which moves errors by up to a few 1e-9 and so, rarely, the fourth decimal to which they are rounded.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.scoring.check.golden import CLIPS, VALUES
from bench.scoring.check.tools import read_cells
from bench.scoring.official_csv import csv_text
from bench.scoring.physics_iq import score_folder
from bench.scoring.score_document import report

DATA = Path(__file__).parents[3] / "data"
VARIANTS = ("masks_ship", "masks_computed")


def values() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / VALUES).read_text(encoding="ascii"))
    return found


def same_numpy() -> bool:
    return np.__version__.split(".")[:2] == values()["versions"]["numpy"].split(".")[:2]


@pytest.fixture(scope="module", params=VARIANTS)
def scored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """Variant and our scores, with the masks that ship or without."""
    root = tmp_path_factory.mktemp("golden")
    with zipfile.ZipFile(DATA / CLIPS) as archive:
        archive.extractall(root)
    if request.param == "masks_computed":
        shutil.rmtree(root / "physics-IQ-benchmark" / "video-masks")
    return request.param, score_folder(root / "submission-1", root, jobs=1)


def test_every_column_is_the_official_one(scored: tuple[str, Any], tmp_path: Path) -> None:
    variant, scores = scored
    texts = {"official": values()[variant]["csv"], "ours": csv_text(scores.cases)}
    for name, text in texts.items():
        (tmp_path / f"{name}.csv").write_text(text, encoding="ascii")
    official, ours = (read_cells(tmp_path / f"{name}.csv") for name in texts)
    assert list(ours) == list(official)  # rows and columns, in order
    tolerance = 1e-9 if same_numpy() else 5e-8
    for place, series in official.items():
        assert ours[place] == pytest.approx(series, abs=tolerance, rel=0), place
    assert len(official) == 36 and all(len(series) in (1, 40) for series in official.values())


def test_every_aggregate_is_the_official_one(scored: tuple[str, Any]) -> None:
    variant, scores = scored
    official, document = values()[variant]["numbers"], report(scores)
    tolerance = 1e-9 if same_numpy() else 1e-5
    assert document["official"].keys() == official.keys()
    for name, value in official.items():
        scale = 100 if name == "final_score_origround" else 1
        assert document["official"][name] == pytest.approx(value, abs=tolerance * scale, rel=0), name
    assert document["physics_iq"] == document["official"]["final_score_origround"]
    assert document["physics_iq_verified"] == 100.0 * document["official"]["final_score_view"]


def test_computed_masks_are_told_from_shipped_ones() -> None:
    """The variants differ by far more than the tolerance: neither test above passes by chance."""
    found = [values()[variant]["numbers"]["final_score_view"] for variant in VARIANTS]
    assert abs(found[0] - found[1]) > 1e-3
