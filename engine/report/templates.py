"""The parts that pages are made of: templates, scripts and style. Knows no page."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from engine.words import counted


def templates(*rooms: str) -> Environment:
    """Of these rooms of the engine, the first that has one. Whatever a template is given, it escapes."""
    made = Environment(
        loader=ChoiceLoader([PackageLoader("engine", room) for room in rooms]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["counted"] = counted
    return made


def page_script(name: str, *, room: str = "report") -> str:
    """The script of a page: players of takes and a table, as all pages have them, and its own."""
    return "".join((part_of_page("player.js"), part_of_page("table.js"), part_of_page(name, room=room)))


def part_of_page(name: str, *, room: str = "report") -> str:
    return (resources.files("engine") / room / name).read_text(encoding="utf-8")


def source_hash(script: str) -> str:
    """For a content security policy that lets this script run, and no other."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
