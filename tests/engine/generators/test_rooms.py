"""A family is a room: whoever runs one family imports nothing of another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from engine import plugins

LOAD = """
import json, sys
from pathlib import Path
from engine.build.model_folders import find_generator
from engine.settings.presets import PRESETS

found, cache = find_generator("demo"), Path(sys.argv[1])
made = found.loader().load(found.path, device="cpu", dtype="fp32", denoise=PRESETS["fast"], cache=cache)
ours = {name: list(vars(module)) for name, module in sys.modules.items() if name.startswith("engine.")}
print(json.dumps([made.notes["forward"], ours]))
"""


def test_a_fast_generator_imports_no_other_family(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOAD, str(tmp_path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    forward, ours = json.loads(output.splitlines()[-1])
    assert forward == "fast" and "engine.generators.wan.forward" in ours
    others = [f"engine.generators.{name}." for name in plugins.names("engine.generators") if name != "wan"]
    assert others and not [name for name in ours if name.startswith(tuple(others))]
    assert not [name for name, names in ours.items() if any("Cosmos3" in entry for entry in names)]
