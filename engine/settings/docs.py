"""docs/settings.md, made from the settings: `make docs`, or python -m engine.settings.docs.

What a model's `retake.json` may set is found by name: `SIDECAR_SETTINGS` in the `settings.py` of its family.
A test fails where the file is not what this module writes.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from engine import plugins
from engine.settings.config import RunConfig
from engine.settings.fields import Entry, entries
from engine.settings.presets import PRESETS, DenoiseSettings

PATH = Path(__file__).parents[2] / "docs" / "settings.md"

HEAD = """\
# Settings

<!-- made by `make docs` from engine/settings; change the fields there -->

Every setting is an option of `retake run`, `retake plan` and `retake demo`, and a key of the TOML file that
`--config` names; options win over the file. `--set KEY=VALUE` gives a setting by its key, such as
`--set loop.loops=2`. In TOML a key stands in its section, with texts in quotes and lists in brackets; on the
command line the names of a list are separated by commas. An unknown key is refused with the nearest known
one, a value out of range with what is allowed. A run folder keeps all of its settings in `config.toml`.

```toml
limit = 10

[denoise]
preset = "fast"
linear = "int8"

[loop]
selectors = ["consensus", "critic_score"]
```

`RETAKE_THREADS` in the environment limits the CPU threads.
"""


SIDECARS = """\
## Beside a model: `retake.json`

A JSON object in the folder of a model may set what that model wants to be run with. The options of a run win
over it. An unknown key, another type or a value out of range is refused. In a folder that is generator and
critic, what the critic may set stands in an object of its own, under `critic`.
"""


def settings_page() -> str:
    """The whole page as Markdown."""
    sections = {field.name: field.metadata.get("section") for field in dataclasses.fields(RunConfig)}
    parts = [HEAD]
    for name, group in groupby(entries(RunConfig), key=lambda entry: entry.section):
        about = sections.get(name)
        title, text = ("Run", "Outside of any section.") if about is None else (about.title, about.help)
        heading = f"## {title}: `[{name}]`" if name else f"## {title}"
        parts += [f"{heading}\n\n{text}\n", _table(group)]
        if name == "denoise":
            parts += ["What each preset sets:\n", _presets()]
    parts.append(SIDECARS)
    for what, family, cls in sidecar_settings():
        parts += [f"A {what} of the family `{family}`:\n", _sidecar_table(cls)]
    return "\n".join(parts)


def sidecar_settings() -> Iterator[tuple[str, str, type]]:
    """ "generator" or "critic", the family, and the class of the settings that its folders may have."""
    for what in ("generator", "critic"):
        package = f"engine.{what}s"
        for family in plugins.names(package):
            if "settings" in plugins.names(f"{package}.{family}"):
                yield what, family, plugins.load(f"{package}.{family}", "settings").SIDECAR_SETTINGS


def _sidecar_table(cls: type) -> str:
    rows = [
        (f"`{entry.name}`", entry.default_text, entry.allowed, entry.setting.help) for entry in entries(cls)
    ]
    return _markdown(("key", "default", "allowed", "meaning"), rows)


def _table(group: Iterable[Entry]) -> str:
    rows = [
        (
            f"`{entry.name}`",
            entry.name.upper() if entry.setting.positional else f"`{_option(entry)}`",
            entry.default_text or "must be given",
            entry.allowed,
            entry.setting.help,
        )
        for entry in group
    ]
    return _markdown(("key", "option", "default", "allowed", "meaning"), rows)


def _option(entry: Entry) -> str:
    return f"--no-{entry.option[2:]}" if entry.default is True else entry.option


def _presets() -> str:
    rows = [
        (f"`{part.name}`", *(_text(getattr(preset, part.name)) for preset in PRESETS.values()))
        for part in entries(DenoiseSettings)
    ]
    return _markdown(("key", *PRESETS), rows)


def _text(value: object) -> str:
    if value in (None, ()):
        return "not set"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def main(arguments: Sequence[str]) -> None:
    path = Path(arguments[0]) if arguments else PATH
    path.write_text(settings_page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
