"""Medians, ratios and what did not help, of rows with times."""

from __future__ import annotations

import pytest
from measurements import denoiser, kernel_rows, variant

from bench.results_page.result_files import ResultError
from bench.results_page.timed_rows import (
    best_stock,
    fastest,
    ratio,
    read_rows,
    timed,
    unhelpful_choices,
    unhelpful_steps,
)


def rows_of(entries):
    return read_rows(entries, "somewhere")


def subject_rows():
    return rows_of(denoiser()["subjects"][0]["variants"])


def test_medians_come_from_the_times() -> None:
    [row] = rows_of([{"name": "a", "ms": [3.0, 1.0, 2.0]}])
    assert (row.median_ms, row.time.n) == (2.0, 3)
    [row] = rows_of([{"name": "a", "summary": {"median": 5.0, "p10": 4.0, "p90": 6.0, "n": 9}}])
    assert (row.median_ms, row.time.n) == (5.0, 9)
    [row] = rows_of([{"name": "a", "ms": 7.0}])
    assert row.time.n == 1


def test_a_summary_that_its_times_do_not_give_is_refused() -> None:
    entry = {"name": "a", "ms": [1.0, 2.0, 3.0], "summary": {"median": 1.9, "p10": 1, "p90": 3, "n": 3}}
    with pytest.raises(ResultError, match=r"somewhere, a: the median of its times is 2\.0.*says 1\.9"):
        rows_of([entry])


def test_neither_times_nor_reason_is_refused() -> None:
    with pytest.raises(ResultError, match="a has neither times nor a reason"):
        rows_of([{"name": "a", "ms": []}])
    with pytest.raises(ResultError, match="no name"):
        rows_of([{"ms": [1.0]}])
    assert timed(rows_of([{"name": "a", "reason": "not here"}])) == []


def test_stock_by_name_or_as_the_file_says() -> None:
    rows = rows_of([variant("diffusers x", 2.0), variant("sdpa_math", 3.0), variant("ours", 1.0)])
    assert [row.stock for row in rows] == [True, True, False]
    rows = rows_of([variant("diffusers x", 2.0, stock=False), variant("ours", 1.0, stock=True)])
    assert [row.stock for row in rows] == [False, True]


def test_ratios() -> None:
    rows = subject_rows()
    assert fastest(rows).name == "ours fp8" and best_stock(rows).name == "diffusers compiled"
    assert ratio(rows[0], fastest(rows)) == pytest.approx(2.5)
    assert ratio(best_stock(rows), fastest(rows)) == pytest.approx(500 / 320)
    assert ratio(None, rows[0]) is None and ratio(rows[0], rows[-1]) is None
    assert fastest([]) is None and best_stock(rows_of([variant("ours", 1.0)])) is None


def test_what_did_not_help_and_against_what() -> None:
    found = [(entry.row.name, entry.against.name) for entry in unhelpful_steps(subject_rows())]
    assert found == [("ours graph", "ours fp8"), ("ours int8", "ours bf16")]


def test_inside_the_spread_of_the_other_is_no_help() -> None:
    base = variant("diffusers", 100.0)
    assert unhelpful_steps(rows_of([base, variant("ours", 99.5)]))  # p10 of the other is 99.4
    assert not unhelpful_steps(rows_of([base, variant("ours", 99.0)]))


def test_the_file_may_say_itself_whether_it_helped() -> None:
    base = variant("diffusers", 100.0)
    assert not unhelpful_steps(rows_of([base, variant("ours", 120.0, helped=True)]))
    assert unhelpful_steps(rows_of([base, variant("ours", 50.0, helped=False)]))


def test_what_stands_alone_is_measured_against_the_last_bar() -> None:
    alone = [variant("a", 90.0, cumulative=False), variant("b", 110.0, cumulative=False)]
    found = unhelpful_steps(rows_of([variant("diffusers", 200.0), variant("ours", 100.0), *alone]))
    assert [(entry.row.name, entry.against.name) for entry in found] == [("b", "ours")]


def test_choices_are_measured_against_the_best_stock_row_in_any_order() -> None:
    rows = rows_of(kernel_rows()[:3])
    assert unhelpful_choices(rows) == unhelpful_choices(rows[::-1]) == []
    slower = rows_of([variant("triton_dense", 9.0), *kernel_rows()[:3]])
    found = [(entry.row.name, entry.against.name) for entry in unhelpful_choices(slower)]
    assert found == [("triton_dense", "sdpa_cudnn")]


def test_stock_rows_are_not_listed() -> None:
    rows = rows_of([variant("sdpa_cudnn", 5.0), variant("sdpa_flash", 8.0)])
    assert unhelpful_steps(rows) == unhelpful_choices(rows) == []
    assert unhelpful_choices(rows_of([variant("ours", 1.0), variant("other", 2.0)])) == []
