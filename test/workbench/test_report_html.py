"""The report: self-contained, every picture described, verdict first, and two of them side by side."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from episodes import make_episode

from streaming_vla.workbench.report.charts import histogram, lines, ranges, timeline
from streaming_vla.workbench.report.colours import HALT, STAGES
from streaming_vla.workbench.report.html import ReportError, compare, make_run, page, write_report
from streaming_vla.workbench.report.records import StateAt
from streaming_vla.workbench.report.results import aggregate
from streaming_vla.workbench.report.rows import verdict


def run(mode: str, **series: Any) -> dict[str, Any]:
    record = make_episode(mode)
    return make_run(mode, [record], aggregate([record]), "observer:\n  image_size: 96\n", **series)


class Outline(HTMLParser):
    """Collects what a browser would do."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def outline(html: str) -> Outline:
    parsed = Outline()
    parsed.feed(html)
    return parsed


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    path = write_report(tmp_path, "Demo", "Two modes.", [run("synchronous"), run("streaming")])
    html = path.read_text()
    tags = outline(html).tags
    assert not [tag for tag, _ in tags if tag in ("script", "link", "iframe", "object")]
    assert not re.findall(r"https?://", html)
    assert all(str(attributes["src"]).startswith("data:image/jpeg;base64,") for tag, attributes in tags if tag == "img")
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in tags if tag == "svg")
    figures = html.count("<figure>") + html.count('<figure class="across">')
    assert figures == html.count("<figcaption>") > 10
    assert '<meta name="viewport" content="width=device-width' in html


def test_the_verdict_comes_first() -> None:
    html = page("Demo", "Two modes.", [run("synchronous"), run("streaming")])
    assert html.index("synchronous: the arm waits 52.0 ms at a hand-over (T_halt, mean of 7)") < html.index("<table>")
    assert 'class="good">streaming: the arm waits 0.0 ms' in html
    assert html.index("<h2>Timeline") < html.index("<h2>Halting and latencies") < html.index("<h2>What the cameras")


def test_curves_and_problems_are_shown() -> None:
    record = make_episode("streaming")
    numbers = {
        **aggregate([record]),
        "action_error": {"compared": 5, "mean": 0.25, "by_dimension": {"dx": 0.25}, "by_horizon": {"0": 0.1, "1": 0.4}},
        "live": {"decision_agreement": 0.95, "t_halt": {"mean": 3.0}},
        "bags": [{"bag": "b", "latencies": "paper", "episodes": 1, "problems": ["b breaks off at byte <7>"]}],
        "kv_cache": {"bytes": {"mean": 2048.0}},
    }
    made = make_run(
        "replay",
        [record],
        numbers,
        saliency=[[0.0, 0.5], [1.0, 1.5]],
        kv_bytes=[[0.0, 10], [1.0, 20]],
        kv_full_bytes=[[0.0, 10], [1.0, 40]],
        actions={"dx": {"replayed": [[0, 1], [1, 2]], "recorded": [[0, 1], [1, 1]]}},
    )
    html = page("Replay", "One bag.", [made])
    for text in (
        "0.250 action units", "95.0 % of the observations", "breaks off at byte &lt;7&gt;",
        "Actions against the recording", "Memory of the KV cache", "</i></i>1.50", "2.0 KiB", "error over the horizon",
    ):  # fmt: skip
        assert text in html


def test_two_reports_side_by_side(tmp_path: Path) -> None:
    write_report(tmp_path / "a", "A", "", [run("streaming")])
    write_report(tmp_path / "b", "B", "", [run("streaming")])
    html = compare(tmp_path / "a", tmp_path / "b", tmp_path / "both").read_text()
    assert html.count('<th scope="col">') == 3
    assert "a: streaming" in html
    assert "b: streaming" in html
    assert len(json.loads((tmp_path / "both" / "report.json").read_text())["runs"]) == 2
    with pytest.raises(ReportError, match=r"holds no report\.json"):
        compare(tmp_path / "a", tmp_path, tmp_path / "both")


def damaged(held: Any) -> list[Any]:
    """Return reports of other shapes: each value in turn is something else or missing."""
    found: list[Any] = []
    others: tuple[Any, ...] = (None, 7, [[]], {"a": 1})
    for key in held["runs"][0]:
        for other in others:
            found.append({**held, "runs": [{**held["runs"][0], key: other}]})
        found.append({**held, "runs": [{name: value for name, value in held["runs"][0].items() if name != key}]})
    return [*found, *others, *({"runs": other} for other in others), *({"runs": [other]} for other in others)]


def test_reports_of_other_shapes_are_refused_or_shown(tmp_path: Path) -> None:
    write_report(tmp_path / "a", "A", "", [run("streaming")])
    refused = 0
    for other in damaged(json.loads((tmp_path / "a" / "report.json").read_text())):
        (tmp_path / "b.json").write_text(json.dumps(other))
        try:
            compare(tmp_path / "a", tmp_path / "b.json", tmp_path / "both")
        except ReportError as error:
            assert "b.json' holds no report.json of a demo or replay" in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 20
    (tmp_path / "b.json").write_text("[" * 100_000)
    with pytest.raises(ReportError, match=r"b\.json' holds no report\.json"):
        compare(tmp_path / "a", tmp_path / "b.json", tmp_path / "both")


def test_names_cannot_break_the_page() -> None:
    made = run("<b>bold</b>")
    html = page("<script>alert(1)</script>", "&", [made])
    assert "<script>" not in html
    assert "<b>bold" not in html


