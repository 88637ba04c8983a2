"""Writes a run as an evaluation log of Inspect (version 2 of its schema), which its viewer and tools read.

Reads the run folder only, with nothing of Inspect. A finished scenario is a sample, its takes and critiques
are the messages, the chosen take is the output. Invariant: what a run does not know is left out, not guessed.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from engine.errors import ConfigError
from engine.report.run_data import Record, Scores
from engine.report.write import SCORES, StoredRecords, read_scores
from engine.runs.database import SCHEMA_VERSION
from engine.runs.folder import DATABASE
from engine.runs.manifest import MANIFEST, read_manifest
from engine.runs.store import RunStore
from engine.runs.takes import is_of
from engine.types import Attempt, Outcome
from kernels.files import read_json, whole_file

LOG_VERSION: Final = 2
DEFAULT_NAME: Final = "inspect.eval"
"""In the run folder."""
VERIFIED, CRITIC = "physics_iq_verified", "critic"
"""The names of the two scores: percent, 0 to 100, higher is better."""
KEPT_FACTS: Final = ("machine", "models", "seeds", "resolved")
"""Of the manifest, that Inspect has no place for."""
_VIDEO_FORMATS: Final = {".mp4": "mp4", ".mov": "mov", ".mpeg": "mpeg", ".mpg": "mpeg"}
_EPOCH: Final = 1
Document = dict[str, Any]


def write_eval_log(run: Path, target: Path) -> Path:
    """Write the log to `target`: `.eval` (a zip with a file a sample) or `.json` (one document); return it.

    Equal runs give equal files. ConfigError for another suffix, StoreError and ScorerError as a report.
    """
    writers = {".eval": _write_zip, ".json": _write_json}
    if target.suffix not in writers:
        raise ConfigError(
            f"{target} is not the name of an Inspect log", fix="give a file that ends in .eval or .json"
        )
    with RunStore.open(run, read_only=True) as store, whole_file(target) as part:
        log = Log(run.resolve(), store)
        writers[target.suffix](part, log)
    return target


class Log:
    """The parts of a log, each made when it is asked for: the samples of thousands of scenarios are large."""

    def __init__(self, run: Path, store: RunStore) -> None:
        self.run = run
        self.records: Sequence[Record] = StoredRecords(store)
        self.manifest = read_manifest(run / MANIFEST)
        self.scores: Scores | None = read_scores(run / SCORES)
        if self.scores is not None and not is_of(read_json(run / SCORES), store):
            self.scores = None  # of other takes than the run has now
        folders = {role: Path(str(one.get("folder", role))) for role, one in self._models.items()}
        self.models = {role: f"retake/{folder.name}" for role, folder in folders.items()}

    @property
    def _models(self) -> Mapping[str, Mapping[str, Any]]:
        found: Mapping[str, Mapping[str, Any]] = self.manifest.get("models", {})
        return found

    def samples(self) -> Iterator[Document]:
        for record in self.records:
            if record.outcome is not None:
                yield self._sample(record, record.outcome)

    def header(self) -> Document:
        """All but the samples."""
        started, critic, num_logged, num_failed = self._started(), [], 0, 0
        for record in self.records:
            if record.outcome is None:
                continue
            num_logged += 1
            num_failed += record.outcome.failure is not None
            take = _chosen(record)
            if take is not None and take.critique is not None and take.critique.score is not None:
                critic.append(take.critique.score)
        return {
            "version": LOG_VERSION,
            "status": "success" if num_logged == len(self.records) else "cancelled",
            "eval": self._spec(started),
            "plan": {"name": "retake", "steps": [{"solver": "retake", "params": self._config("loop")}]},
            "results": {
                "total_samples": len(self.records),
                "completed_samples": num_logged - num_failed,
                "scores": [*self._verified(num_logged), *_summed_up(CRITIC, critic, num_logged)],
            },
            "stats": {"started_at": started, "completed_at": ""},
        }

    def _started(self) -> str:
        """By the manifest; of a run without, when its store was last written."""
        if started := self.manifest.get("started"):
            return str(started)
        seconds = (self.run / DATABASE).stat().st_mtime
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")

    def _config(self, section: str) -> Document:
        found: Document = self.manifest.get("config", {}).get(section, {})
        return found

    def _identity(self, what: str) -> str:
        """The same for the same run, another for each `what`; 22 characters, as Inspect's own."""
        names = [record.scenario.id for record in self.records] if not self.manifest else []
        known = json.dumps([what, names, self.manifest], sort_keys=True, default=str)
        return hashlib.sha256(known.encode()).hexdigest()[:22]

    def _spec(self, started: str) -> Document:
        manifest, code = self.manifest, self.manifest.get("code", {})
        dataset = manifest.get("config", {}).get("dataset")
        revision = {"type": "git", "origin": "", "commit": code.get("commit"), "dirty": code.get("dirty")}
        scored = [VERIFIED, CRITIC] if self.scores is not None else [CRITIC]
        return {
            **{f"{name}_id": self._identity(name) for name in ("eval", "run", "task")},
            "created": started,
            "task": "retake",
            "task_display_name": "Retake: plan, generate, critique, retake",
            "task_args": self._config("loop"),
            "dataset": {
                "name": None if dataset is None else Path(dataset).name,
                "location": None if dataset is None else str(dataset),
                "samples": len(self.records),
                "sample_ids": [record.scenario.id for record in self.records],
                "shuffled": False,
            },
            "model": self.models.get("generator", "retake/unknown"),
            "model_args": {name: self._config(name) for name in ("generator", "denoise")},
            "model_roles": {
                role: {"model": name, "args": self._config(role)}
                for role, name in self.models.items()
                if role != "generator"
            },
            "config": {"limit": manifest.get("config", {}).get("limit"), "epochs": _EPOCH},
            "revision": revision if code.get("commit") else None,
            "packages": manifest.get("packages", {}),
            "scorers": [{"name": name} for name in scored],
            "metadata": {
                "run": str(self.run),
                "schema_version": SCHEMA_VERSION,
                **{
                    key: manifest[key]
                    for key in ("machine", "models", "seeds", "resolved")
                    if key in manifest
                },
            },
        }

    def _verified(self, num_logged: int) -> list[Document]:
        """The benchmark's figures of the whole run are no mean of the cases, and are told by their names."""
        if self.scores is None:
            return []
        found = _summed_up(VERIFIED, list(self.scores.cases.values()), num_logged)
        whole = {"physics_iq": self.scores.physics_iq, VERIFIED: self.scores.physics_iq_verified}
        for entry in found:
            entry["metrics"] |= {
                name: {"name": name, "value": value} for name, value in whole.items() if value is not None
            }
        return found

    def _sample(self, record: Record, outcome: Outcome) -> Document:
        scenario, take = record.scenario, _chosen(record)
        asked = {"role": "user", "source": "input", "content": _content(scenario.text, scenario.prefix.path)}
        output: Document = {"model": self.models.get("generator", ""), "choices": []}
        if take is not None:
            output["choices"] = [{"message": self._take(record, take), "stop_reason": "stop"}]
            output["completion"] = take.prompt.text
        found: Document = {
            "id": scenario.id,
            "epoch": _EPOCH,
            "uuid": self._identity(scenario.id),
            "input": [asked],
            "target": "",
            "messages": [asked, *self._messages(record)],
            "output": output,
            "scores": self._scores(record, take),
            "working_time": round(
                sum(sum(one.timings.values()) for one in record.attempts)
                + sum(sum(scout.timings.values()) for scout in record.scouts),
                3,
            ),
            "metadata": {
                "category": scenario.category,
                "output_name": scenario.output_name,
                "chosen": outcome.chosen,
                "chosen_by": "loop" if outcome.overruled is None else "user",
                "stopped": outcome.stopped,
            },
        }
        if record.scouts:
            found["metadata"]["scouts"] = [
                {
                    **{"candidate": s.candidate, "round": s.round, "stage": s.stage, "steps": s.form.steps},
                    **{"seed": s.prompt.seed, "prompt": s.prompt.text, "video": s.video_path.as_posix()},
                    **{"scores": s.scores, "place": s.place, "kept": s.kept},
                }
                for s in record.scouts
            ]
        if self.scores is not None and scenario.id in self.scores.unscored:
            found["metadata"]["unscored"] = self.scores.unscored[scenario.id]
        if outcome.failure is not None:
            found["error"] = {"message": outcome.failure, "traceback": "", "traceback_ansi": ""}
        return found

    def _messages(self, record: Record) -> Iterator[Document]:
        """The plan, then each take and what the critic wrote of it."""
        critic = {"role": "assistant", "model": self.models.get("critic", "")}
        if record.plan is not None:
            yield {**critic, "content": record.plan.raw, "metadata": {"part": "plan"}}
        for attempt in record.attempts:
            yield self._take(record, attempt)
            if (critique := attempt.critique) is not None:
                facts = {"verdict": str(critique.verdict), "score": critique.score, "take": attempt.index}
                yield {**critic, "content": critique.raw, "metadata": {"part": "critique", **facts}}

    def _take(self, record: Record, attempt: Attempt) -> Document:
        facts = {
            "part": "take",
            "take": attempt.index,
            "round": attempt.round,
            "sample": attempt.sample,
            "seed": attempt.prompt.seed,
            "device": attempt.device,
            "timings": attempt.timings,
            "selector_scores": attempt.selector_scores,
        }
        if self.scores is not None:
            facts[VERIFIED] = self.scores.attempts.get((record.scenario.id, attempt.index))
        return {
            "role": "assistant",
            "model": self.models.get("generator", ""),
            "content": _content(attempt.prompt.text, self.run / attempt.video_path),
            "metadata": facts,
        }

    def _scores(self, record: Record, take: Attempt | None) -> Document:
        """Of the chosen take; what has no score is left out, which Inspect counts as unscored."""
        found: Document = {}
        if self.scores is not None and record.scenario.id in self.scores.cases:
            found[VERIFIED] = {"value": self.scores.cases[record.scenario.id]}
        if take is not None and (critique := take.critique) is not None and critique.score is not None:
            found[CRITIC] = {
                "value": critique.score,
                "answer": str(critique.verdict),
                "explanation": "\n".join(
                    f"{one.t} s, {one.object}: {one.issue}" for one in critique.findings
                ),
                "metadata": {
                    "fault": str(critique.fault),
                    "findings": [asdict(f) for f in critique.findings],
                },
            }
        return found


