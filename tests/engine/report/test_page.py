"""The report's page: what it says of a run, that text stays text, that it needs nothing from outside."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from report_run import CHOSEN, HOSTILE, SCENES, TRUE, make_run, make_scenarios

from engine.report.charts import estimate
from engine.report.page import (
    MAX_EMBEDDED_BYTES,
    build_rows,
    build_scenes,
    champion,
    loop_chart,
    summarize,
)
from engine.report.render import MAX_EMBEDDED, render
from engine.report.run_data import Record, ReportData
from engine.report.word_diff import word_diff
from engine.report.write import gather, write_report
from engine.types import SKIPPED, Outcome, Request, Wish
from engine.video.files import write_mp4


class Page(HTMLParser):
    """Elements in order, and the text of each script; void and unclosed elements are as HTML has them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.words.append(data)

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in wanted.items())]


def page_of(data: ReportData, *, max_embedded: int = MAX_EMBEDDED) -> str:
    return "".join(render(data, max_embedded=max_embedded))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("scored"))


@pytest.fixture(scope="module")
def data(run: Path) -> ReportData:
    return gather(run)


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_elements_are_balanced_and_ids_unique(page: Page) -> None:
    assert page.open == []
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {attrs["href"] for attrs in page.all("a") if (attrs["href"] or "").startswith("#")}
    assert targets <= {f"#{name}" for name in ids}


def test_page_needs_nothing_from_outside(page: Page, html: str) -> None:
    for tag, attrs in page.elements:
        for name in ("src", "href"):
            value = attrs.get(name) or "#"
            assert value.startswith(("data:", "#")), f"<{tag} {name}={value[:60]}>"
    without_videos = re.sub(r"data:video[^\"]*", "", html).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|@import|url\(", without_videos)


def test_videos_are_the_files_of_the_run(page: Page, run: Path) -> None:
    takes = [attrs["src"] or "" for attrs in page.all("video", **{"data-role": "take"})]
    files = sorted((run / "videos").glob("*/*.mp4"))
    assert [base64.b64decode(src.split(",", 1)[1]) for src in takes] == [file.read_bytes() for file in files]
    assert len(page.all("video", **{"data-role": "prefix"})) == len(SCENES)
    for attrs in page.all("video"):
        assert {"muted", "loop", "autoplay", "playsinline", "aria-label"} <= attrs.keys()


def test_a_prefix_that_the_run_did_not_see_is_not_put_into_the_page(run: Path, data: ReportData) -> None:
    first, second = data.records[:2]
    private = run.parent / "private.mp4"
    private.write_bytes(b"private")
    clip = replace(first.scenario.prefix, path=private)
    foreign = replace(first, scenario=replace(first.scenario, prefix=clip))
    scenes = build_scenes(replace(data, records=(foreign, second)), max_embedded=40)
    assert [scene.prefix.embedded for scene in scenes] == [False, True]
    assert base64.b64encode(b"private").decode() not in str(scenes[0].prefix.src)


def test_text_of_the_critic_never_becomes_markup(page: Page, html: str) -> None:
    assert HOSTILE in "".join(page.words) and HOSTILE not in html
    assert len(page.all("script")) == 1 and page.all("img") == []
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)


def test_script_runs_by_its_hash_only(page: Page) -> None:
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"] is not None and "script-src 'sha256-" in policy["content"]
    assert "'unsafe-inline'" not in policy["content"].split("script-src")[1]


def test_chosen_takes_are_marked(page: Page) -> None:
    marked = [
        attrs["data-take"] for attrs in page.all("figure") if "chosen" in (attrs["class"] or "").split()
    ]
    assert marked == [str(index) for index in CHOSEN]


def test_findings_seek_to_their_times(page: Page) -> None:
    times = {attrs["data-seek"] for attrs in page.all("button") if "data-seek" in attrs}
    assert times == {"1.2", "2.6"}


def test_headline_is_the_paired_mean_of_the_scorer(data: ReportData, page: Page) -> None:
    summary = summarize(data)
    first = sum(scores[0] for scores in TRUE) / 4
    final = sum(scores[chosen] for scores, chosen in zip(TRUE, CHOSEN, strict=True)) / 4
    assert summary.gain is not None and summary.gain.mean == pytest.approx(final - first)
    assert summary.gain.n == 4
    assert (summary.num_chosen, summary.num_failed, summary.num_unfinished) == (4, 1, 1)
    assert (summary.num_takes, summary.num_unreadable) == (15, 1)
    text = " ".join("".join(page.words).split())
    assert f"+{final - first:.1f}" in text
    assert "Physics-IQ Verified64.1over 4 chosen takes" in text
    assert "Physics-IQ Original62.4over 4 chosen takes" in text
    assert text.count("mean of 4 scenarios; 95 %:") == 3


