"""A folder of the user's own clips as a dataset: each clip is a prefix, its sentence lies beside it.

Knows no benchmark and has no references. The text of `clip.mp4` comes from `prompts.csv` (columns file,text)
or from `clip.txt`. Of a clip longer than 3 s the LAST 3 s are the prefix: the continuation starts at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.datasets._text import read_rows, read_text
from engine.errors import DatasetError, VideoError
from engine.types import PREFIX_SECONDS, Scenario
from engine.video.files import probe_each, probed
from engine.words import counted
from kernels.files import name_fault

_SAVE = "save it as UTF-8 text"
_SAVE_CSV = 'save it as UTF-8; Excel calls that "CSV UTF-8"'
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFolder:
    """`Dataset` over the clips of one folder, in name order."""

    root: Path
    texts: dict[str, str]  # by clip file name

    def scenarios(self, fps: float) -> Sequence[Scenario]:
        """One scenario per clip. Frame rates are resampled on reading: `fps` only fills unreadable headers.

        An unreadable clip keeps its place with size 0x0, and `check` refuses it.
        """
        paths = [self.root / name for name in self.texts]
        clips = probe_each(paths, fps=fps, num_frames=round(PREFIX_SECONDS * fps))
        return [
            Scenario(
                id=path.stem,
                text=text,
                prefix=clip,
                category="own clips",
                output_name=f"{path.stem}.mp4",
            )
            for path, text, clip in zip(paths, self.texts.values(), clips, strict=True)
        ]

    def check(self, scenario: Scenario) -> None:
        """Raise VideoError unless the clip is readable and at least 3 s long, less one frame."""
        clip = probed(scenario.prefix)
        if clip.num_frames + 1 < round(PREFIX_SECONDS * clip.fps):
            raise VideoError(
                f"{clip.path} is {clip.seconds:.2f} s long ({counted(clip.num_frames, 'frame')} at "
                f"{clip.fps:g} fps); at least {PREFIX_SECONDS:g} s are needed",
                fix="give a longer clip; the last 3 s are used",
            )


def open_dataset(root: Path) -> ClipFolder:
    """Open a folder of clips with `prompts.csv` or one text file per clip.

    Raises DatasetError: no folder, no clips, clips without text, rows without a clip, two clips of one stem.
    """
    if not root.is_dir():
        raise DatasetError(
            f"{root} is not a folder", fix="give a Physics-IQ folder, or a folder of your own clips"
        )
    names = sorted(entry.name for entry in root.iterdir() if entry.suffix.lower() in SUFFIXES)
    if not names:
        raise DatasetError(
            f"{root} holds no clip; allowed: {', '.join(SUFFIXES)}",
            fix="put clips of at least 3 s into the folder",
        )
    if strange := [name for name in names if name_fault(name)]:
        raise DatasetError(
            f"the name of {strange[0]!r} in {root} {name_fault(strange[0])}",
            fix="rename the clip, for example in plain letters",
        )
    stems = [Path(name).stem for name in names]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise DatasetError(
            f"{root} holds several clips named {', '.join(twice[:5])}", fix="rename them apart"
        )
    listed = _read_prompts(root / "prompts.csv", names)
    texts = {name: listed.get(name) or _sidecar(root / name) for name in names}
    silent = [name for name, text in texts.items() if not text]
    if silent:
        raise DatasetError(
            f"{len(silent)} of {counted(len(names), 'clip')} in {root} have no text: {', '.join(silent[:5])}",
            fix="write what happens in STEM.txt beside each clip, or list file,text in prompts.csv",
        )
    return ClipFolder(root=root, texts=texts)


def _read_prompts(path: Path, names: Sequence[str]) -> dict[str, str]:
    """`prompts.csv` as file name to text; empty when there is no such file."""
    if not path.is_file():
        return {}
    rows = read_rows(path, ("file", "text"), fix=_SAVE_CSV, fix_columns="give it the columns file,text")
    prompts = {record["file"]: record["text"].strip() for _, record in rows}
    unknown = [name for name in prompts if name not in names]
    if unknown:
        raise DatasetError(
            f"{path} lists {counted(len(unknown), 'file that is', 'files that are')} not there: "
            f"{', '.join(map(str, unknown[:5]))}",
            fix=f"correct the names in the column file, for example {names[0]}",
        )
    return prompts


def _sidecar(clip: Path) -> str:
    path = clip.with_suffix(".txt")
    return " ".join(read_text(path, fix=_SAVE).split()) if path.is_file() else ""
