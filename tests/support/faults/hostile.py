"""Texts and files that nobody meant to write: any of them gives a value or an error with its fix.

Properties over generated values; `make test` tries a few of each, the campaign thousands.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import given as given_by
from hypothesis import strategies as st

from engine.build.model_folders import find_critic, find_generator, weight_elements
from engine.build.opened_dataset import open_dataset
from engine.critics.qwen_vl.schema import parse_critique, parse_plan
from engine.datasets.physics_iq import read_descriptions
from engine.errors import RetakeError
from engine.report.write import write_report
from engine.runs.store import RunStore
from engine.settings.config import load_config, write_config
from engine.settings.config import settings as setting_keys
from engine.types import Attempt, Clip, Outcome, Prompt, Scenario
from faults.trial import Finding, Trial
from faults.workload import CRITIC_FILES, GENERATOR_FILES, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """`check` raises AssertionError where a value was taken for something else, any other error is a fault.

    It gets a folder of its own. `share` of the examples asked for are tried, of slow ones fewer.
    """

    fault: str
    values: st.SearchStrategy[Any]
    check: Callable[[Any, Path], None]
    share: float = 1.0


_LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_JSON = st.recursive(
    _LEAF, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
_WORDS = ("plan", "score", "verdict", "fault", "findings", "revise", "accept", "seen", "t", "object", "issue")
_OBJECT = st.dictionaries(st.sampled_from(_WORDS) | st.text(max_size=5), _JSON, max_size=8)
_PIECE = (
    _OBJECT.map(lambda value: json.dumps(value))
    | st.sampled_from(
        ['{"', "}", "[" * 400, '{"a":' * 400, "<think>", "</think>", "```json\n", "\0", "\udcff"]
    )
    | st.text(max_size=30)
)
REPLIES = st.lists(_PIECE, max_size=6).map("".join)


def _reply(text: str, folder: Path) -> None:
    for cut in (False, True):
        plan = parse_plan(text, cut=cut)
        critique = parse_critique(text, num_tokens=1, seconds=0.1, cut=cut)
        readable = critique.verdict != "unreadable"
        assert readable == (critique.score is not None), f"{critique.verdict} with score {critique.score}"
        assert critique.score is None or 0 <= critique.score <= 100, f"score {critique.score}"
        for value in (None if plan is None else asdict(plan), asdict(critique)):
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


_KEYS = st.sampled_from(sorted(setting_keys()))
_TABLES = st.dictionaries(_KEYS | st.text(max_size=8), _LEAF | st.lists(_LEAF, max_size=3), max_size=6)


def _settings(values: dict[str, Any], folder: Path) -> None:
    """By option and by file: what is taken is written and read back as it was."""
    config = load_config(None, values, default_out=folder / "run")
    write_config(config, folder / "config.toml")
    assert load_config(folder / "config.toml", {}) == config, f"{values} reads back as another"


_TOML = st.lists(
    st.sampled_from(
        ['dataset = "a"', "[loop]", "loops = 2", "seed = 99999999999999999999", "x =", "loops = nan"]
    )
    | st.text(max_size=20),
    max_size=8,
).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogateescape")) | st.binary(max_size=60)


def _toml(content: bytes, folder: Path) -> None:
    (folder / "given.toml").write_bytes(content)
    load_config(folder / "given.toml", {"dataset": "a"}, default_out=folder / "run")


_HEADERS = ("scenario", "description", "category", "generated_video_name", "file", "text", "take")
_CELLS = st.text(max_size=12) | st.sampled_from(
    ["0001_perspective-left_trimmed-ball.mp4", "clip.mp4", '"', "\0", "x" * 200_000, "../x", "/etc/passwd"]
)
_CSV = st.lists(st.lists(_CELLS, max_size=6).map(",".join), max_size=5).map(
    lambda rows: "\n".join([",".join(_HEADERS), *rows]).encode("utf-8", "replace")
) | st.binary(max_size=200)


def _csv(content: bytes, folder: Path) -> None:
    """As the benchmark's descriptions and as the prompts of own clips."""
    (folder / "descriptions.csv").write_bytes(content)
    with suppress(RetakeError):
        read_descriptions(folder)
    (folder / "descriptions.csv").unlink()
    (folder / "prompts.csv").write_bytes(content)
    (folder / "clip.mp4").write_bytes(b"")
    open_dataset(folder).scenarios(8.0)


_MODEL_FILES = sorted(
    [f"generator/{name}" for name in GENERATOR_FILES] + [f"critic/{name}" for name in CRITIC_FILES]
)
_MODEL_JSON = st.tuples(
    st.sampled_from(_MODEL_FILES),
    _JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60),
)


