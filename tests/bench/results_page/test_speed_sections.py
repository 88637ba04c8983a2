"""Speed sections: ratios and order in the tables, missing keys, what was not timed and what did not help."""

from __future__ import annotations

import pytest
from measurements import denoiser, kernel_rows, variant

from bench.results_page.result_files import ResultError, ResultFile
from bench.results_page.speed_sections import denoiser as denoiser_section
from bench.results_page.speed_sections import row_tables


def section(document, kind="denoiser"):
    make = denoiser_section if kind == "denoiser" else row_tables
    return make(ResultFile(name="file_x", kind=kind, document=document))


def cells(body: str, name: str) -> list[str]:
    """Of the first table row that starts with `name`."""
    line = next(line for line in body.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_ratios_to_the_first_and_to_the_best_stock_variant() -> None:
    body = section(denoiser()).body
    header = cells(body, "variant")
    row = dict(zip(header, cells(body, "ours fp8"), strict=True))
    assert row["ms"] == "320" and row["p10 to p90"] == "318 to 322" and row["n"] == "5"
    assert row["against the first"] == "2.50×" and row["against the best stock"] == "1.56×"
    assert row["TFLOP/s"] == "625"  # 200 TFLOP in 320 ms
    assert row["% of bf16 roofline"] == "78" and row["% of fp8 roofline"] == "50"
    assert dict(zip(header, cells(body, "diffusers eager"), strict=True))["against the best stock"] == "0.62×"


def test_rows_stay_in_the_order_of_the_file() -> None:
    lines = [line for line in section(denoiser()).body.splitlines() if line.startswith("| ")]
    names = [line.split("|")[1].strip() for line in lines[2:]]
    assert names == [
        "diffusers eager", "diffusers compiled", "ours bf16", "ours fp8", "ours graph", "ours int8",
    ]  # fmt: skip


def test_headline_and_distance_to_the_roofline() -> None:
    made = section(denoiser())
    told = (
        "ours fp8, 320 ms: 2.50× diffusers eager and 1.56× diffusers compiled; "
        "50 % of the fp8 roofline of 160 ms"
    )
    assert made.headline == f"wan 480x832x81: {told}"
    assert f"Fastest: {told}." in made.body
    assert "32\u2009760 tokens, 200.0 TFLOP a forward, bf16 roofline 250 ms" in made.body


def test_what_did_not_help_has_its_number() -> None:
    body = section(denoiser()).body
    told = body[body.index("What did not help:") :].splitlines()[2:]
    assert told == [
        "- ours graph: 328 ms against 320 of ours fp8 (+8 ms, 0.98×)",
        "- ours int8: 400 ms against 400 of ours bf16 (+0 ms, 1.00×). No room left.",
    ]
    assert "Not timed:\n\n- other card: compute capability 9.0 is not 12.0" in body


def test_nothing_is_said_where_everything_helped() -> None:
    body = section(denoiser([variant("diffusers", 2.0), variant("ours", 1.0)])).body
    assert "did not help" not in body and "Not timed" not in body


def test_plot_shows_the_cumulative_ones() -> None:
    made = section(denoiser())
    [(name, svg)] = made.plots.items()
    assert name == "waterfall-file-x-wan-480x832x81.svg" and f"(docs/{name})" in made.body
    assert "ours graph 328 ms" in svg and "ours int8" not in svg and "fp8 roofline 160 ms" in svg


@pytest.mark.parametrize(("aim", "told"), [(330.0, "reached"), (300.0, "missed by 20.0 ms")])
def test_aim(aim: float, told: str) -> None:
    assert f"Aim: {aim:.0f} ms or less: {told}." in section(denoiser(aim_ms=aim)).body
    assert "Aim" not in section(denoiser()).body


def test_optional_keys_may_be_missing() -> None:
    bare = {"subjects": [{"name": "s", "variants": [{"name": "a", "ms": [2.0]}]}]}
    body = section(bare).body
    assert cells(body, "variant") == ["variant", "ms", "p10 to p90", "n", "against the first"]
    assert "roofline" not in body and "GiB" not in body


def test_memory_error_power_and_ceilings() -> None:
    more = {"peak_allocated_bytes": 3 * 2**30, "relative_error": 0.0123, "cosine": 0.99992, "power_w": 651.2}
    document = denoiser([variant("diffusers", 2.0), variant("ours", 1.0, **more)])
    body = section(document | {"ceilings": {"bf16_gemm_tflops": 791.3, "copy_tb_per_s": 3.914}}).body
    table = body[body.index("| variant | peak") :]
    assert cells(table, "ours") == ["ours", "3.00", "0.012", "0.99992", "651"]
    assert "Measured ceilings of this card: bf16 GEMM 791 TFLOP/s, copy 3.91 TB/s." in body


def test_kernel_sum() -> None:
    body = section(
        denoiser(kernel_sum_of="ours fp8", kernel_sum_ms={"attention": 200.0, "linear": 88.0})
    ).body
    assert "Stand-alone kernels of ours fp8: 288 ms together, 90 % of the 320 ms it takes." in body
    assert cells(body, "attention") == ["attention", "200", "69"]


def test_nothing_timed_at_all() -> None:
    made = section(denoiser([{"name": "a", "reason": "no GPU"}]))
    assert (
        made.plots == {} and made.headline.endswith("nothing could be timed") and "- a: no GPU" in made.body
    )


def test_kernels_by_problem() -> None:
    body = section({"rows": kernel_rows()}, "attention").body
    first, second = body.split("### [1, 12, 8190, 128] bf16")
    row = dict(zip(cells(first, "name"), cells(first, "triton_int8"), strict=True))
    assert row["against sdpa_flash"] == "2.00×" and row["against sdpa_cudnn"] == "1.25×"
    assert row["TFLOP/s"] == "700" and row["relative error"] == "0.013"
    assert cells(second, "sdpa_flash")[1] == "0.5" and "- fa3: fa3_fwd is not installed" in second


def test_headline_of_kernels_names_the_fastest_of_each_accuracy() -> None:
    rows = [
        variant("triton_int8", 4.0, accuracy="8bit"),
        variant("fa3", 4.5, accuracy="exact"),
        variant("sdpa_cudnn", 5.0, accuracy="exact"),
    ]
    made = section({"rows": rows}, "attention")
    assert made.headline == "8bit triton_int8 4 ms (1.25× sdpa_cudnn), exact fa3 4.5 ms (1.11× sdpa_cudnn)"


def test_without_a_stock_row_the_first_is_the_measure() -> None:
    body = section({"rows": [variant("a", 4.0), variant("b", 2.0)]}, "aoti").body
    assert cells(body, "name")[-1] == "against a" and cells(body, "b")[-1] == "2.00×"
    assert "did not help" not in body


def test_kernels_that_are_slower_are_told() -> None:
    rows = [variant("sdpa_cudnn", 5.0), variant("triton_dense", 9.0)]
    assert "triton_dense: 9 ms against 5 of sdpa_cudnn" in section({"rows": rows}, "attention").body


def test_a_kind_without_a_title_of_its_own() -> None:
    assert section({"rows": [variant("a", 1.0)]}, "gpu_acceptance").title == "Gpu acceptance"


def test_contradiction_names_the_file_and_the_subject() -> None:
    broken = variant("a", 1.0, summary={"median": 2.0, "p10": 1.0, "p90": 3.0, "n": 5})
    with pytest.raises(ResultError, match=r"bench/results/file_x\.json, wan 480x832x81, a: the median"):
        section(denoiser([broken]))
