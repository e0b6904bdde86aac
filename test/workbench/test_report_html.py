"""The report: self-contained, every picture described, verdict first, and two of them side by side."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from episodes import make_episode

from streaming_vla.workbench.report.charts import histogram, lines, ranges, thinned, ticks
from streaming_vla.workbench.report.html import ReportError, compare, make_run, page, write_report
from streaming_vla.workbench.report.results import aggregate


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
    figures = html.count("<figure>")
    assert figures == html.count("<figcaption>") > 10
    assert '<meta name="viewport" content="width=device-width' in html


def test_the_verdict_comes_first() -> None:
    html = page("Demo", "Two modes.", [run("synchronous"), run("streaming")])
    assert html.index("synchronous: the arm waits 52.0 ms at a hand-over (7 hand-overs).") < html.index("<table>")
    assert 'class="good">streaming: the arm waits 0.0 ms' in html
    assert html.index("<h2>Timeline") < html.index("<h2>Halting") < html.index("<h2>Latencies")


def test_curves_and_problems_are_shown() -> None:
    record = make_episode("streaming")
    numbers = {
        **aggregate([record]),
        "action_error": {"compared": 5, "mean": 0.25, "by_dimension": {"dx": 0.25}, "by_horizon": {"0": 0.1, "1": 0.4}},
        "live": {"decision_agreement": 0.95, "t_halt": {"mean": 3.0}},
        "bags": [{"bag": "b", "problems": ["b breaks off at byte <7>"]}],
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


def test_charts_of_nothing_are_left_out() -> None:
    assert lines({}, "s", "m", "") == ""
    assert lines({"a": []}, "s", "m", "") == ""
    assert histogram({"a": []}, "ms", "") == ""
    assert ranges({}, "ms", "") == ""
    assert lines({"a": [[0.0, 1.0]]}, "s", "m", "one point").count("<polyline") == 1


def test_long_curves_are_thinned() -> None:
    points = thinned([[float(x), 2.0] for x in range(100_000)])
    assert len(points) <= 1501
    assert points[0][0] == 0.0
    assert points[-1][0] == 99_999.0
    assert thinned([[0.0, float("nan")], [1.0, 2.0]]) == [(1.0, 2.0)]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 0.013), (-3.0, 40.0), (0.0, 123_456.0), (0.4, 0.6)])
def test_ticks_are_round_and_few(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 8
    assert low <= found[0]
    assert found[-1] <= high * 1.001