def _model_files(values: tuple[str, bytes], folder: Path) -> None:
    for kind, files in (("generator", GENERATOR_FILES), ("critic", CRITIC_FILES)):
        for name, content in files.items():
            path = folder / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))
    (folder / values[0]).write_bytes(values[1])
    find_generator(str(folder / "generator"))
    find_critic(str(folder / "critic"))
    weight_elements(folder / values[0].partition("/")[0])


_NAMES = st.text(min_size=1, max_size=90).filter(lambda name: "\0" not in name) | st.sampled_from(
    ["..", ".", "/", "a/b", "a" * 251, "é" * 125, "\udcff"]
)


def _file_names(name: str, folder: Path) -> None:
    """A store either refuses a name or keeps a take and its chosen copy under it."""
    clip = Clip(path=Path("x.mp4"), fps=8.0, num_frames=24, width=4, height=4)
    scene = Scenario(id=name, text="A ball.", prefix=clip, category="Optics", output_name=f"{name}.mp4")
    with RunStore.create(folder / "run", [scene]) as store:
        if store.unwritable([scene]):
            return
        path = store.video_path(name, 0)
        (store.folder / path).write_bytes(b"video")
        prompt = Prompt(text="A ball.", negative="", seed=0, revision=0)
        attempt = Attempt(index=0, prompt=prompt, video_path=path, critique=None)
        store.attempt(name, attempt)
        store.outcome(Outcome(scenario_id=name, attempts=(attempt,), chosen=0, stopped="loops"))
    with RunStore.open(folder / "run") as store:
        assert [one.id for one in store.scenarios()] == [name]
        assert (store.folder / "chosen" / f"{name}.mp4").read_bytes() == b"video"


_RUN_FILES = st.tuples(
    st.sampled_from(["manifest.json", "trace.json", "scores.json"]),
    _JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(["traceEvents", "cases", "attempts", "models", "config"]), _JSON).map(
        lambda value: json.dumps(value).encode()
    )
    | st.binary(max_size=60),
)


def _report(values: tuple[str, bytes], folder: Path) -> None:
    clip = Clip(path=Path("x.mp4"), fps=8.0, num_frames=24, width=4, height=4)
    RunStore.create(
        folder / "run",
        [Scenario(id="a", text="A ball.", prefix=clip, category="Optics", output_name="a.mp4")],
    ).close()
    (folder / "run" / values[0]).write_bytes(values[1])
    write_report(folder / "run")


PROPERTIES = (
    Property(fault="hostile replies of the critic", values=REPLIES, check=_reply),
    Property(fault="hostile settings, by option", values=_TABLES, check=_settings),
    Property(fault="hostile settings, TOML", values=_TOML, check=_toml),
    Property(fault="hostile CSV of a dataset", values=_CSV, check=_csv, share=0.5),
    Property(fault="hostile JSON in model folders", values=_MODEL_JSON, check=_model_files, share=0.5),
    Property(fault="hostile file names in a store", values=_NAMES, check=_file_names, share=0.25),
    Property(fault="hostile JSON in a run folder", values=_RUN_FILES, check=_report, share=0.25),
)


def given(*, examples: int) -> Iterator[Trial]:
    for one in PROPERTIES:
        yield Trial(
            fault=one.fault,
            name="generated",
            run=lambda load, one=one: tried(one, round(examples * one.share), load),
        )


def tried(one: Property, examples: int, load: Workload) -> Finding:
    finding = Finding(tried=0)

    def check(value: Any) -> None:
        finding.tried += 1
        run_check(one, value)

    try:
        sought(one, examples)(check)()
    except AssertionError as error:
        finding.damage.unequal.append(_last_line(error))
    except Exception as error:  # noqa: BLE001 whatever it is, a user would have seen it
        finding.unclear.append(_last_line(error))
    return finding


def sought(one: Property, examples: int) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """The decorator of hypothesis for this property: the same examples each time."""
    chosen = settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )

    def decorate(check: Callable[[Any], None]) -> Callable[[], None]:
        return chosen(given_by(one.values)(check))

    return decorate


def run_check(one: Property, value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder, suppress(RetakeError):
        one.check(value, Path(folder))


def _last_line(error: BaseException) -> str:
    notes = " ".join(itertools.chain.from_iterable(note.split() for note in getattr(error, "__notes__", ())))
    return f"{type(error).__name__}: {error} {notes}"[:400]
