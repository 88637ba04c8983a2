"""Quality sections from made-up files: the price of speed, the bundled models, the scorer, the selectors."""

from __future__ import annotations

from typing import Any

from bench.results_page import quality_sections
from bench.results_page.result_files import ResultFile


def section(kind: str, document: dict[str, Any]):
    return getattr(quality_sections, kind)(ResultFile(name=kind, kind=kind, document=document))


def mean(value: float, half: float = 1.0) -> dict[str, Any]:
    return {"mean": value, "ci95": [value - half, value + half]}


def comparison(official: str, ours: float = 72.0, **more: Any) -> dict[str, Any]:
    return {
        "subject": {"official": official},
        "columns_difference": 1e-16,
        "text_identical": True,
        "numbers_difference": 0.0,
        "own_csv_difference": 0.0,
        "physics_iq": [84.59, 84.59],
        "physics_iq_verified": [72.0, ours],
    } | more


SCORING = {
    "datasets": [{}, {}],
    "tolerances": {"columns": 1e-9, "numbers": 1e-12},
    "largest_columns_difference": 2e-16,
    "comparisons": [comparison("a"), comparison("a", text_identical=False), comparison("b", ours=72.5)],
}


def test_price_of_speed() -> None:
    rows = [
        {
            "name": "exact",
            "settings": {"linear": "bf16", "attention": [], "vae": "library"},
            "score": mean(66.0),
            "physics_iq": 83.0,
        },
        {
            "name": "fast",
            "settings": {"linear": "fp8", "attention": ["a", "b"], "vae": "library"},
            "score": mean(65.8),
            "difference": mean(-0.2, 0.1),
            "psnr_db": {"median": 41.234},
            "relative_error": {"median": 0.0123, "p90": 0.02},
            "ms_per_take": 812.0,
            "steps": 12.0,
        },
        {"name": "fastest", "score": mean(64.0), "difference": mean(-2.0, 0.5)},
    ]
    made = section("denoiser_quality", {"num_scenarios": 120, "rows": rows, "not_run": {"int8": "no kernel"}})
    assert "Not run:\n\n- int8: no kernel" in made.body and "**exact**" not in made.body
    assert "120 held-out scenarios" in made.body
    fast = "| fast | 65.8 (64.8 to 66.8) | -0.20 (-0.30 to -0.10) | – | 41.2 | 0.012 | 812 | 12.0 |"
    assert fast in made.body and "- **fast**: linear fp8, attention a b\n" in made.body
    assert made.headline == "2 settings; the dearest is fastest, -2.00 (-2.50 to -1.50) points against exact"


def test_price_without_differences() -> None:
    made = section("denoiser_quality", {"rows": [{"name": "exact", "score": mean(66.0)}]})
    assert made.headline == "1 setting" and "| exact | 66.0 (65.0 to 67.0) |" in made.body


def test_bundled_models() -> None:
    arm = mean(60.0) | {"physics_iq": 80.0}
    document = {
        "n": 120,
        "num_takes": 315,
        "first_take": arm,
        "chosen": mean(63.0) | {"physics_iq": 83.1},
        "chosen_minus_first": mean(3.0),
        "oracle": mean(68.0),
        "critic": {
            "verdict_accuracy": 0.834,
            "num_critiques": 315,
            "faults": {"num": 80, "fault_accuracy": mean(0.5, 0.25)},
        },
        "by_category": {"Optics": {"n": 18, "first_take": arm, "chosen": arm}},
        "by_simple": {"not simple": {"n": 90, "first_take": arm, "chosen": arm}},
        "by_failure": {
            "complex combination": {
                "n": 50,
                "first_take": arm,
                "chosen": arm,
                "chosen_minus_first": mean(2.0),
            }
        },
    }
    made = section("demo_quality", document)
    assert "120 scenarios, 315 takes" in made.body and "paired: +3.00 (+2.00 to +4.00)" in made.body
    assert "| take that the loop chose | 63.0 (62.0 to 64.0) | 83.10 |" in made.body
    assert "| verdicts that are right | 83 % |" in made.body
    right = "| faults named right, of 80 takes that are not acceptable | 50 % (25 to 75) |"
    assert right in made.body
    assert "| Optics | 18 | 60.0 (59.0 to 61.0) | 60.0 (59.0 to 61.0) |" in made.body
    assert "| not simple | 90 | 60.0 (59.0 to 61.0) |" in made.body
    assert (
        "| complex combination | 50 | 60.0 (59.0 to 61.0) | 60.0 (59.0 to 61.0) | +2.0 (+1.0 to +3.0) |"
        in (made.body)
    )
    assert "| kind | n |" not in made.body, "which was not measured"


def test_the_picture_of_the_loop_begins_without_a_model_and_ends_with_the_chosen_take() -> None:
    arms = {"frozen": mean(18.0), "first_take": mean(63.0), "chosen": mean(62.0), "oracle": mean(70.0)}
    controls = {"n": 39, "true_takes": 1.0, "planted_takes": 0.82}
    critic = {"controls": controls, "num_truly_acceptable": 7}
    made = section("demo_quality", {"n": 120, "critic": critic, **arms})
    [(name, plot)] = made.plots.items()
    assert name == "waterfall-demo-quality.svg" and f"](docs/{name})" in made.body
    assert "+45.0 points" in plot and "−1 points" in plot and "oracle 70.0 points" in plot
    assert "95 %: 17.0 to 19.0" in plot and plot.count('class="stock"') == 1
    assert "| verdicts on planted wrong physics (39 scenes) | 82 % |" in made.body
    assert "7 takes are truly acceptable." in made.body