def test_text_that_turns_others_around_is_shown_as_a_sign() -> None:
    html = page("Run \u202eabc", "", [run("streaming")])
    assert "\u202e" not in html and "Run \ufffdabc" in html


def test_charts_of_nothing_are_left_out() -> None:
    assert lines({}, "s", "m", "") == ""
    assert lines({"a": []}, "s", "m", "") == ""
    assert histogram({"a": []}, "ms", "") == ""
    assert ranges({}, "ms", "") == ""
    assert lines({"a": [[0.0, 1.0]]}, "s", "m", "one point").count("<svg") == 1


def test_a_curve_of_an_hour_is_drawn_with_what_a_screen_shows() -> None:
    noise = np.random.default_rng(0).normal(size=100_000)
    drawn = lines({"a": np.stack([np.arange(100_000.0), noise], 1).tolist()}, "s", "m", "noise")
    assert len(drawn) < 200_000


def test_what_is_not_finite_is_a_gap() -> None:
    drawn = lines({"a": [[0.0, None], [1.0, 2.0], [2.0, float("nan")], [3.0, 1.0]]}, "s", "m", "gaps")
    assert "nan" not in drawn.lower() and "<svg" in drawn


def test_stages_have_the_colours_of_the_timeline() -> None:
    shown = make_run("streaming", [record := make_episode("streaming")], aggregate([record]))["timeline"]
    drawn = timeline(shown["spans"], *shown["window"], "all")
    assert all(colour in drawn for colour in STAGES.values())
    assert HALT not in drawn


def test_the_worst_halt_of_all_episodes_is_the_window() -> None:
    records = [make_episode("synchronous", 8), make_episode("synchronous", 30)]
    worst = records[1]
    shift = next(place for place, at in enumerate(worst.states) if at.state.context == 20 and at.state.index == 0)
    worst.states[shift:] = [StateAt(at.time_s + 0.4, at.state) for at in worst.states[shift:]]
    worst.end_s += 0.4
    worst.number = 2
    shown = make_run("synchronous", records, aggregate(records))["timeline"]
    assert shown["episode"] == "door-open, episode 2"
    assert shown["worst_ms"] == pytest.approx(452.0, abs=0.1)
    begin, end = shown["window"]
    halts = [span for span in shown["spans"] if span[3]]
    longest = max(halts, key=lambda span: span[2] - span[1])
    assert (begin + end) / 2 == pytest.approx((longest[1] + longest[2]) / 2)
    assert "episode 2; hatched: the arm had no action" in page("Run", "", [make_run("a", records, aggregate(records))])


def halting(name: str, halt_ms: float, **by_reason: int) -> list[tuple[str, str]]:
    numbers = {
        "executed_actions": 9,
        "t_halt_ms": halt_ms,
        "t_halt": {"count": 7},
        "observations": {"by_reason": by_reason},
        "stages_ms": {"request_to_context": {"p95": 212.0}},
    }
    return verdict([{"name": name, "numbers": numbers}])


def test_only_what_must_be_done_is_red_and_it_says_what() -> None:
    assert halting("a", 2.0, early=7)[0][0] == "good"
    assert halting("a", 80.0, start=1, queue_empty=7)[0] == (
        "plain",
        "a: the arm waits 80.0 ms at a hand-over (T_halt, mean of 7): synchronous, it observes only when nothing is "
        "left to execute.",
    )
    [(kind, sentence)] = halting("a", 80.0, early=5, last_chance=2)
    assert kind == "bad" and "up to 212 ms (p95)" in sentence and "Ask earlier, with `early_actions`" in sentence
    assert "`streaming-vla doctor`" in verdict([{"name": "a", "numbers": {"executed_actions": 0}}])[0][1]


def test_the_saliency_has_its_threshold_and_the_share_above() -> None:
    record = make_episode("streaming")
    numbers = {**aggregate([record]), "saliency": {"count": 8, "mean": 0.5, "threshold": 0.4, "share_above": 0.625}}
    made = make_run("replay", [record], numbers, saliency=[[0.0, 0.1], [1.0, 0.8]], saliency_threshold=0.4)
    html = page("Replay", "One bag.", [made])
    assert "replay: 62 % of 8 are at or above the threshold of 0.4." in html
    assert "62 % (threshold 0.4)" in html
    assert "stroke-dasharray" in html
    assert '<i class="high"' in html


@pytest.mark.parametrize("part", ["name", "timeline", "strips", "numbers", "halts_ms", "parameters", "saliency"])
@pytest.mark.parametrize("value", [7, ["x"], [{"x": 1}], None])
def test_a_report_of_another_shape_is_one_sentence(tmp_path: Path, part: str, value: object) -> None:
    made = {**run("streaming"), part: value}
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps({"runs": [made]}))
    with pytest.raises(ReportError, match=rf"'.*/a' holds no report\.json .*\({part}.*\): make it again"):
        compare(tmp_path / "a", tmp_path / "b", tmp_path / "both")


def test_numbers_that_are_none_are_one_sentence(tmp_path: Path) -> None:
    for name in "ab":
        made = run("streaming")
        made["numbers"]["t_halt_ms"] = "soon"
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps({"runs": [made]}))
    with pytest.raises(ReportError, match="holds numbers that are none"):
        compare(tmp_path / "a", tmp_path / "b", tmp_path / "both")
