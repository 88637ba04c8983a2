"""Runs the official evaluator's own functions on datasets of any size: its command line insists on 198 clips.

A script for the interpreter that has the official tool's requirements. It imports nothing of ours and holds
no formula; masks that it makes go to a folder of their own, never into the dataset.

    python official_driver.py CHECKOUT metrics REAL MASKS SUBMISSION WORK FPS CSV
    python official_driver.py CHECKOUT scores CSV JSON
    python official_driver.py CHECKOUT versions JSON
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def module(checkout: Path, name: str) -> Any:
    """A module of the official tool: of its package `physiq`, or of the folder `code` of older checkouts."""
    package = (checkout / "physiq").is_dir()
    sys.path.insert(0, str(checkout if package else checkout / "code"))
    return importlib.import_module(f"physiq.{name}" if package else name)


def metrics(checkout: Path, real: str, masks: str, submission: str, work: str, fps: str, csv: str) -> None:
    """The steps of the official command line after its checks of names and lengths, in its order."""
    generator = module(checkout, "binary_mask_generator")
    real_masks, generated_masks = Path(masks), Path(work) / "generated"
    if not real_masks.exists():
        real_masks = Path(work) / "real"
        generator.generate_binary_masks(real, str(real_masks), True)
    generator.generate_binary_masks(submission, str(generated_masks), False)
    options = {"n_processes": 0} if (checkout / "physiq").is_dir() else {}
    module(checkout, "calculate_and_write_metrics_to_csv").process_videos(
        real, submission, str(real_masks), str(generated_masks), csv, float(fps), "first", **options
    )


def scores(checkout: Path, csv: str, target: str) -> None:
    """The numbers that the official tool writes for one CSV, under its names."""
    numbers = {"final_score_origround": module(checkout, "calculate_iq_score").calculate_iq_score(csv)[0]}
    if (checkout / "physiq").is_dir():
        table = module(checkout, "calculate_iq_score_stable").IQTable.from_csv(csv)
        numbers |= table.get_output_dict()
    text = json.dumps({name: float(value) for name, value in numbers.items()})
    Path(target).write_text(text, encoding="ascii")


def versions(checkout: Path, target: str) -> None:
    """Of the packages that decide its numbers."""
    names = {name: importlib.import_module(name).__version__ for name in ("cv2", "numpy", "pandas")}
    Path(target).write_text(json.dumps(names), encoding="ascii")


def main(arguments: list[str]) -> None:
    commands: dict[str, Callable[..., None]] = {"metrics": metrics, "scores": scores, "versions": versions}
    commands[arguments[1]](Path(arguments[0]), *arguments[2:])


if __name__ == "__main__":
    main(sys.argv[1:])
