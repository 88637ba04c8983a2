"""The user's script over the same scenarios, watched from outside."""

from __future__ import annotations

import time

from bench.baselines.script import ScriptScenario, load_script
from bench.perf.end_to_end import facts
from bench.perf.end_to_end.measured import LOOPS, WARM_UP_STEPS, Measured, Options, Window, say, timed
from engine.build.prepare import prepare
from engine.machine.device import use_threads
from engine.runs.trace import HostRecorder
from engine.settings.environment import num_threads
from engine.words import counted


def measure(options: Options) -> Measured:
    """No scenario begins that would not end in the budget, by the mean of those before it."""
    seconds: dict[str, float] = {}
    began_s = time.perf_counter()
    prepared = prepare(options.config(warm_up=False))
    timed(seconds, "prepare", began_s)
    if prepared.device == "cpu":
        use_threads(num_threads())
    began_s = time.perf_counter()
    script = load_script(
        prepared.generator.path,
        prepared.critic.path,
        device=prepared.device,
        dtype=prepared.dtype,
        quantization=options.quantization,
        num_steps=options.num_steps,
        best_stock=options.variant.best_stock,
    )
    timed(seconds, "load", began_s)
    if options.warm_up:
        began_s = time.perf_counter()
        before = prepare(options.config(warm_up=True)).scenarios[0]
        script.num_steps = WARM_UP_STEPS
        script.run(before, options.runs / "warm_up", HostRecorder(), loops=LOOPS)
        script.num_steps = options.num_steps
        timed(seconds, "warm_up", began_s)
    made: dict[str, ScriptScenario] = {}
    finished_s: dict[str, float] = {}
    with Window() as window:
        recorder = HostRecorder()
        for scenario in prepared.usable:
            passed_s = time.perf_counter() - window.began_s
            needed_s = passed_s / len(made) if made else 0.0
            if options.deadline_s is not None and time.perf_counter() + needed_s > options.deadline_s:
                of_all = counted(len(prepared.usable), "scenario is", "scenarios are")
                say(f"the budget is spent: {len(made)} of {of_all} done")
                break
            made[scenario.id] = script.run(scenario, options.runs / "measured", recorder, loops=LOOPS)
            finished_s[scenario.id] = time.perf_counter() - window.began_s
            say(f"{scenario.id}: {finished_s[scenario.id] - passed_s:.1f} s")
    return Measured(
        began_s=window.began_s,
        finished_s=finished_s,
        facts={name: facts.of_script(one) for name, one in made.items()},
        spans=recorder.spans(),
        notes=script.notes,
        window=window,
        seconds=seconds,
    )
