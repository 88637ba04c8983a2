"""The picture of a pinned run tells what the file says, and the committed one is of the bundled models."""

from __future__ import annotations

import base64
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from bench.results_page.demo_section import demo_run, picture
from bench.results_page.result_files import ResultFile, read_file
from engine.build.model_folders import MODELS
from engine.runs.manifest import model_digests

PINNED = Path(__file__).resolve().parents[3] / "bench" / "results" / "demo_run.json"
SVG = "{http://www.w3.org/2000/svg}"


def frame(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def scene(name: str, first: float, chosen: float) -> dict[str, Any]:
    made = {"prefix": frame(f"{name} prefix"), "real": [frame(f"{name} r{i}") for i in range(2)]}
    made["made"] = [frame(f"{name} m{i}") for i in range(2)]
    return {"id": name, "scene": name, "num_takes": 3, "take": 2, "first": first, "chosen": chosen, **made}


SCENES = [scene("a", 70.0, 60.0), scene("b & c", 41.26, 83.0), scene("d", 1.0, 2.0), scene("e", 5.0, 5.0)]
FILE = ResultFile(name="demo_run", kind="demo_run", document={"scenes": SCENES, "seconds": [1.0, 2.0]})


def test_every_scene_is_told_and_what_the_loop_lost_too() -> None:
    section = demo_run(FILE)
    assert section.headline == "the 4 scenes of `retake demo`, first take 29.3, chosen take 37.5 Verified"
    assert "| `a` | 70.0 | 60.0 | 3 |" in section.body and "| `e` | 5.0 | 5.0 | 3 |" in section.body
    assert section.plots == {"demo-run.svg": picture(SCENES, [1.0, 2.0])}


def test_the_picture_has_reality_above_the_chosen_take() -> None:
    tree = ET.fromstring(picture(SCENES, [1.0, 2.0]))
    images = [image.attrib for image in tree.iter(f"{SVG}image")]
    shown = [base64.b64decode(image["href"].partition(",")[2]).decode() for image in images]
    assert shown[:6] == ["a prefix", "a r0", "a r1", "a prefix", "a m0", "a m1"]
    assert len(shown) == 6 * len(SCENES)
    assert int(images[0]["y"]) < int(images[3]["y"]) and images[0]["x"] == images[3]["x"]
    corners = {(image["x"], image["y"]) for image in images}
    assert len(corners) == len(images)  # none hides another
    width, height = (int(tree.attrib[name]) for name in ("width", "height"))
    assert all(int(x) + 70 < width and int(y) + 70 < height for x, y in corners)
    texts = [text.text for text in tree.iter(f"{SVG}text")]
    assert "b & c" in texts and "first take 41.3, chosen (take 2) 83.0" in texts


def test_the_pinned_run_is_of_the_bundled_models() -> None:
    """Else: pin a run again, see bench/quality/demo_run.py."""
    weights = read_file(PINNED).document["manifest"]["models"]
    assert weights == {role: model_digests(MODELS / role) for role in ("generator", "critic")}
