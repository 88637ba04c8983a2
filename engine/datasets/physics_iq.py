"""The Physics-IQ benchmark on disk (original or Verified), as questions: brief sentence and 3 s prefix.

Information boundary: this module reads descriptions.csv and the conditioning clips and builds no other path
below the benchmark; the reference clips and masks are the scorer's. Takes of the same scenario share a view.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.datasets._text import read_rows
from engine.datasets.folder import SUFFIXES
from engine.errors import DatasetError
from engine.types import PREFIX_SECONDS, Scenario
from engine.video.files import check_clip, probe_each, probed
from engine.words import counted
from kernels.files import name_fault

TREES = ("physics-IQ-benchmark", "physics-IQ-benchmark-verified")
COLUMNS = ("scenario", "description", "category", "generated_video_name")
NUM_CASES = 198  # take-1 rows of the whole benchmark
PUBLISHED_FPS = (8, 16, 24, 30)
TRIMMED = "trimmed-"
"""In front of the names of scenes: their clips are cut around the moment at which the prefix ends."""
VIEWS = ("perspective-left", "perspective-center", "perspective-right")
_REPOSITORY = "the folder descriptions/ of the benchmark's repository"
_GIVE = "give the folder that holds the benchmark, or a folder of your own clips with their texts"
_DOWNLOAD = "download the benchmark again, or make a dataset with `retake scenes OUT`"


def untrimmed(scene: str) -> str:
    """The name of a scene as it was filmed or simulated."""
    return scene.removeprefix(TRIMMED)


def kind_of(scene: str) -> str:
    """KIND of a simulated scene, whose name is KIND-SEED; of footage what stands before the last hyphen."""
    return untrimmed(scene).rpartition("-")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """One row of descriptions.csv, with its `scenario` column taken apart."""

    number: int  # 1-based id; take-2 rows continue after all take-1 rows
    view: str  # "perspective-left"
    take: str  # "take-1" or "take-2"
    scene: str  # "trimmed-ball-and-block"
    text: str
    category: str
    output_name: str

    @property
    def scenario_id(self) -> str:
        return f"{self.number:04d}_{self.view}"

    def file_name(self, kind: str, fps: int) -> str:
        """The benchmark's name of one of this row's clips, for example `kind` "conditioning-videos"."""
        return f"{self.number:04d}_{kind}_{fps}FPS_{self.view}_{self.take}_{self.scene}.mp4"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicsIQ:
    """`Dataset` over one benchmark tree."""

    tree: Path
    rows: tuple[Description, ...]

    def scenarios(self, fps: float) -> Sequence[Scenario]:
        """The take-1 rows with their conditioning clips at `fps`, in id order.

        A clip that cannot be read becomes a scenario too, with the expected header and size 0x0, so that one
        bad file costs one scenario: `check` refuses it. Raises DatasetError when this rate has no clips.
        """
        folder = _rate_folder(self.tree / "split-videos" / "conditioning", fps)
        cases = cases_of(self.rows)
        names = [row.file_name("conditioning-videos", round(fps)) for row in cases]
        missing = [name for name in names if not (folder / name).is_file()]
        if len(missing) == len(names):
            raise DatasetError(
                f"{folder} lacks all {counted(len(missing), 'conditioning clip')} of descriptions.csv, "
                f"the first: {', '.join(missing[:5])}",
                fix=_DOWNLOAD,
            )
        clips = probe_each([folder / name for name in names], fps=fps, num_frames=round(PREFIX_SECONDS * fps))
        return [
            Scenario(
                id=row.scenario_id,
                text=row.text,
                prefix=clip,
                category=row.category,
                output_name=row.output_name,
            )
            for row, clip in zip(cases, clips, strict=True)
        ]

    def check(self, scenario: Scenario) -> None:
        """Raise VideoError unless the prefix is a readable clip of its folder's frame rate, 3 s ± 1 frame."""
        fps = float(scenario.prefix.path.parent.name.removesuffix("FPS"))
        check_clip(probed(scenario.prefix), fps=fps, num_frames=round(PREFIX_SECONDS * fps))


def open_dataset(root: Path) -> PhysicsIQ:
    """Open `root`, which is the benchmark tree or a folder that holds it; descriptions.csv lies in either.

    Raises DatasetError for a missing or empty folder, a missing descriptions.csv or column, unreadable rows.
    """
    return PhysicsIQ(tree=benchmark_tree(root), rows=read_descriptions(root))


def benchmark_tree(root: Path) -> Path:
    """The folder that holds split-videos. DatasetError when neither `root` nor a child of it does."""
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder", fix=_GIVE)
    if not any(root.iterdir()):
        raise DatasetError(f"{root} is empty", fix=f"{_DOWNLOAD}, or put clips of your own there")
    for tree in (root, *(root / name for name in TREES)):
        if (tree / "split-videos").is_dir():
            return tree
    if any(entry.suffix.lower() in SUFFIXES for entry in root.iterdir()):
        raise DatasetError(
            f"{root} is a folder of your own clips, not the benchmark: how they go on is not known, so "
            "nothing of them is scored",
            fix="see the critic's scores in the report; or give Physics-IQ, or what `retake scenes` wrote",
        )
    raise DatasetError(
        f"{root} holds neither split-videos/ nor {' nor '.join(f'{name}/split-videos/' for name in TREES)}",
        fix=_GIVE,
    )


