"""The versions with which a figure was measured, as a constraints file for pip.

python -m bench.results_page.constraints bench/results/denoiser_h200.json > constraints.txt
python -m pip install -c constraints.txt -e ".[test]"

Knows no installer. Invariant: nothing but what the measurement recorded; what it did not record stays open.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.console import user_error
from bench.results_page.result_files import Document, ResultError, read_file
from engine.errors import RetakeError

OWN = "retake-engine"


def packages_of(document: Document) -> Mapping[str, str]:
    """Name -> version of each package that the manifest of a measurement names, without our own."""
    manifest = document.get("manifest") or document.get("measured_on") or {}
    found = manifest.get("packages", {}) if isinstance(manifest, Mapping) else {}
    return {name: version for name, version in found.items() if name != OWN}


def constraints(path: Path) -> str:
    """One line a package. ResultError for a file that is no measurement or recorded none.

    A local part of a version (+cpu, +cu130) is left out: it names the build, which is chosen by index.
    """
    packages = packages_of(read_file(path).document)
    if not packages:
        raise ResultError(f"{path} records no package versions", fix="measure again with this version")
    return "".join(f"{name}=={version.partition('+')[0]}\n" for name, version in sorted(packages.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.results_page.constraints", description=__doc__)
    parser.add_argument("measurement", type=Path, help="a file of bench/results")
    options = parser.parse_args(arguments)
    try:
        print(constraints(options.measurement), end="")
    except (RetakeError, OSError) as error:
        return user_error(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