def test_failures_stages_and_prompt_changes_are_shown(page: Page) -> None:
    text = " ".join("".join(page.words).split())
    assert "latents are not finite at step 3 of 16 <b>0005_perspective-center</b>" in text
    assert "no chosen clip: the scenario failed" in text
    assert "could not be read (plan.<colour>: Extra inputs are not permitted), so this take" in text
    assert "two lanes at once" in text and "Plan behind this prompt" in text
    assert len(page.all("ins")) >= 9 and len(page.all("del")) >= 4


def test_champion_follows_the_policy_until_the_chosen_take_exists(data: ReportData) -> None:
    first = data.records[0]  # critic 38, 64, 71, 88, chosen 3
    picks = [champion(first, 1 + loop) for loop in range(6)]
    assert [take and take.index for take in picks] == [0, 1, 2, 3, 3, 3]
    third = data.records[2]  # critic 30, 44, unreadable, 42, chosen 1
    picks = [champion(third, 1 + loop) for loop in range(4)]
    assert [take and take.index for take in picks] == [0, 1, 1, 1]
    assert champion(replace(first, attempts=()), 0) is None


def test_rounds_of_several_takes(data: ReportData) -> None:
    first = data.records[0]
    takes = tuple(
        replace(
            attempt,
            round=attempt.index // 2,
            sample=attempt.index % 2,
            critique=attempt.critique if attempt.index % 2 else None,
            selector_scores=attempt.selector_scores if attempt.index % 2 else {"consensus": 0.5},
        )
        for attempt in first.attempts
    )
    record = replace(first, attempts=takes)
    (scene,) = build_scenes(replace(data, records=(record,)), max_embedded=40)
    assert [take.place for take in scene.takes][:3] == [
        "round 0, sample 0",
        "round 0, sample 1",
        "round 1, sample 0",
    ]
    assert [take.against for take in scene.takes] == [None, 0, 0, 2]
    assert scene.selectors == ("consensus", "critic_score")
    text = "".join(Page(page_of(replace(data, records=(record,)))).words)
    assert "round 1, sample 1" in text and "not judged" in text and "changes from take 0" in text
    unfinished = replace(record, outcome=None)
    by_rank = champion(unfinished, 4, ("consensus",))
    assert by_rank is not None and by_rank.index == 3  # the highest consensus of all four
    by_critic = champion(unfinished, 2)
    assert by_critic is not None and by_critic.index == 1  # the only one that was judged


def test_the_chart_counts_the_takes_of_a_scenario_that_began_with_the_plan(data: ReportData) -> None:
    """Where nobody could read the plan, the brief text's take comes first, in round 0."""
    brief, told = (replace(data.records[0], attempts=data.records[0].attempts[:n]) for n in (2, 1))
    first, second = brief.attempts  # critic 38, 64
    ends = Outcome(scenario_id="a", attempts=brief.attempts, chosen=1, stopped="no gain expected")
    mixed = (
        replace(brief, attempts=(replace(first, round=0), replace(second, round=1)), outcome=ends),
        replace(told, attempts=(replace(first, round=1),), outcome=replace(ends, chosen=0)),
    )
    chart = str(loop_chart(replace(data, records=mixed, scores=None)))
    assert "take 0 38.0, take 1 64.0" in chart  # this take
    assert "take 0 38.0, take 1 51.0" in chart  # chosen so far: the other scenario keeps its own
    assert ">n = 2<" in chart and ">n = 1<" in chart


def test_large_runs_embed_the_extremes_and_link_the_rest(data: ReportData) -> None:
    scenes = build_scenes(data, max_embedded=2)
    embedded = {scene.row.scenario.id for scene in scenes if scene.prefix.embedded}
    assert len(embedded) == 2 and SCENES[0][0] in embedded  # the largest gain
    linked = next(scene for scene in scenes if scene.row.scenario.id == SCENES[1][0])
    assert linked.takes[0].media.src == f"videos/{SCENES[1][0]}/attempt-0.mp4"
    assert (data.run / (linked.prefix.src or "")).is_file()
    text = page_of(data, max_embedded=2)
    assert "the others are linked" in text
    outside = [scene for scene in scenes if not scene.prefix.embedded]
    assert len(Page(text).all("video", preload="none")) == sum(1 + len(scene.takes) for scene in outside)