def rival_trees(root: Path) -> list[str]:
    """The trees that lie in `root` where these are several, so that `benchmark_tree` would choose for you."""
    if (root / "split-videos").is_dir():
        return []
    found = [name for name in TREES if (root / name / "split-videos").is_dir()]
    return found if len(found) > 1 else []


def frame_rates(folder: Path) -> list[int]:
    """Of the folders such as 24FPS in `folder`."""
    names = (entry.name.removesuffix("FPS") for entry in folder.glob("*FPS") if entry.is_dir())
    return sorted(int(name) for name in names if name.isdecimal())


def conditioning_clips(root: Path, cases: Iterable[Description], fps: int) -> dict[str, Path]:
    """Of cases that have one: by output name, at `fps` or, without a folder of that, at the highest rate."""
    folder = benchmark_tree(root) / "split-videos" / "conditioning"
    rates = frame_rates(folder)
    if not rates:
        return {}
    rate = fps if fps in rates else rates[-1]
    paths = {
        row.output_name: folder / f"{rate}FPS" / row.file_name("conditioning-videos", rate) for row in cases
    }
    return {name: path for name, path in paths.items() if path.is_file()}


def descriptions_path(root: Path) -> Path:
    """The descriptions.csv in `root`, in the tree or next to it. Raises DatasetError."""
    tree = benchmark_tree(root)
    places = [root / "descriptions.csv", tree / "descriptions.csv", tree.parent / "descriptions.csv"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise DatasetError(
            f"no descriptions.csv in {' or '.join(str(place.parent) for place in dict.fromkeys(places))}",
            fix=f"copy there, as descriptions.csv, the prompts that you use from {_REPOSITORY}",
        )
    return path


def read_descriptions(root: Path) -> tuple[Description, ...]:
    """All rows of descriptions.csv, both takes, in file order. Raises DatasetError."""
    path = descriptions_path(root)
    records = read_rows(
        path,
        COLUMNS,
        fix=f"take it from {_REPOSITORY}",
        fix_columns=f"take the file with the columns {', '.join(COLUMNS)} from {_REPOSITORY}",
        telling={"prediction": "the schema of the first release"},  # of December 2024, with other clip names
    )
    rows = tuple(_description(path, line, record) for line, record in records)
    if not cases_of(rows):
        raise DatasetError(f"{path} has {counted(len(rows), 'row')}, none of take-1", fix=_DOWNLOAD)
    return rows


def cases_of(rows: Iterable[Description]) -> list[Description]:
    """The test cases: what is asked, answered and scored is take 1."""
    return [row for row in rows if row.take == "take-1"]


def _description(path: Path, line: int, record: dict[str, str]) -> Description:
    """Take "0001_perspective-left_take-1_trimmed-ball.mp4" apart."""
    name = record["scenario"] or ""
    parts = name.removesuffix(".mp4").split("_", maxsplit=3)
    if len(parts) != 4 or not parts[0].isdigit() or parts[2] not in ("take-1", "take-2"):
        raise DatasetError(
            f"{path}, line {line}: scenario {name!r} is not of the form ID_VIEW_take-1|take-2_SCENE.mp4",
            fix="restore the row from the benchmark's descriptions.csv",
        )
    for file in (name, record["generated_video_name"]):
        if file and (fault := name_fault(file)):
            raise DatasetError(
                f"{path}, line {line}: {file!r} cannot be the name of a clip: it {fault}",
                fix="restore the row from the benchmark's descriptions.csv",
            )
    if not record["description"] or not record["generated_video_name"]:
        raise DatasetError(
            f"{path}, line {line}: description or generated_video_name is empty",
            fix="restore the row from the benchmark's descriptions.csv",
        )
    return Description(
        number=int(parts[0]),
        view=parts[1],
        take=parts[2],
        scene=parts[3],
        text=record["description"],
        category=record["category"],
        output_name=record["generated_video_name"],
    )


def _rate_folder(parent: Path, fps: float) -> Path:
    """`parent`/{F}FPS; DatasetError naming the rates that exist."""
    folder = parent / f"{fps:g}FPS"
    if folder.is_dir():
        return folder
    rates = sorted(entry.name for entry in parent.glob("*FPS") if entry.is_dir())
    raise DatasetError(
        f"{folder} does not exist; frame rates found in {parent}: {', '.join(rates) or 'none'}",
        fix=f"download the {fps:g} FPS clips, or choose a generator of one of the frame rates found",
    )
