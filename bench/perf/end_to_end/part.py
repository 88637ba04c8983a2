"""One part: a variant measured in this process, as a document with the manifest of its machine."""

from __future__ import annotations

import itertools
import resource
import statistics
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from bench.perf.document import SCHEMA, this_machine
from bench.perf.end_to_end.made import CLIPS, read_facts
from bench.perf.end_to_end.measured import LOOPS, Measured, Options
from engine.build.libraries import without_unused
from engine.errors import ConfigError
from engine.runs.idle import idle, jobs_of
from engine.runs.timeline import totals
from engine.runs.trace import LANES
from engine.settings.environment import cache_folder
from engine.words import command_line, counted

KIND = "end_to_end_part"


def measure(options: Options, command: str) -> tuple[dict[str, Any], Measured]:
    """The document, and what it was made of. ConfigError where there are fewer clips than asked for."""
    made = read_facts(options.models)
    num_clips = len(list((options.models / CLIPS).glob("*.mp4")))
    if not 1 <= options.num_scenarios <= num_clips:
        raise ConfigError(
            f"{counted(options.num_scenarios, 'scenario is', 'scenarios are')} asked of "
            f"{counted(num_clips, 'clip')} in {options.models / CLIPS}",
            fix=f"ask for 1 to {num_clips}, or make more: "
            + command_line("make", "--out", options.models, "--clips", "N"),
        )
    kernels = cache_folder() / "kernels"
    cached = kernels.is_dir() and any(kernels.iterdir())
    found = _measured(options)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": KIND,
        "command": command,
        "manifest": this_machine(),
        "variant": options.variant.name,
        "says": options.variant.says,
        "settings": {
            "size": made["size"],
            "reply_tokens": made["reply_tokens"],
            "patch_tokens": made["patch_tokens"],
            "steps": options.num_steps,
            "loops": LOOPS,
            "quantization": options.quantization,
        },
        "warm_up": options.warm_up,
        "kernel_cache_filled": cached,
        "notes_of_models": dict(found.notes),
        "num_asked": options.num_scenarios,
        "num_done": len(found.finished_s),
        "complete": len(found.finished_s) == options.num_scenarios,
        "seconds_before": found.seconds,
        "process_to_window_s": found.began_s - options.started_s,
        **_speed(found, options),
        **_first(found, options),
        **_work(found, complete=len(found.finished_s) == options.num_scenarios),
        "idle": idle(found.spans, "generate", max(found.finished_s.values(), default=0.0)),
        **found.window.memory,
        "host_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "gpu_samples": found.window.sampler.summary(),
        "scenarios": dict(found.facts),
    }
    if found.window.sampler.missing:
        document["gpu_samples_missing"] = found.window.sampler.missing
    return document, found


def _measured(options: Options) -> Measured:
    """Each imports what it runs: a run of Retake does so as its command does, without what it never uses."""
    if options.variant.is_script:
        from bench.perf.end_to_end import script_run

        return script_run.measure(options)
    with without_unused():
        from bench.perf.end_to_end import engine_run

        return engine_run.measure(options)


def _speed(found: Measured, options: Options) -> dict[str, Any]:
    """Seconds a scenario over the whole makespan; and between the first end and the last of several.

    The second leaves out how a pipeline fills, but also what the scenarios in flight have done before. Where
    scenarios follow one another, `each_s` has their own: the first of a process without a warm-up is cold.
    """
    ends = list(found.finished_s.values())
    if not ends:
        return {"finished_s": {}}
    speed = {
        "makespan_s": ends[-1],
        "seconds_per_scenario": ends[-1] / len(ends),
        "scenarios_per_hour": 3600 * len(ends) / ends[-1],
        "finished_s": dict(found.finished_s),
    }
    if len(ends) > 1:
        speed["steady_seconds_per_scenario"] = (ends[-1] - ends[0]) / (len(ends) - 1)
    if options.variant.one_after_the_other:
        speed["each_s"] = [end - before for before, end in itertools.pairwise([0.0, *ends])]
    return speed


def _first(found: Measured, options: Options) -> dict[str, float]:
    """When the first take was a file and, in a run of Retake, the first denoise step was done.

    Since the window began and since the process did; the latter is a user's where nothing warmed up before.
    """
    moments = {}
    if ends := [span.end_s for span in found.spans if span.lane == "encode"]:
        moments["first_take"] = min(ends)
    takes = jobs_of(found.spans, "generate")
    if not options.variant.is_script and takes:
        earliest = min(takes, key=lambda spans: spans[0].start_s)
        if len(earliest) > 1:  # the step before reads the prefix
            moments["first_denoise_step"] = earliest[1].end_s
    shift = found.began_s - options.started_s
    return {f"{name}_s": s for name, s in moments.items()} | {
        f"process_to_{name}_s": shift + s for name, s in moments.items()
    }


def _work(found: Measured, *, complete: bool) -> dict[str, Any]:
    """Tokens, busy seconds of the lanes, and the median length of each kind of job."""
    total = totals(found.spans)
    tokens = {name: facts["tokens"] for name, facts in found.facts.items()}
    lengths: Mapping[str, list[float]] = defaultdict(list)
    for lane in LANES:
        for spans in jobs_of(found.spans, lane):
            lengths[spans[0].name].append(spans[-1].end_s - spans[0].start_s)
    work: dict[str, Any] = {
        "tokens_per_scenario": tokens,
        "busy_s": {lane: total.busy_s[lane] for lane in LANES if lane in total.busy_s},
        "overlap_share": total.overlap_share,
        "median_s": {name: statistics.median(values) for name, values in lengths.items()},
    }
    written, busy_s = sum(tokens.values()), total.busy_s.get("critique")
    if complete and written and busy_s:  # of a stopped run the lane was busy with others too
        work["tokens_per_critique_second"] = written / busy_s
    return work