def test_a_large_file_is_linked(data: ReportData, tmp_path: Path) -> None:
    big = tmp_path / "big.mp4"
    big.write_bytes(bytes(MAX_EMBEDDED_BYTES + 1))
    first = data.records[0]
    scenario = replace(first.scenario, prefix=replace(first.scenario.prefix, path=big))
    (scene,) = build_scenes(replace(data, records=(replace(first, scenario=scenario),)), max_embedded=40)
    assert not scene.prefix.embedded and scene.takes[0].media.embedded


def test_an_odd_take_is_marked(data: ReportData, tmp_path: Path) -> None:
    record = data.records[0]
    for attempt in record.attempts:
        note = "all black" if attempt.index == 0 else None
        black = np.zeros((2, 16, 16, 3), np.uint8)
        (tmp_path / attempt.video_path).parent.mkdir(parents=True, exist_ok=True)
        write_mp4(tmp_path / attempt.video_path, black, 8.0, note=note)
    html = page_of(ReportData(run=tmp_path, records=(record,)))
    assert html.count("<strong>all black</strong>") == 1


def test_missing_files_get_a_note(data: ReportData, tmp_path: Path) -> None:
    first = data.records[0]
    clip = replace(first.scenario.prefix, path=tmp_path / "gone.mp4")
    record = replace(first, scenario=replace(first.scenario, prefix=clip))
    page = Page(page_of(ReportData(run=tmp_path, records=(record,))))
    text = "".join(page.words)
    assert "The file gone.mp4 is missing." in text and "The file attempt-3.mp4 is missing." in text
    assert page.all("video") == []
    assert all("disabled" in attrs for attrs in page.all("button") if "data-seek" in attrs)


def test_run_without_any_take_renders(tmp_path: Path) -> None:
    (scenario,) = make_scenarios(tmp_path, SCENES[:1])
    failed = Outcome(scenario_id=scenario.id, attempts=(), failure="VideoError: truncated")
    for records in ((), (Record(scenario=scenario, attempts=(), outcome=failed),)):
        page = Page(page_of(ReportData(run=tmp_path, records=records)))
        assert page.open == [] and "No values." in "".join(page.words)


