"""The critic with and without its stages, on the takes of a finished run over held-out scenes.

A critic writes what it sees, what it expects and its findings before it judges. Here the same prompt is asked
again with the first characters of the reply written for it, so that fault, verdict and score, in the order in
which the critic knows them, come right behind the clips. Each is compared with the stored, staged critique of
the same take, by the take's Verified case score:

- `unstaged` begins with the fault: the stages are left out, and nothing is said of them. What follows is
  constrained to the words and scores that there are (`judgement_replies`), since a critic that never saw such
  a reply may go on with anything else. This is the fairest form.
- `unstaged_free` is the same without the constraint: what the critic makes of it by itself.
- `empty_stages` writes each stage as an empty list. In training no finding meant that the take was accepted,
  so that this opening hints at the verdict: it is there to see what the choice of an opening does.
- `swapped_stages` begins with the stages that the critic wrote of a take of the next scene: a reply of the
  form that it was trained on. Where it judges by its stages alone, its verdicts are no better than chance.

Decoding is greedy, one try, and ends behind the score; the critic's own parser reads the reply.

    python -m bench.quality.critic_stages --run RUN --out critic_stages.json [--limit N] [--again]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.analysis.bootstrap import RESAMPLES, balanced_ci95, mean_ci95
from bench.analysis.scored_run import read_finished
from bench.console import page_console, user_error
from bench.files import write_json
from bench.quality.critic_faults import FaultTake, fault_figures, fault_takes
from bench.quality.critic_figures import read_plans, read_truths
from bench.quality.critic_judgements import Judgements, judgement, stages
from bench.quality.critic_reliability import StatedTake, reliability, stated_takes
from bench.quality.demo_quality import published_manifest
from bench.quality.measured_models import manifest_of
from bench.quality.scene_parts import require_held_out
from bench.scoring.physics_iq import score_folder
from bench.scoring.view_metrics import Case
from engine.api.takes import finish
from engine.build.model_folders import find_critic
from engine.build.prepare import load_critic
from engine.critics.qwen_vl.schema import parse_critique
from engine.datasets.physics_iq import open_dataset, read_descriptions
from engine.errors import ConfigError, RetakeError, ScorerError
from engine.machine.device import resolve_device, resolve_dtype
from engine.runs.manifest import weight_digests
from engine.runs.store import RunStore
from engine.settings.environment import offline
from engine.types import Attempt, Critique, Outcome, PhysicsPlan, PlanReply, Scenario, Verdict, Video
from engine.video.files import read_frames
from engine.words import command_line, counted

STAGED: Final = "staged"
"""The critiques that the run stored."""
AGAIN: Final = "staged_again"
FREE: Final = "unstaged_free"
OPENINGS: Final = {
    "unstaged": '{"fault":"',
    FREE: '{"fault":"',
    "empty_stages": '{"seen":[],"expected":[],"findings":[],"fault":"',
}
"""By form what is written of the reply; all but FREE are constrained."""
SWAPPED: Final = "swapped_stages"
SPARE_TOKENS: Final = 8
"""More than the longest judgement has: a critic that is not constrained may put spaces between."""
NOTES: Final = (
    "A take is acceptable by its Verified case score (`threshold`, percent).",
    "The bundled critic was trained with stages only: a reply without them is outside of what it was trained "
    "on. The difference says what the stages are worth to this critic, not what one trained without them "
    "would be.",
    "staged: the critiques that the run stored, of takes before they were encoded, second tries included; "
    "the other forms see the stored clips. staged_again: asked as the loop asks, of the stored clips.",
    "unstaged: the reply is begun with its fault, and constrained to faults, verdicts and scores in steps of "
    "five. unstaged_free: not constrained. empty_stages: constrained too, begun with empty lists for the "
    "stages; in training no finding meant that the take was accepted. swapped_stages: constrained, begun "
    "with what the critic wrote of a take of the next scene.",
    "difference: staged minus this form, paired by take.",
    "faults: of takes that are not acceptable; the true one follows from the plan that the take was told "
    "(bench/quality/critic_faults.py).",
    f"Intervals: 95 %, percentile bootstrap over scenes, {RESAMPLES} resamples.",
)

Told = Callable[[str], object]
Ask = Callable[[Scenario, Attempt, Video, PhysicsPlan | None], Critique]
Opening = Callable[[Scenario, Attempt], str]


def staged_again(
    critic: Any, scenario: Scenario, attempt: Attempt, video: Video, plan: PhysicsPlan | None
) -> Critique:
    """As the loop asks. critic: a loaded one of engine/critics/qwen_vl."""
    critique: Critique = finish(critic.start(scenario, attempt.prompt, video, plan))
    return critique


def hurried(critic: Any, *, constrained: bool) -> Any:
    """The critic for `unstaged`: it writes a judgement and no more. critic: one of engine/critics/qwen_vl."""
    judgements = Judgements.of(critic)
    limit = min(max(map(len, judgements.replies)) + SPARE_TOKENS, critic.settings.max_new_tokens)
    brief = replace(critic, settings=replace(critic.settings, max_new_tokens=limit))
    return replace(brief, grammars=judgements) if constrained else brief


def unstaged(
    critic: Any,
    opening: Opening,
    scenario: Scenario,
    attempt: Attempt,
    video: Video,
    plan: PhysicsPlan | None,
) -> Critique:
    """The critique of a take in a reply that begins with its `opening`; it has no plan. critic: `hurried`."""
    begun, constrained = opening(scenario, attempt), isinstance(critic.grammars, Judgements)
    job = critic.start(scenario, attempt.prompt, video, plan, begun=begun, constrained=constrained)
    finish(job)
    answer = job.answer
    return parse_critique(
        judgement(answer.text), num_tokens=answer.num_tokens, seconds=answer.seconds, cut=answer.cut
    )


def swapped(outcomes: Mapping[str, Outcome], scenes: Mapping[str, str]) -> Opening | None:
    """The stages that were written of the take at the same place in the next scenario, in a circle, that is
    of another scene and has some; None where not all have such a one. scenes: by scenario."""
    told = {
        key: [found for a in outcome.attempts if a.critique and (found := stages(a.critique.raw))]
        for key, outcome in outcomes.items()
    }
    circle = [*outcomes, *outcomes]
    others: dict[str, list[str]] = {}
    for place, key in enumerate(outcomes):
        behind = circle[place + 1 : place + len(outcomes)]
        others[key] = next((told[one] for one in behind if told[one] and scenes[one] != scenes[key]), [])
    if not all(others.values()):
        return None
    return lambda scenario, attempt: others[scenario.id][attempt.index % len(others[scenario.id])]


def ways(
    critic: Any, outcomes: Mapping[str, Outcome], scenes: Mapping[str, str], *, again: bool
) -> dict[str, Ask]:
    """By form how the critic is asked about a take. critic: a loaded one of engine/critics/qwen_vl."""
    asks: dict[str, Ask] = {AGAIN: partial(staged_again, critic)} if again else {}
    free, constrained = (hurried(critic, constrained=kept) for kept in (False, True))

    def always(text: str) -> Opening:
        return lambda scenario, attempt: text

    for name, text in OPENINGS.items():
        asks[name] = partial(unstaged, free if name == FREE else constrained, always(text))
    if (opening := swapped(outcomes, scenes)) is not None:
        asks[SWAPPED] = partial(unstaged, constrained, opening)
    return asks


def asked(
    run: Path,
    outcomes: Mapping[str, Outcome],
    scenarios: Mapping[str, Scenario],
    plans: Mapping[str, PlanReply],
    forms: Mapping[str, Ask],
    told: Told,
) -> dict[str, dict[str, Outcome]]:
    """By form the same outcomes, with its critiques of the takes that have one. The critic is told the plan
    that the loop told it."""
    found: dict[str, dict[str, Outcome]] = {name: {} for name in forms}
    for number, (scenario_id, outcome) in enumerate(outcomes.items(), 1):
        attempts: dict[str, list[Attempt]] = {name: [] for name in forms}
        first = plans[scenario_id].plan if scenario_id in plans else None
        for attempt in outcome.attempts:
            if attempt.critique is None:
                continue
            scenario = scenarios[scenario_id]
            video = Video(frames=read_frames(run / attempt.video_path), fps=scenario.prefix.fps)
            for name, ask in forms.items():
                critique = ask(scenario, attempt, video, attempt.prompt.plan or first)
                attempts[name].append(replace(attempt, critique=critique))
        for name, made in attempts.items():
            found[name][scenario_id] = replace(outcome, attempts=tuple(made))
        told(f"critiques of {number}/{counted(len(outcomes), 'scenario')}")
    return found


def document(
    forms: Mapping[str, Mapping[str, Outcome]],
    cases: Sequence[tuple[int, Case]],
    truths: Mapping[str, PhysicsPlan],
) -> dict[str, Any]:
    """By form its figures, and by form but the first the first one minus it; shares in [0, 1], null where
    there is nothing to take them of. The forms hold critiques of the same takes."""
    takes = {name: stated_takes(outcomes, cases) for name, outcomes in forms.items()}
    faults = {name: fault_takes(outcomes, cases, truths) for name, outcomes in forms.items()}
    first, *others = forms
    return {
        "num_scenes": len({take.scene for take in takes[first]}),
        "num_takes": len(takes[first]),
        "forms": {name: form_figures(takes[name], faults[name]) for name in forms},
        "difference": {
            name: {
                **_balanced(takes[first], takes[name]),
                "fault_accuracy": _fewer_faults(faults[first], faults[name]),
            }
            for name in others
        },
    }


def form_figures(takes: Sequence[StatedTake], faults: Sequence[FaultTake]) -> dict[str, Any]:
    """Those of `reliability`, its balanced accuracies and the other shares as {"mean", "ci95"}."""
    return {
        **reliability(takes),
        **_balanced(takes),
        "accepted": _share([take.verdict is Verdict.ACCEPT for take in takes], takes),
        "unreadable": _share([take.stated is None for take in takes], takes),
        "faults": fault_figures(faults),
    }


def _balanced(takes: Sequence[StatedTake], others: Sequence[StatedTake] = ()) -> dict[str, Any]:
    """Balanced accuracies, or how much more than those of the others; null without both kinds of takes."""
    less = [other.is_right for other in others] or [False] * len(takes)
    gains = [(take, take.is_right - right) for take, right in zip(takes, less, strict=True)]
    found: dict[str, Any] = {}
    for name, of in (("balanced_accuracy", gains), ("balanced_accuracy_sure", _clear(gains))):
        kinds, scenes = [str(take.acceptable) for take, _ in of], [take.scene for take, _ in of]
        both = len(set(kinds)) == 2
        found[name] = balanced_ci95([gain for _, gain in of], kinds, scenes) if both else None
    return found


def _clear(gains: Sequence[tuple[StatedTake, int]]) -> list[tuple[StatedTake, int]]:
    return [(take, gain) for take, gain in gains if take.is_clear]


def _share(hits: Sequence[bool], takes: Sequence[StatedTake]) -> dict[str, Any] | None:
    return mean_ci95(hits, [take.scene for take in takes]) if takes else None


def _fewer_faults(takes: Sequence[FaultTake], others: Sequence[FaultTake]) -> dict[str, Any] | None:
    """How much more often the fault is right than in the others."""
    gains = [take.is_right - other.is_right for take, other in zip(takes, others, strict=True)]
    return mean_ci95(gains, [take.scene for take in takes]) if takes else None


def measure(
    run: Path, *, device: str | None, limit: int | None, jobs: int | None, again: bool, told: Told
) -> dict[str, Any]:
    """The JSON document. ScorerError for a run that is not finished, has no critiques with a score, or whose
    critic is another one by now; ConfigError for scenes that are not held out and for a limit below 1."""
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit {limit} is below 1", fix="give a number of scenarios, or leave it out")
    config, outcomes, _ = read_finished(run)
    outcomes = dict(islice(outcomes.items(), limit))
    with RunStore.open(run, read_only=True) as store:
        plans = read_plans(store)
    manifest, folder = published_manifest(run), find_critic(config.critic.name)
    _require_same_weights(run, manifest, folder.path)
    scenes = {row.scenario_id: row.scene for row in read_descriptions(config.dataset)}
    require_held_out(scenes[scenario_id] for scenario_id in outcomes)
    scores = score_folder(run, config.dataset, all_attempts=True, jobs=jobs)
    if not stated_takes(outcomes, scores.attempts):
        raise ScorerError(
            f"no take of {run} has both a critique and a score", fix="measure a run whose takes were judged"
        )
    place = resolve_device(device or config.device)
    dtype = resolve_dtype(config.dtype, place)
    critic = load_critic(config, folder, place, dtype, with_weights=True)
    asks = ways(critic, outcomes, scenes, again=again)
    scenarios = {scenario.id: scenario for scenario in open_dataset(config.dataset).scenarios(scores.fps)}
    forms = {STAGED: outcomes, **asked(run, outcomes, scenarios, plans, asks, told)}
    return {
        "schema": 1,
        "kind": "critic_stages",
        "settings": {"device": place, "dtype": dtype, "limit": limit, "openings": OPENINGS},
        **document(forms, scores.attempts, read_truths(config.dataset, list(outcomes))),
        "measured_on": manifest_of({}),
        "manifest": manifest,
        "notes": list(NOTES),
    }


def _require_same_weights(run: Path, manifest: Mapping[str, Any], folder: Path) -> None:
    known = manifest["models"].get("critic", {})
    today = weight_digests(folder)
    if today != {name: known.get(name) for name in today}:
        raise ScorerError(
            f"the critic of {run} had other weights than those in {folder}",
            fix="measure a run of this critic, or put its weights back",
        )


SHOWN: Final = {
    "balanced_accuracy": "verdicts right, both kinds of takes weighed equally",
    "balanced_accuracy_sure": "the same, more than ten points from the threshold",
    "accepted": "accepted",
    "within_scene": "correlation within a scene",
    "calibration_error": "calibration error, points",
    "unreadable": "unreadable",
}


def print_table(found: Mapping[str, Any], console: Console) -> None:
    forms = found["forms"]
    table = Table(
        "figure",
        *forms,
        title=f"{counted(found['num_takes'], 'take')} of {counted(found['num_scenes'], 'scene')}",
    )
    for key, label in SHOWN.items():
        table.add_row(label, *(_cell(form[key]) for form in forms.values()))
    table.add_row("fault named right", *(_cell(form["faults"]["fault_accuracy"]) for form in forms.values()))
    for key in ("balanced_accuracy", "balanced_accuracy_sure", "fault_accuracy"):
        cells = [_cell(found["difference"].get(name, {}).get(key)) for name in forms]
        table.add_row(f"{STAGED} minus this form, {key}", *cells)
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        low, high = value["ci95"]
        return f"{value['mean']:.3f} ({low:.3f} to {high:.3f})"
    return "-" if value is None else f"{value:.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality.critic_stages",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, help="a finished run over simulated scenes")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--limit", type=int, help="only the first scenarios of the run")
    parser.add_argument("--again", action="store_true", help="ask with stages again too, of the stored clips")
    parser.add_argument("--device", help="of the critic: auto, cpu or cuda; default: as the run says")
    parser.add_argument("--jobs", type=int, help="scoring processes; default: every core")
    options = parser.parse_args(arguments)
    console = page_console()
    offline()
    try:
        found = measure(
            options.run,
            device=options.device,
            limit=options.limit,
            jobs=options.jobs,
            again=options.again,
            told=partial(print, file=sys.stderr, flush=True),
        )
    except RetakeError as error:
        return user_error(error)
    words = ["bench.quality.critic_stages", "--run", options.run.name]
    words += ["--limit", options.limit] if options.limit is not None else []
    found["command"] = command_line("python", "-m", *words, *(["--again"] if options.again else []))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, found)
    print_table(found, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
