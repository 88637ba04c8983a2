"""Tables, numbers and names of the results page."""

from __future__ import annotations

import pytest

from bench.results_page import markdown as md


def test_columns_without_values_are_left_out() -> None:
    made = md.table(["a", "b", "c"], [["x", md.NONE, "1"], ["y", "", "2"]])
    assert made == "| a | c |\n| --- | --: |\n| x | 1 |\n| y | 2 |"


def test_first_column_stays_and_a_bar_does_not_end_a_cell() -> None:
    made = md.table(["a", "b"], [["", "x | y\nz"]])
    assert made.splitlines()[2] == "|  | x \\| y z |"


def test_ragged_rows_are_a_mistake() -> None:
    with pytest.raises(AssertionError, match="number of cells"):
        md.table(["a", "b"], [["x"]])


@pytest.mark.parametrize(
    ("value", "text"), [(826.4, "826"), (46.24, "46.2"), (4.624, "4.62"), (0.01234, "0.0123"), (None, "–")]
)
def test_milliseconds(value: float | None, text: str) -> None:
    assert md.ms(value) == text


def test_missing_is_a_dash_and_zero_is_a_number() -> None:
    assert [f(None) for f in (md.times, md.whole, md.small, md.near_one, md.gib)] == [md.NONE] * 5
    assert md.small(0.0) == "0" and md.whole(0.2) == "0" and md.gib(2**29) == "0.50"


def test_intervals() -> None:
    assert md.interval({"mean": 63.15, "ci95": [60.6, 65.71]}) == "63.1 (60.6 to 65.7)"
    assert md.interval({"mean": -0.01, "ci95": [-0.5, 0.52]}, digits=1, sign="+") == "+0.0 (-0.5 to +0.5)"
    assert md.interval({"mean": 1.0}) == "1.0"
    assert md.interval(None) == md.interval({"mean": None}) == md.NONE


def test_shares_are_whole_percent() -> None:
    assert md.share({"mean": 0.634, "ci95": [0.6, 0.667]}) == "63 % (60 to 67)"
    assert md.share(None) == md.share({"mean": None, "ci95": None}) == md.NONE


def test_names_of_files() -> None:
    assert md.slug("wan2.1-1.3b 480x832x81 x2") == "wan2.1-1.3b-480x832x81-x2"
    assert md.slug("../up|down") == "..-up-down"


def test_bullets_stay_on_one_line() -> None:
    assert md.bullets(["a\n  b", "c"]) == "- a b\n- c"