def _chosen(record: Record) -> Attempt | None:
    if record.outcome is None or record.outcome.chosen is None:
        return None
    return record.attempts[record.outcome.chosen]


def _content(text: str, clip: Path) -> list[Document]:
    """Text and clip; a container that Inspect has no name for is named in words."""
    kind = _VIDEO_FORMATS.get(clip.suffix.lower())
    shown = {"type": "video", "video": str(clip), "format": kind}
    return [{"type": "text", "text": text}, shown if kind else {"type": "text", "text": f"clip: {clip}"}]


def _summed_up(name: str, values: Sequence[float], num_samples: int) -> list[Document]:
    """One entry of the results; none where nothing has this score."""
    if not values:
        return []
    return [
        {
            "name": name,
            "scorer": name,
            "scored_samples": len(values),
            "unscored_samples": num_samples - len(values),
            "metrics": {"mean": {"name": "mean", "value": fmean(values)}},
        }
    ]


def _summary(sample: Document) -> Document:
    """What a list of samples shows of one."""
    kept = ("id", "epoch", "uuid", "target", "scores", "metadata", "working_time")
    (text, *_) = sample["input"][0]["content"]
    return {
        **{key: sample[key] for key in kept},
        "input": text["text"],
        "error": sample.get("error", {}).get("message"),
        "completed": True,
        "message_count": len(sample["messages"]),
    }


def _write_json(path: Path, log: Log) -> None:
    """The header's members, then `samples`, one at a time."""
    head = json.dumps(log.header(), indent=1, default=str, allow_nan=False)
    with path.open("w", encoding="utf-8") as file:
        file.write(head.rstrip().removesuffix("}").rstrip() + ',\n "samples": [')
        for number, sample in enumerate(log.samples()):
            file.write("," * bool(number) + "\n" + json.dumps(sample, default=str, allow_nan=False))
        file.write("\n]\n}\n")


def _write_zip(path: Path, log: Log) -> None:
    summaries, header = [], log.header()
    start = {key: header[key] for key in ("version", "eval", "plan")}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "_journal/start.json", start)
        for sample in log.samples():
            _add(archive, f"samples/{sample['id']}_epoch_{_EPOCH}.json", sample)
            summaries.append(_summary(sample))
        _add(archive, "summaries.json", summaries)
        _add(archive, "header.json", header)


def _add(archive: zipfile.ZipFile, name: str, document: object) -> None:
    """Under a fixed time, so that equal runs give equal files."""
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, json.dumps(document, default=str, allow_nan=False))
