"""What is disturbed: a small run, started and resumed by its command line, and the same run undisturbed.

Three kinds. `real` loads tiny Wan and Qwen3-VL folders and generates with them. `quick` has stand-ins for
the two models and everything else as it is, and imports no model library. `bare` is the loop over its store,
with no command line, manifest or report: a run in some hundredths of a second, for `make test`.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rich.console import Console
from scripted_critic import Ready, ScriptedCritic

import engine.cli
from engine.build import prepare as preparing
from engine.build.engine import encoder
from engine.build.model_folders import ModelFolder
from engine.commands._progress import make_display
from engine.loop.lanes import make_lanes
from engine.loop.policy import RefinementPolicy
from engine.loop.scenario import Components, ScenarioLoop
from engine.loop.scheduler import Scheduler
from engine.machine.streams import HostPool
from engine.runs.store import RunStore
from engine.runs.trace import HostRecorder
from engine.runs.watched import Watched
from engine.settings.config import LoopConfig
from engine.types import Clip, Footprint, Prompt, Scenario, Video, VideoSpec
from engine.video.files import write_mp4
from faults.evidence import State, read_state
from faults.process import Command, Ended, start
from faults.syscalls import Call

SPEC = VideoSpec(width=32, height=32, fps=8.0, prefix_frames=24, num_frames=8)
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Run folders lie in memory where that can be: a kill loses nothing that was written, on a disk either."""
OPTIONS = ("--device", "cpu", "--dtype", "fp32")
BEST_OF_TWO = ("--loops", "1", "--samples", "2", "--selectors", "consensus,critic_score")


