"""How a run folder's cost grows with its scenarios: memory and seconds of each row in a process of its own.

    python -m bench.perf.growth --out bench/results/growth.json

The exponent of a row is the slope of log value against log scenarios between its two largest sizes, above
what the process needs with the smallest: 1 is linear. Measures the engine's keeping, never a model.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import resource
import shutil
import subprocess  # nosec B404 # itself, once a row
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.files import write_json
from bench.perf.chromium import CHROMIUM, Browser
from bench.perf.growth_folder import STEPS, TAKES, make_run, make_starts
from engine.errors import ConfigError
from engine.runs.manifest import surroundings

KIND = "growth"
SIZES = (66, 198, 1000, 5000)
SELECT_SIZES = (66, 198)
SELECTORS = ("consensus", "geometry")
START_SIZES = (66, 198, 1000)
NOT_COMPARED = frozenset({"page_mb"})
"""Has no exponent: a page of up to a hundred scenarios is of another form."""
TARGETS = {
    "run_rss_mb_5000": 300,
    "report_rss_mb_5000": 500,
    "report_s_5000": 20,
    "browser_load_s_5000": 3,
    "browser_mb_5000": 500,
    "select_rss_mb_198": 500,
}
NOTES = (
    f"Synthetic run folders through the real store, trace and report: {TAKES} takes a scenario, "
    f"{sum(STEPS.values())} spans a take, clips of 128 x 128 pixels as hard links; no model runs.",
    "rss_mb is the peak resident set of a row's process, in MB of 10^6 bytes, with what its imports need; "
    "browser_mb the proportional set of all Chromium processes after loading, scrolled_mb after four jumps "
    "through the page, blank_mb of the browser without a page. browser_mb and blank_mb are read at rest: "
    "eight readings half a second apart lie within 1 MB. A headless Chromium loads the popup of its address "
    "bar after its start, some 45 MB. DevTools keeps no response's body: it would be the page once more.",
    "run is what a run keeps: store, opened files, trace, outcomes at the end. start probes clips of 720p.",
    "seconds are of the machine as it was: with other work on it they are upper bounds. cpu_s is what the "
    "process itself used, imports with it; beside a busy neighbour on the same core it is larger too.",
)

Row = dict[str, float]


def row_run(folder: Path, num_scenarios: int) -> Row:
    return {**make_run(folder, num_scenarios)}


def row_report(folder: Path, num_scenarios: int) -> Row:
    from engine.report.write import write_report

    return {"page_mb": write_report(folder / "run").stat().st_size / 1e6}


def row_browser(folder: Path, num_scenarios: int) -> Row:
    browser = Browser(folder / "profile")
    try:
        blank_mb = browser.rested_memory_mb()
        began_s = time.perf_counter()
        browser.open(folder / "run" / "report.html")
        browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        load_s = time.perf_counter() - began_s
        browser_mb = browser.rested_memory_mb()
        for share in (0.25, 0.5, 0.75, 1.0):
            browser.run(f"scrollTo({{top: {share} * document.body.scrollHeight, behavior: 'instant'}})")
            time.sleep(0.5)
        nodes = browser.run("document.querySelectorAll('*').length")
        return {
            "load_s": load_s,
            "browser_mb": browser_mb,
            "scrolled_mb": browser.memory_mb(),
            "blank_mb": blank_mb,
            "elements": nodes,
        }
    finally:
        browser.close()
        shutil.rmtree(folder / "profile", ignore_errors=True)


def row_select(folder: Path, num_scenarios: int) -> Row:
    from engine.loop.selection import reselect

    assert len(reselect(folder / "run", by=SELECTORS)) == num_scenarios
    return {}


def row_start(folder: Path, num_scenarios: int) -> Row:
    from engine.video.files import probe_each

    paths = make_starts(folder / "starts", num_scenarios)
    began_s = time.perf_counter()
    assert all(clip.width == 1280 for clip in probe_each(paths, fps=24.0, num_frames=120))
    return {"probe_s": time.perf_counter() - began_s}


ROWS: Mapping[str, tuple[Callable[[Path, int], Row], Sequence[int]]] = {
    "run": (row_run, SIZES),
    "report": (row_report, SIZES),
    "browser": (row_browser, SIZES),
    "select": (row_select, SELECT_SIZES),
    "start": (row_start, START_SIZES),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("growth.json"))
    parser.add_argument("--most", type=int, default=SIZES[-1], help="leave out larger folders")
    parser.add_argument("--under", type=Path, help="where the folders are made; some 3 GB, removed again")
    parser.add_argument("--row", nargs=3, metavar=("NAME", "FOLDER", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        name, folder, number = options.row
        print(json.dumps(alone(name, Path(folder), int(number))))
        return
    if CHROMIUM is None:
        raise ConfigError("no Chromium is on this machine", fix="install chromium: it loads the reports")
    load = os.getloadavg()[0]
    measured = measure(options.most, options.under)
    document = {
        "schema": 1,
        "kind": KIND,
        "command": "python -m bench.perf.growth --out bench/results/growth.json",
        "cores": os.cpu_count(),
        "load_average": load,
        "notes": NOTES,
        "summary": summary(measured),
        "targets": TARGETS,
        "rows": measured,
        "exponents": exponents(measured),
        "measured_on": surroundings(),
    }
    write_json(options.out, document)
    print(json.dumps(document["summary"], indent=1))


def alone(name: str, folder: Path, num_scenarios: int) -> Row:
    """A row in this process: what it says of itself, its seconds and its peak of memory."""
    began_s = time.perf_counter()
    found = ROWS[name][0](folder, num_scenarios)
    seconds = time.perf_counter() - began_s
    used = resource.getrusage(resource.RUSAGE_SELF)
    rss_mb = used.ru_maxrss * 1024 / 1e6
    return {"seconds": seconds, "cpu_s": used.ru_utime + used.ru_stime, "rss_mb": rss_mb, **found}


def measure(most: int, under: Path | None) -> dict[str, dict[str, Row]]:
    """By row and number of scenarios."""
    found: dict[str, dict[str, Row]] = {name: {} for name in ROWS}
    for size in (size for size in SIZES if size <= most):
        with tempfile.TemporaryDirectory(dir=under, prefix="growth-") as folder:
            for name, (_, sizes) in ROWS.items():
                if size in sizes:
                    found[name][str(size)] = _in_process(name, folder, size)
                    print(f"{name} {size}: {found[name][str(size)]}", file=sys.stderr, flush=True)
    return found


def _in_process(name: str, folder: str, size: int) -> Row:
    command = [sys.executable, "-m", __spec__.name, "--row", name, folder, str(size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # nosec B603 # our own words
    return {key: round(value, 4) for key, value in json.loads(done.stdout).items()}


def exponents(rows: Mapping[str, Mapping[str, Row]]) -> dict[str, float]:
    """By row and figure: the slope between the two largest sizes, each without the value at the smallest.

    A figure that grows by less than a twentieth has none: its slope would be noise.
    """
    found = {}
    for name, by_size in rows.items():
        sizes = sorted(by_size, key=int)
        if len(sizes) < 3:
            continue
        least, middle, most = (by_size[size] for size in (sizes[0], *sizes[-2:]))
        for figure in sorted(least.keys() - NOT_COMPARED):
            low, high = middle[figure] - least[figure], most[figure] - least[figure]
            if low > 0.05 * least[figure] and high > 0.05 * least[figure]:
                ratio = (int(sizes[-1]) - int(sizes[0])) / (int(sizes[-2]) - int(sizes[0]))
                found[f"{name} {figure}"] = round(math.log(high / low) / math.log(ratio), 3)
    return found


def summary(rows: Mapping[str, Mapping[str, Row]]) -> dict[str, float]:
    """The figures that the targets speak of; those of sizes that were left out are absent."""
    found = {"largest_exponent": max(exponents(rows).values(), default=math.nan)}
    for key, name, size, figure in (
        ("run_rss_mb_5000", "run", "5000", "rss_mb"),
        ("report_rss_mb_5000", "report", "5000", "rss_mb"),
        ("report_s_5000", "report", "5000", "seconds"),
        ("report_cpu_s_5000", "report", "5000", "cpu_s"),
        ("browser_load_s_5000", "browser", "5000", "load_s"),
        ("browser_mb_5000", "browser", "5000", "browser_mb"),
        ("select_rss_mb_198", "select", "198", "rss_mb"),
        ("start_s_1000", "start", "1000", "probe_s"),
    ):
        with contextlib.suppress(KeyError):
            found[key] = rows[name][size][figure]
    return found


if __name__ == "__main__":
    main()
