"""The section on hidden states: figures beside those of permuted scores, and by site."""

from __future__ import annotations

from typing import Any

from bench.results_page.result_files import ResultFile
from bench.results_page.states_section import state_fit


def figure(mean: float, *, control: bool = True) -> dict[str, Any]:
    beside = {"mean": 0.005, "p95": 0.072, "p": 0.01} if control else None
    return {"mean": mean, "ci95": [mean - 0.09, mean + 0.09], "n": 120, "control": beside}


def test_a_probe_stands_beside_what_chance_would_give() -> None:
    document = {
        "num_takes": 960,
        "num_scenes": 120,
        "rank_correlation": figure(0.11),
        "rank_correlation_within_prompt": figure(0.04),
        "auc": figure(0.555, control=False),
        "share_of_oracle": {
            "value": 0.2,
            "ci95": [0.01, 0.38],
            "points": {"chosen_minus_random": {"mean": 1.7, "ci95": [0.1, 3.4]}},
        },
        "by_site": [{"steps": [4], "timesteps": [900.0], "layers": [2, 4], "rank_correlation": figure(0.14)}],
    }
    found = state_fit(ResultFile(name="state_fit", kind="state_fit", document=document))
    assert found.headline == (
        "chosen by them +1.7 (+0.1 to +3.4) points above a random take, 20 % (1 to 38) of the oracle's gain; "
        "Spearman 0.11 (0.02 to 0.20)"
    )
    assert "| Spearman within a scenario | 0.11 (0.02 to 0.20) | 0.01 | 0.07 |" in found.body
    assert "| 4 | 2, 4 | 0.14 (0.05 to 0.23) | 0.01 | 0.07 |" in found.body
    assert "| AUC, above against below the scenario's median | 0.56 (0.47 to 0.65) | – | – |" in found.body