@dataclass(slots=True, kw_only=True)
class Workload:
    """Folders of a run, and how its process gets its models. Its runs lie side by side below `root`."""

    root: Path
    dataset: Path
    generator: Path
    critic: Path
    options: Sequence[str]
    first: Callable[[], None]
    """Called in a forked process before the command."""
    main: Callable[[], None] = engine.cli.main
    """What carries out the command line in sys.argv."""
    _numbers: Any = field(default_factory=itertools.count)
    _reference: State | None = None

    def folder(self) -> Path:
        return self.root / f"run-{os.getpid()}-{next(self._numbers)}"

    def begin(self, out: Path) -> list[str]:
        """The command line that starts a run."""
        models = ("--generator", str(self.generator), "--critic", str(self.critic))
        return ["run", str(self.dataset), *models, *OPTIONS, *self.options, "--out", str(out)]

    def go_on(self, out: Path) -> list[str]:
        """What a user types after an interruption: resume where there is a run, else the same once more."""
        return ["resume", str(out)] if (out / "run.sqlite").exists() else self.begin(out)

    def start(self, arguments: Sequence[str], *, watched: bool = False) -> Command:
        return start(arguments, self._log(), main=self.main, first=self.first, watched=watched)

    def run(
        self, arguments: Sequence[str], *, answer: Callable[[Command, Call], int | None] | None = None
    ) -> Ended:
        """To its end; with `answer` asked before each call that changes a file."""
        command = self.start(arguments, watched=answer is not None)
        return command.wait() if answer is None else command.watch(lambda call: answer(command, call))

    def reference(self) -> State:
        """Of the run that nothing disturbed."""
        if self._reference is None:
            out = self.folder()
            ended = self.run(self.begin(out))
            assert ended.status == 0, f"the undisturbed run failed:\n{ended.output}"
            self._reference = read_state(out)
            self.remove(out)
        return self._reference

    def num_calls(self) -> int:
        """Of the undisturbed run; another one may have a few more or less, as threads take turns."""
        out = self.folder()
        ended = self.run(self.begin(out), answer=lambda command, call: None)
        assert ended.status == 0, f"the undisturbed run failed:\n{ended.output}"
        self.remove(out)
        return ended.num_calls

    def copy_of_inputs(self) -> Workload:
        """The same with a dataset and models that may be damaged. Takes the reference along."""
        place = self.folder()
        folders = {
            name: Path(shutil.copytree(getattr(self, name), place / name))
            for name in ("dataset", "generator", "critic")
        }
        made = replace(self, root=place, **folders)
        made._reference = self.reference()
        return made

    def remove(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    def _log(self) -> Path:
        return self.root / f"output-{os.getpid()}-{next(self._numbers)}.txt"


def real(root: Path, *, options: Sequence[str] = ("--loops", "1")) -> Workload:
    """Tiny Wan, 64x64 pixels, 40 frames; three scenes of two takes, or of four with `BEST_OF_TWO`."""
    from sliding import SlidingSquare
    from tiny_run import make_folders

    from engine.demo.layout import write_dataset

    folders = make_folders(root)
    shutil.rmtree(folders.dataset)
    scenes = [SlidingSquare(number) for number in range(3)]
    write_dataset(folders.dataset, scenes, views=("perspective-center",))
    return Workload(
        root=root,
        dataset=folders.dataset,
        generator=folders.generator,
        critic=folders.critic,
        options=options,
        first=_script_the_critic,
    )


def quick(root: Path, *, options: Sequence[str] = ("--loops", "1"), num_clips: int = 2) -> Workload:
    """Clips of 32x32 pixels and 8 frames, drawn by seed."""
    dataset = root / "clips"
    for number in range(num_clips):
        frames = np.full((24, 32, 32, 3), 40 + 60 * number, np.uint8)
        write_mp4(dataset / f"clip-{number}.mp4", frames, 8.0)
        (dataset / f"clip-{number}.txt").write_text("A square slides.")
    return Workload(
        root=root,
        dataset=dataset,
        generator=_folder(root / "generator", GENERATOR_FILES),
        critic=_folder(root / "critic", CRITIC_FILES),
        options=options,
        first=_stand_in,
    )


GENERATOR_FILES: Mapping[str, object] = {
    "model_index.json": {"_class_name": "WanPipeline"},
    **{f"{part}/config.json": {} for part in ("transformer", "vae", "text_encoder")},
    **{f"{part}/x.safetensors": {} for part in ("transformer", "vae", "text_encoder")},
    "tokenizer/tokenizer_config.json": {},
    "scheduler/scheduler_config.json": {},
    "retake.json": {},
}
CRITIC_FILES: Mapping[str, object] = {
    "config.json": {"model_type": "qwen3_vl"},
    "x.safetensors": {},
    "tokenizer.json": {},
}
"""As much as the search for a model looks at; the weights are of no account."""


def _folder(folder: Path, files: Mapping[str, object]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


class DrawnGenerator:
    """A square at a place of the seed on a ground of the text: equal requests give equal frames."""

    spec = SPEC
    negative_prompt = ""
    num_steps = 1

    def __init__(self) -> None:
        self.notes: dict[str, str] = {}

    def footprint(self, spec: VideoSpec) -> Footprint:
        return Footprint(held={"model": 1}, working={"step": 1})

    def relieve(self) -> None:
        return None

    def start(self, scenario: Scenario, prompt: Prompt) -> Any:
        draw = np.random.default_rng([prompt.seed, *prompt.text.encode()])
        frames = np.full((SPEC.num_frames, SPEC.height, SPEC.width, 3), draw.integers(0, 200), np.uint8)
        left, top = draw.integers(0, 16, 2)
        for index, frame in enumerate(frames):
            frame[top : top + 8, left + index : left + index + 8] = (220, 200, 60)
        return Ready(Video(frames=frames, fps=SPEC.fps))


def warm_up(load: Workload) -> None:
    """A run and its report in this process: what they import late, every fork has then."""
    critic, loader, argv = preparing.load_critic, ModelFolder.loader, sys.argv
    out = load.folder()
    try:
        load.first()
        sys.argv = ["retake", *load.begin(out)]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            engine.cli.main()
    finally:
        preparing.load_critic, ModelFolder.loader, sys.argv = critic, loader, argv  # type: ignore[method-assign]
    assert (out / "report.html").is_file(), "the run that warms up failed"
    load.remove(out)


def bare(root: Path, *, num_scenarios: int = 2) -> Workload:
    """Its command line is read by `_loop_alone`; there are no folders."""
    nowhere = root / "nowhere"
    options = ("--scenarios", str(num_scenarios))
    places = {"dataset": nowhere, "generator": nowhere, "critic": nowhere}
    return Workload(root=root, options=options, first=lambda: None, main=_loop_alone, **places)


def _loop_alone() -> None:
    """`run ... --scenarios N --out FOLDER`, or `resume FOLDER`."""
    out = Path(sys.argv[-1])
    if sys.argv[1] == "resume":
        store = RunStore.open(out)
    else:
        scenarios = [_scene(number) for number in range(int(sys.argv[sys.argv.index("--scenarios") + 1]))]
        store = RunStore.create(out, scenarios)
    pending = store.pending()
    with store, make_display(Console(), len(pending)) as display, HostPool(2) as host:
        by = Components(
            generator=DrawnGenerator(),
            critic=ScriptedCritic(),
            policy=RefinementPolicy(settings=LoopConfig(loops=1), negative=""),
            sink=Watched(store, display),
            encode=encoder(store.folder),
        )
        loops = [ScenarioLoop(scenario=one, by=by, past=store.history(one.id)) for one in pending]
        lanes = make_lanes(host=host, recorder=HostRecorder(), progress=display)
        for _ in Scheduler(loops, lanes, progress=display, ahead=4).run():
            pass


def _scene(number: int) -> Scenario:
    clip = Clip(path=Path("none.mp4"), fps=SPEC.fps, num_frames=24, width=32, height=32)
    return Scenario(
        id=f"scene-{number}", text="A ball.", prefix=clip, category="", output_name=f"scene-{number}.mp4"
    )


def _script_the_critic() -> None:
    preparing.load_critic = lambda *arguments, **options: ScriptedCritic()


def _stand_in() -> None:
    _script_the_critic()
    family = SimpleNamespace(load=lambda *arguments, **named: DrawnGenerator())
    ModelFolder.loader = lambda self: family  # type: ignore[method-assign]
