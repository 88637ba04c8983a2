"""Joins the take statistics of generators trained at several shares of broken physics into one document.

Says which share was chosen, by a rule that was fixed before any critic was trained, and which of the wanted
figures each share reaches. Measures nothing.

    python -m bench.quality.world_statistics --share 0=A.json 0.15=B.json 0.3=C.json --out world.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.console import user_error
from bench.files import write_json
from bench.quality.trivial import BASELINES
from engine.errors import ConfigError, RetakeError
from engine.words import command_line

FIRST_TAKE_POINTS: Final = (40.0, 65.0)
SPREAD_POINTS: Final = 8.0
ORACLE_POINTS: Final = 10.0
CHOSEN: Final = 0.15
RULE: Final = (
    f"Share {CHOSEN:g} unless its first take of the brief text lies outside "
    f"{FIRST_TAKE_POINTS[0]:g} to {FIRST_TAKE_POINTS[1]:g} points; fixed before any critic was trained."
)


def reached(found: Mapping[str, Any]) -> dict[str, bool]:
    """Which wanted figures the takes of the brief text reach."""
    brief = found["brief"]
    first = brief["first_take"]["mean"]
    return {
        "first_take": FIRST_TAKE_POINTS[0] <= first <= FIRST_TAKE_POINTS[1],
        "spread": brief["spread"]["mean"] >= SPREAD_POINTS,
        "oracle_minus_mean": brief["oracle_minus_mean"]["mean"] >= ORACLE_POINTS,
        "baselines": all(found[name]["ci95"][1] < brief["first_take"]["ci95"][0] for name in BASELINES),
    }


def join(shares: Mapping[float, Mapping[str, Any]]) -> dict[str, Any]:
    """The document. ConfigError for statistics of other scenes or takes, or without the chosen share."""
    if CHOSEN not in shares:
        raise ConfigError(f"no statistics of share {CHOSEN:g}", fix=f"give --share {CHOSEN:g}=FILE")
    wanted = shares[CHOSEN]["settings"]
    for share, found in shares.items():
        if found["settings"] != wanted:
            raise ConfigError(
                f"share {share:g} was measured with {found['settings']}, share {CHOSEN:g} with {wanted}",
                fix="measure all shares on the same scenes with the same takes",
            )
    ordered = sorted(shares)
    chosen = shares[CHOSEN]
    return {
        "schema": 1,
        "kind": "world",
        "settings": {**wanted, "chosen_share": CHOSEN, "rule": RULE},
        "shares": {
            f"{share:g}": {
                key: value
                for key, value in shares[share].items()
                if key not in ("settings", "notes", "measured_on")
            }
            | {"reached": reached(shares[share])}
            for share in ordered
        },
        "measured_on": chosen["measured_on"],
        "notes": chosen["notes"],
    }


def read_share(text: str) -> tuple[float, Mapping[str, Any]]:
    """SHARE=FILE. ConfigError for anything else."""
    share, _, path = text.partition("=")
    try:
        return float(share), json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"--share {text}: {error}", fix="give SHARE=FILE, a file that take_statistics wrote"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.quality.world_statistics", description=__doc__)
    parser.add_argument("--share", nargs="+", required=True, metavar="SHARE=FILE")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    options = parser.parse_args(arguments)
    try:
        document = join(dict(map(read_share, options.share)))
    except RetakeError as error:
        return user_error(error)
    settings = document["settings"]
    command = command_line(
        *("python", "-m", "bench.quality.take_statistics", "--generator", "G"),
        *("--count", settings["count"], "--takes", settings["takes"]),
    )
    write_json(options.out, document | {"command": f"{command}, of each share, then world_statistics"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
