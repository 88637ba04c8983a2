"""What a run rests on changes between its start and its resumption: it is named and refused, never used."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from engine.video.files import write_mp4
from faults.interruptions import killed_in_between
from faults.process import Ended
from faults.trial import Finding, Story, Trial
from faults.workload import Workload

Change = Callable[[Workload, Path], Path]
"""Changes one file of the inputs or of the run folder and returns its path."""


def _flipped(find: Callable[[Workload], Path]) -> Change:
    def change(load: Workload, out: Path) -> Path:
        path = find(load)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        return path

    return change


def _other_prefix(load: Workload, out: Path) -> Path:
    path = _clips(load)[0]
    write_mp4(path, np.full((24, 32, 32, 3), 200, np.uint8), 8.0)
    return path


def _no_prefix(load: Workload, out: Path) -> Path:
    path = _clips(load)[0]
    path.unlink()
    return path


def _other_text(load: Workload, out: Path) -> Path:
    path = next(load.dataset.rglob("clip-0.txt"))
    path.write_text("A square falls.")
    return path


def _other_setting(load: Workload, out: Path) -> Path:
    path = out / "config.toml"
    path.write_text(path.read_text().replace("seed = 0", "seed = 1"))
    return path


CHANGES: dict[str, Change] = {
    "weights of the generator": _flipped(lambda load: next(load.generator.rglob("*.safetensors"))),
    "retake.json": _flipped(lambda load: load.generator / "retake.json"),
    "tokenizer of the critic": _flipped(lambda load: load.critic / "tokenizer.json"),
    "prefix": _other_prefix,
    "prefix gone": _no_prefix,
    "text": _other_text,
    "setting": _other_setting,
}


def changed(*, seeds: int) -> Iterator[Trial]:
    """Needs a folder of own clips. The change comes at one of two moments, which the seed draws."""
    for name in CHANGES:
        for seed in range(seeds):
            yield Trial(
                fault=f"changed between start and resume: {name}",
                name=str(seed),
                run=lambda load, name=name, seed=seed: _changed(load, CHANGES[name], name, seed),
            )


def _changed(shared: Workload, change: Change, name: str, seed: int) -> Finding:
    load = shared.copy_of_inputs()
    story = Story(load, load.folder())
    story.add(killed_in_between(load, story.out))
    if random.Random(seed).random() < 0.5:
        story.add(killed_in_between(load, story.out))
    kept = {path: path.read_bytes() for path in _files(load, story.out)}
    path = change(load, story.out)
    ended: Ended = load.run(load.go_on(story.out))
    story.add(ended, expected=(2,))
    if ended.status == 0:
        story.silent.append(f"{name}: changed and not noticed")
    path.write_bytes(kept[path])
    story.go_on()
    found = story.end()
    shared.remove(load.root)
    return found


def _clips(load: Workload) -> list[Path]:
    return sorted(load.dataset.rglob("*.mp4"))


def _files(load: Workload, out: Path) -> list[Path]:
    return [
        path
        for folder in (load.dataset, load.generator, load.critic, out)
        for path in folder.rglob("*")
        if path.is_file()
    ]
