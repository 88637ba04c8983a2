"""What `make` leaves in a folder, by name: read without the model libraries, which take seconds to import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.perf.end_to_end.sizes import SIZES
from engine.errors import ConfigError
from engine.words import command_line
from kernels.files import read_json

GENERATOR, CRITIC, CLIPS, WARM_UP, FACTS = "generator", "critic", "clips", "warm_up", "made.json"


def read_facts(folder: Path) -> dict[str, Any]:
    """What `make` noted of the folder; ConfigError where it made nothing."""
    path = folder / FACTS
    if not path.is_file():
        raise ConfigError(
            f"{folder} was not made for this measurement: it holds no {FACTS}",
            fix=f"make it: {command_line('python', '-m', 'bench.perf.end_to_end', 'make', '--out', folder)}",
        )
    facts: dict[str, Any] = read_json(path)
    if facts.get("size") not in SIZES or "patch_tokens" not in facts:
        raise ConfigError(f"{path} is another version's: {facts}", fix="make another folder")
    return facts
