"""Writes the golden values of the scorer's tests: what the official evaluator gives for one tiny dataset.

The clips are kept beside the values, because another encoder would make other clips. Run by hand, when the
official tool changes its numbers; the tests need neither it nor its requirements.

    python -m bench.scoring.check.golden --official DIR [--official-python PYTHON] --out tests/data
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.console import user_error
from bench.files import write_whole
from bench.scoring.check.datasets import Made, make
from bench.scoring.check.tools import Official
from engine.datasets.physics_iq import TREES
from engine.errors import RetakeError
from engine.runs.manifest import code_state

CLIPS, VALUES = "scoring_golden.zip", "scoring_golden.json"
GOLDEN = Made(name="golden", fps=8, real_px=(96, 64), generated_px=(48, 32), num_scenes=1)
COMMAND = "python -m bench.scoring.check.golden --official DIR --out tests/data"


def write_golden(tool: Official, out: Path) -> None:
    """Once with the masks that ship, once without: then both tools compute them."""
    with tempfile.TemporaryDirectory(prefix="retake-golden-") as name:
        root = Path(name) / "dataset"
        submission = make(GOLDEN, root)[0]
        _write_clips(root, out / CLIPS)
        values: dict[str, Any] = {
            "made_by": COMMAND,
            "official_commit": code_state(tool.checkout)["commit"],
            "versions": tool.versions(Path(name)),
        }
        for variant in ("masks_ship", "masks_computed"):
            if variant == "masks_computed":
                shutil.rmtree(root / TREES[0] / "video-masks")
            scored = tool.metrics(root, submission, GOLDEN.fps, Path(name) / variant)
            values[variant] = {"numbers": scored.numbers, "csv": scored.csv.read_text(encoding="ascii")}
        write_whole(out / VALUES, (json.dumps(values, indent=1) + "\n").encode())


def _write_clips(root: Path, path: Path) -> None:
    """Stored, for they are compressed; with a fixed date, so that equal clips give equal archives."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                archive.writestr(zipfile.ZipInfo(file.relative_to(root).as_posix()), file.read_bytes())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scoring.check.golden", description=__doc__)
    parser.add_argument("--official", type=Path, required=True, metavar="DIR", help="a checkout")
    parser.add_argument(
        "--official-python", default=sys.executable, metavar="PYTHON", help="has the official requirements"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the two files")
    options = parser.parse_args(arguments)
    try:
        write_golden(
            Official(checkout=options.official.resolve(), python=options.official_python), options.out
        )
    except RetakeError as error:
        return user_error(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
