"""What README.md and the pages in docs quote of the measurements, by the name of their block.

Measures nothing and holds no number but the aims: every figure comes from a file or is a ratio of two in it.
Links of `picture` and `results` are README's, those of `forwards` a page's in docs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.results_page import (
    budget_section,
    commands_table,
    decode_section,
    demo_section,
    models_table,
    selector_tables,
)
from bench.results_page import markdown as md
from bench.results_page.page import Page
from bench.results_page.speed_sections import PLOTS
from bench.results_page.timed_rows import Row, best_stock, fastest, ratio, read_rows, timed
from engine.words import counted

AIM_LOOP = 8.0
"""Points that the chosen take should score above the first."""
AIM_VERDICTS = 0.75
"""Share of the critic's verdicts that should agree with the case score."""
AIM_BUDGET = budget_section.AIMS["share_of_oracle_at_2x"]
"""Of the gain of the best of eight takes, that twice a take's price should buy."""
AIM_SHARE = 0.6
"""Of the oracle's gain over a random choice, that a selector should reach."""
AIM_DECODE, AIM_SCORER_FURTHER, AIM_SCORER_FIRST = 3.0, 20.0, 3.0
"""Times as fast as the library, and as the official tool."""
AIM_RUN = 4.5
"""Times as fast as the script, warm."""
WHOLE_RUN = {
    "fast_over_script": f"warm (aim {AIM_RUN})",
    "fast_over_script_cold": "in the first scenario of a process",
    "fast_over_best_stock": "against the best of the libraries",
    "fastest_over_script": "with `fastest`",
}
"""Ratios of whole runs that the front page tells."""


def picture(page: Page) -> str:
    """The scenes of `retake demo`, as they were and as they were made."""
    name = "demo_run"
    scenes, whole = page.document(name)["scenes"], page.document("demo_quality")
    return (
        f"![{demo_section.ALT}]({PLOTS}/{demo_section.PLOT})\n\n"
        f"All {counted(len(scenes), 'scene')} of {page.link(name, 'one run')} of `retake demo`; in the mean "
        f"{demo_section.told(scenes)}. So few say little; {whole['n']} are measured [below](#measured)."
    )


def results(page: Page) -> str:
    """A line a measurement, each with its link."""
    lines = (_loop, _budget, _selectors, _forward, _quality, _decode, _run, _export, _scorer, _faults)
    return md.bullets([line(page) for line in lines])


def forwards(page: Page) -> str:
    """A row a model and size, of every denoiser that was timed."""
    header = ["one forward", "tokens", "diffusers ms", "best of it ms", "Retake ms", "against diffusers"]
    header += ["against the best of it", "% of FP8 roofline"]
    rows = [
        [
            f"[{subject['name']}](../RESULTS.md#{page.anchors[name]})",
            md.count(subject["tokens"]),
            *(md.ms(row.median_ms) for row in (first, stock, best)),
            md.times(ratio(first, best)),
            md.times(ratio(stock, best)),
            md.whole(100 * subject["roofline_ms"]["fp8"] / best.median_ms),
        ]
        for name, subject, first, stock, best in _forwards(page)
    ]
    return md.table(header, rows)


def decoding(page: Page) -> str:
    """Latents to frames: what the preset `fast` uses, against the library and the aim."""
    entries = page.document("vae_h200")["rows"]
    of_480p = [entry for entry in entries if entry["problem"].startswith("decode 480p")]
    rows = {row.name: row for row in read_rows(of_480p, "vae_h200")}
    used = rows["fused, merged and paired, chunks of 4"]
    gain = ratio(rows["library"], used)
    assert gain is not None, "read_rows gives times or a reason, and both were timed"
    return (
        f"In chunks of four latents, as `fast` decodes, that is {md.times(gain)}; {_aim(gain, AIM_DECODE)}."
    )


def _loop(page: Page) -> str:
    found = page.document("demo_quality")
    gain, judged = found["chosen_minus_first"], found["critic"]["by_case_score"]
    right = judged["balanced_accuracy"]
    return (
        f"**Loop**, {page.link('demo_quality')} on {counted(found['n'], 'simulated scene')}: the chosen "
        "take scores "
        f"{md.interval(found['chosen'])}, the first {md.interval(found['first_take'])}; paired gain "
        f"{md.interval(gain, sign='+')} points; {_aim(gain['mean'], AIM_LOOP)}. The critic's verdict "
        f"agrees with a case score of {judged['threshold']:g} at {md.percent(right)}, good and bad takes "
        f"weighed equally; {_aim(right, AIM_VERDICTS, md.percent)}."
    )


def _budget(page: Page) -> str:
    """What a take that is told the plan costs and gains, beside the loops that were meant to be better."""
    document = page.document("loop_budget")
    found = document["budgets"]["2x"]
    told, scouts = found["plan first"], document["scouts_by_name"]["2x"]
    beside = f"; scouts at twice the price of one {md.interval(found[scouts])}" if scouts in found else ""
    share, aim = md.percent(told["share_of_oracle"]["value"]), md.percent(AIM_BUDGET)
    return (
        f"**A GPU second**, {page.link('loop_budget')}: a take that is told the plan costs "
        f"{told['cost']:.2f} takes, plan and critique with it, and scores {md.interval(told)} where the "
        f"brief text's scores {md.interval(found['single'])}: {share} of what the best of eight takes would "
        f"gain (aim {aim}){beside}."
    )


