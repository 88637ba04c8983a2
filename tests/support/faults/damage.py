"""Files of a run that were damaged while nobody looked: refused with a clear error, or without any effect."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.interruptions import interrupted_in_between, killed_in_between
from faults.trial import Finding, Story, Trial
from faults.workload import Workload

FILES = {
    "store": "run.sqlite",
    "store's log": "run.sqlite-wal",
    "manifest": "manifest.json",
    "trace": "trace.json",
    "settings": "config.toml",
    "take": "videos/*/attempt-0.mp4",
    "chosen clip": "chosen/*.mp4",
}
"""Of the run folder; a file that is not there yet is not damaged, and the trial is counted as skipped."""
INPUTS = {
    "retake.json": "generator/retake.json",
    "model_index.json": "generator/model_index.json",
    "config.json of the critic": "critic/config.json",
}


def flip(content: bytes, draw: random.Random) -> bytes:
    """One bit of each of one to eight bytes."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 8)):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def truncate(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def zero(content: bytes, draw: random.Random) -> bytes:
    """A block of zeros, as a disk leaves where it never wrote."""
    start = draw.randrange(len(content))
    return content[:start] + bytes(len(content[start : start + 4096])) + content[start + 4096 :]


WAYS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bits flipped": flip,
    "cut off": truncate,
    "a block of zeros": zero,
    "emptied": lambda content, draw: b"",
}


def damaged(*, seeds: int) -> Iterator[Trial]:
    """Every file in every way; half of the runs are unfinished, half are finished when it happens."""
    for file in (*FILES, *INPUTS):
        for way in WAYS:
            for seed in range(1 if way == "emptied" else seeds):
                yield Trial(
                    fault=f"damaged: {file}",
                    name=f"{way} {seed}",
                    run=lambda load, file=file, way=way, seed=seed: _damaged(load, file, way, seed),
                )


def _damaged(shared: Workload, file: str, way: str, seed: int) -> Finding:
    load = shared.copy_of_inputs() if file in INPUTS else shared
    story = Story(load, load.folder())
    if seed % 2 == 1 or file == "chosen clip":
        story.add(load.run(load.begin(story.out)))
    else:  # a killed run has no trace
        story.add((interrupted_in_between if file == "trace" else killed_in_between)(load, story.out))
    root, pattern = (load.root, INPUTS[file]) if file in INPUTS else (story.out, FILES[file])
    found = sorted(root.glob(pattern))
    draw = random.Random(f"{file} {way} {seed}")
    if found and found[0].stat().st_size:
        path = draw.choice(found)
        whole = path.read_bytes()
        _damage(story, path, WAYS[way](whole, draw), whole)
    else:
        story.finding.skipped = f"{pattern} is not there yet"
        story.go_on()
    finding = story.end()
    if load is not shared:
        shared.remove(load.root)
    return finding


def _damage(story: Story, path: Path, content: bytes, whole: bytes) -> None:
    """Resume and report with the damaged file; where both are refused, put it back and go on."""
    load = story.load
    path.write_bytes(content)
    ended = load.run(["resume", str(story.out)])
    told = load.run(["report", str(story.out)])
    if told.unclear or told.status not in (0, 2):
        story.finding.unclear.append(f"report, status {told.status}: {told.output[-400:]}")
    if ended.status == 0:
        story.add(ended)
        return
    if path.exists():
        path.write_bytes(whole)
    story.add(ended, expected=(1, 2))
    story.go_on()