def test_bundled_models_with_little_known() -> None:
    made = section("demo_quality", {"n": 3, "chosen": mean(1.0)})
    assert "| take that the loop chose |" in made.body and "critic" not in made.body
    assert "not finished" not in made.body


def test_calibrated_scores_have_a_row_and_a_picture_of_their_own() -> None:
    scored = {
        "threshold": 70.0,
        "num": 9,
        "num_acceptable": 4,
        "calibration_error": 35.0,
        "within_scene": 0.1,
    }
    scored |= {"balanced_accuracy": 0.6, "balanced_accuracy_sure": 0.7}
    bins = [{"from": 0, "to": 50, "num": 9, "stated": 40.0, "acceptable": 44.0, "ci95": [30.0, 60.0]}]
    told = {**scored, "calibration_error": 3.9, "bins": bins}
    made = section(
        "demo_quality", {"n": 3, "chosen": mean(1.0), "critic": {"by_case_score": scored, "calibrated": told}}
    )
    assert (
        "| the same of the probability that a run tells, which is fitted on tuning scenes | 3.9 |"
        in made.body
    )
    plot = made.plots["reliability-demo-quality-calibrated.svg"]
    assert "probability that the run tells" in plot and "stated 40: 44 % of 9" in plot


def test_shares_of_the_critics_score_that_were_not_measured_are_dashes() -> None:
    scored = {"threshold": 60.0, "num": 30, "num_acceptable": 12, "calibration_error": 8.0}
    scored |= {"balanced_accuracy": 0.75, "balanced_accuracy_sure": None, "within_scene": None}
    made = section("demo_quality", {"n": 3, "chosen": mean(1.0), "critic": {"by_case_score": scored}})
    assert "| verdicts right, both kinds of takes weighed equally | 75 % |" in made.body
    assert "| the same, of takes more than ten points from the threshold | – |" in made.body


def test_a_run_that_is_not_finished_says_so() -> None:
    made = section("demo_quality", {"n": 3, "num_pending": 2, "chosen": mean(1.0)})
    assert "The run is not finished: 2 more scenarios are not in it." in made.body


def test_scorer_counts_what_is_equal() -> None:
    made = section("scoring", SCORING)
    assert "| a | 2 | 1 | 1e-16 | 0 | 2 |" in made.body
    assert "| b | 1 | 1 | 1e-16 | 0 | 0 |" in made.body  # another score
    assert made.headline == "3 comparisons with the official tool, largest difference 2e-16"


def test_scorer_without_a_verified_score_and_with_a_missing_one() -> None:
    found = [comparison("a", physics_iq_verified=None), comparison("a", physics_iq=[None, 1.0])]
    made = section("scoring", SCORING | {"comparisons": found})
    assert "| a | 2 | 2 | 1e-16 | 0 | 1 |" in made.body


def test_scorer_with_times() -> None:
    timing = {
        "num_views": 12,
        "our_processes": 2,
        "official_processes": 1,
        "median_wall_s_per_view": {"official": 40.0, "cold": 8.0, "warm": 4.0},
        "times_faster_cold": 5.0,
        "times_faster_warm": 10.0,
        "times_less_cpu_cold": 3.0,
        "times_less_cpu_warm": 6.0,
        "peak_rss_bytes": {"official": 2**31, "cold": 2**30, "warm": 2**30},
    }
    made = section("scoring", SCORING | {"timing": timing})
    assert made.headline.endswith("5.00 times faster, 10.00 warm")
    assert "| warm | 4 | 10.00× | 6.00× | 1.00 |" in made.body
    assert "| official | 40.0 | – | – | 2.00 |" in made.body


def test_selectors_use_the_table_of_their_suite() -> None:
    chooser = mean(66.0) | {"share": {"value": 0.5, "ci95": [0.3, 0.7]}}
    document = {
        "samples": 4,
        "num_scenes": 10,
        "num_takes": 40,
        "num_scenes_trained_on": 0,
        "left_out": [],
        "tuned": None,
        "sets": {
            "all_takes": {
                "n": 10,
                "takes_per_scenario": 4.0,
                "first_take": mean(60.0),
                "loop": mean(62.0),
                "random": mean(61.0),
                "oracle": mean(70.0),
                "choosers": {"consensus": chooser},
            }
        },
        "selectors": {
            "consensus": {"rank_correlation": mean(0.4), "seconds_per_scenario": 0.5, "scored_takes": 1.0}
        },
    }
    made = section("selectors", document)
    assert "| consensus | 66.0 (65.0 to 67.0) | 50 % (30 to 70) | 0.40 | 0.5 |" in made.body
    assert made.headline == "all takes, share of the oracle's gain: consensus 50 % (30 to 70)"