def _selectors(page: Page) -> str:
    """Single selectors that choose better than chance among four takes: their interval leaves out zero."""
    document = page.document("selectors")
    choosers = next(iter(document["sets"].values()))["choosers"]
    single = list(document["selectors"])
    better = [name for name in single if choosers[name]["share"]["ci95"][0] > 0]
    told = f"**Selectors**, {page.link('selectors')}: of {len(single)} that choose one of four takes"
    if not better:
        return f"{told}, none does better than chance."
    shares = ", ".join(f"`{name}` {selector_tables.share(choosers[name]['share'])}" for name in better)
    best = max(choosers[name]["share"]["value"] for name in better)
    return (
        f"{told}, better than chance: {shares} of what the best take would gain; "
        f"{_aim(best, AIM_SHARE, md.percent)}."
    )


def _forward(page: Page) -> str:
    found, name = _forwards(page), _denoisers(page)[0]
    against_first = _range([ratio(first, best) for _, _, first, _, best in found])
    against_stock = _range([ratio(stock, best) for _, _, _, stock, best in found])
    return (
        f"**Denoiser**, {_random(page, name)}: a forward is {against_first} as fast as diffusers', "
        f"{against_stock} as the best of it (compiled, FlashAttention-3)."
    )


def _quality(page: Page) -> str:
    rows = {row["name"]: row for row in page.document("denoiser_quality")["rows"]}
    told = [
        f"`{name}` {md.interval(rows[f'preset {name}']['difference'], digits=2, sign='+')}"
        for name in ("fast", "fastest")
    ]
    return f"**What speed costs**, {page.link('denoiser_quality')}: {', '.join(told)} points against `exact`."


def _decode(page: Page) -> str:
    name, told = "vlm_decode_h200", []
    variants = page.document(name)["variants"]
    for ours in ("slots, bf16, 1", "slots, nf4, 1"):
        stock = decode_section.stock_of(ours, variants)
        assert stock is not None, f"{ours} has nothing to be compared with"
        rate, other = variants[ours]["tokens_per_s"], variants[stock]["tokens_per_s"]
        told.append(f"{ours.split(', ')[1]} {md.whole(rate)} tokens a second, {md.whole(other)} in `{stock}`")
    return f"**Critic**, {_random(page, name)}: {'; '.join(told)}."


def _run(page: Page) -> str:
    """Only what was measured: a campaign may lack variants, and says so in its section."""
    name = "end_to_end_h200"
    document = page.document(name)
    ratios = [
        f"{md.times(document['summary'][key])} {words}"
        for key, words in WHOLE_RUN.items()
        if key in document["summary"]
    ]
    seconds = [
        part["seconds_per_scenario"]
        for part in document["parts"]
        if part["variant"] == "fast" and part["warm_up"] and part.get("seconds_per_scenario")
    ]
    told = [f"`fast` against a script over diffusers and transformers: {', '.join(ratios)}"] if ratios else []
    told += [f"a warm scenario takes {md.ms(value)} s" for value in seconds]
    return f"**Whole run**, {_random(page, name)}: {'; '.join(told) or 'nothing can be compared'}."


def _export(page: Page) -> str:
    rows = [row for row in page.document("export_quality")["rows"] if row["name"] != "eager"]
    told = [f"{row['name'].upper()} {md.interval(row['difference'], digits=2, sign='+')}" for row in rows]
    return f"**Exported denoiser**, {page.link('export_quality')} in ONNX Runtime: {', '.join(told)} points."


def _scorer(page: Page) -> str:
    document = page.document("scoring")
    further, first = (document["timing"][f"times_faster_{name}"] for name in ("warm", "cold"))
    return (
        f"**Scorer**, {page.link('scoring')} against the official tool: largest difference "
        f"{md.small(document['largest_columns_difference'])}; the first model {first:.2f} times as fast "
        f"({_aim(first, AIM_SCORER_FIRST)}), a further one {further:.2f} "
        f"({_aim(further, AIM_SCORER_FURTHER)})."
    )


def _faults(page: Page) -> str:
    found = page.document("faults")["summary"]
    return (
        f"**Faults**, {page.link('faults')}: {md.count(found['kills'])} kills; "
        f"{counted(found['lost'], 'take')} lost, "
        f"{found['duplicated']} duplicated, {found['corrupt']} files corrupt, {found['unequal']} outcomes "
        "changed."
    )


def _forwards(page: Page) -> list[tuple[str, Mapping[str, Any], Row, Row, Row]]:
    """(file, subject, first row, fastest stock row, fastest row) of each denoiser that was timed."""
    found = []
    for name in _denoisers(page):
        for subject in page.document(name)["subjects"]:
            rows = read_rows(subject["variants"], name)
            stock, best = best_stock(rows), fastest(rows)
            assert stock is not None and best is not None, f"{name} has no timed rows"
            found.append((name, subject, timed(rows)[0], stock, best))
    return found


def _denoisers(page: Page) -> list[str]:
    return [name for name, file in page.files.items() if file.kind == "denoiser"]


def _random(page: Page, name: str) -> str:
    """Where and on what, of a measurement without trained weights."""
    document = page.document(name)
    gpus = (document.get("manifest") or document["measured_on"])["machine"]["gpus"]
    card = str(gpus[0]["name"]).removeprefix("NVIDIA ")
    return f"{page.link(name)} on an {card} with random weights"


def _range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):.2f} to {md.times(max(known))}"


def _aim(value: float, aim: float, told: Callable[[float], str] = "{:g}".format) -> str:
    return f"aim {told(aim)}, {'reached' if value >= aim else '**missed**'}"


FIGURES: Mapping[str, Callable[[Page], str]] = {
    "picture": picture,
    "results": results,
    "commands": commands_table.commands,
    "models": models_table.models,
    "forwards": forwards,
    "decoding": decoding,
}
"""By the name in a page's marker."""