def test_word_diff_rebuilds_both_texts() -> None:
    before, after = "The ball rolls slow to the left.", "The red ball rolls fast to the right side."
    parts = word_diff(before, after)
    assert " ".join(words for op, words in parts if op != "ins") == before
    assert " ".join(words for op, words in parts if op != "del") == after
    assert ("del", "slow") in parts and ("ins", "fast") in parts
    assert word_diff(before, before) == (("same", before),)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_has_the_contrast_of_wcag_aa(scheme: int) -> None:
    style = resources.files("engine").joinpath("report/style.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[scheme]))
    pairs = [(ink, ground) for ink in ("ink", "muted", "accent") for ground in ("bg", "card", "well")]
    pairs += [(name, f"{name}-soft") for name in ("good", "bad", "warn")]
    pairs += [
        ("card", "accent"),
        ("ink", "accent-soft"),
        ("muted", "accent-soft"),
        ("good", "card"),
        ("bad", "card"),
    ]
    for ink, ground in pairs:
        light, dark = sorted((_luminance(colours[ink]), _luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{ink} on {ground}"


def test_intervals_stay_where_scores_can_lie(data: ReportData) -> None:
    scores = {(name, index): 100.0 * (index > 0) for name, _, _ in SCENES[:4] for index in range(4)}
    scores[SCENES[0][0], 0] = 30.0
    assert data.scores is not None
    summary = summarize(replace(data, scores=replace(data.scores, attempts=scores)))
    assert summary.first is not None and (summary.first.low, summary.first.n) == (0.0, 4)
    assert summary.gain is not None and summary.gain.high == 100.0
    whole = estimate([0.0, 0.0, 30.0, 0.0])
    assert whole is not None and whole.low is not None and whole.low < 0  # what Student's t alone would say


def test_one_scored_scenario_is_no_headline_for_others(data: ReportData) -> None:
    assert data.scores is not None
    name = SCENES[0][0]
    one = replace(
        data.scores,
        cases={name: 52.8},
        attempts={key: score for key, score in data.scores.attempts.items() if key[0] == name},
    )
    text = " ".join("".join(Page("".join(render(replace(data, scores=one)))).words).split())
    assert "64.1from one scored scenario alone" in text
    assert "in the one scenario that is scored, which says nothing of others" in text
    assert "mean of 1 scenario, too few for an interval" in text
    assert text.count("not scored") > 2  # in the table, where the others' scores would stand


def test_a_first_take_that_was_not_judged_is_explained(data: ReportData) -> None:
    """As with several samples, of which the critic sees the selectors' choice alone."""
    records = tuple(
        replace(record, attempts=(replace(record.attempts[0], critique=None), *record.attempts[1:]))
        for record in data.records
    )
    text = " ".join("".join(Page("".join(render(replace(data, scores=None, records=records)))).words).split())
    assert "Of several takes a round the critic judged one" in text
    assert "no scenario has a score of both" in text and "not judged" in text


def test_what_the_user_asked_is_told_and_how_to_take_it_back(data: ReportData) -> None:
    """Of one scenario that was skipped without a take, one that waits and one that is to be skipped."""
    failed, waits, to_be = data.records[4], data.records[5], data.records[0]
    skipped = Outcome(scenario_id=failed.scenario.id, attempts=(), failure="no take", stopped=SKIPPED)
    requests = tuple(
        Request(id=str(number), at="2026-11-30T10:20:30.000+00:00", wish=wish, scenario_id=record.scenario.id)
        for number, (wish, record) in enumerate([(Wish.PAUSE, waits), (Wish.SKIP, to_be)])
    )
    records = (replace(failed, outcome=skipped, attempts=()), waits, replace(to_be, outcome=None))
    asked = replace(data, records=records, requests=requests, watch="http://127.0.0.1:1/token/")
    rows = build_rows(asked)
    assert [row.stopped for row in rows] == ["skipped", "paused", "to be skipped"]
    summary = summarize(asked)
    assert (summary.num_failed, summary.num_unfinished) == (1, 2)
    text = page_of(asked)
    page = Page(text)
    assert {"href": "http://127.0.0.1:1/token/"} in page.all("a")
    words = " ".join("".join(page.words).split())
    assert f"2026-11-30 10:20:30 UTC pause {waits.scenario.id}" in words
    assert f"retake skip {data.run} {failed.scenario.id} --undo" in words
    again = [row.again for row in build_rows(data)]
    assert again == [None, None, None, None, f"retake resume {data.run}", None]


def test_a_linked_clip_has_an_address_that_no_browser_reads_otherwise(data: ReportData) -> None:
    record = data.records[0]
    odd = replace(record.attempts[0], video_path=Path("videos/50 % of #1?/attempt-0.mp4"))
    path = data.run / odd.video_path
    path.parent.mkdir()
    path.write_bytes((data.run / record.attempts[0].video_path).read_bytes())
    (scene,) = build_scenes(replace(data, records=(replace(record, attempts=(odd,)),)), max_embedded=0)
    assert scene.takes[0].media.src == "videos/50%20%25%20of%20%231%3F/attempt-0.mp4"


def test_a_run_of_one_take_each_speaks_of_no_gain(data: ReportData) -> None:
    def alone(record: Record) -> Record:
        outcome = record.outcome and replace(record.outcome, attempts=record.attempts[:1])
        if outcome is not None and outcome.chosen is not None:
            outcome = replace(outcome, chosen=0)
        return replace(record, attempts=record.attempts[:1], outcome=outcome)

    records = tuple(alone(one) for one in data.records)
    told = replace(data, scores=None, records=records, manifest={**data.manifest, "first_prompt": "plan"})
    text = " ".join("".join(Page(page_of(told)).words).split())
    assert "Each scenario has one take, which is told the plan; they score" in text
    assert "Gain, paired" not in text and "First take" not in text and "Chosen take" in text
    assert "Gain, paired" in "".join(Page(page_of(data)).words)


def test_how_probably_a_take_is_acceptable_stands_beside_the_critics_score(data: ReportData) -> None:
    first = data.records[0]
    said = {**first.attempts[0].selector_scores, "acceptable": 0.374, "consensus": 0.5}
    takes = (replace(first.attempts[0], selector_scores=said), *first.attempts[1:])
    outcome = first.outcome and replace(first.outcome, attempts=takes)
    shown = replace(data, records=(replace(first, attempts=takes, outcome=outcome),))
    text = " ".join("".join(Page(page_of(shown)).words).split())
    assert "acceptable 37 %" in text
    assert "consensus (selector)" in text and "acceptable (selector)" not in text
    assert "acceptable" not in "".join(Page(page_of(data)).words)
