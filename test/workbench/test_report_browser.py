"""The report's page in a real browser (headless Chromium), from a phone's width to a laptop's, with hostile texts."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from episodes import make_episode

from streaming_vla.workbench.evaluation.chunk_log import Fate
from streaming_vla.workbench.evaluation.memory_map import MemoryMap, draw_memory_map
from streaming_vla.workbench.report.html import make_run, page
from streaming_vla.workbench.report.results import aggregate

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS_PX = (1400, 1100, 390)  # laptop, half of a screen, phone
JOINTS = (
    "shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint", "wrist_1_joint", "wrist_2_joint", "wrist_3_joint",
    "gripper_finger_joint",
)  # fmt: skip
HOSTILE = (
    "<script>document.title='run'</script><img src=x onerror=alert(1)>\"'&amp;{{ 7*7 }}$x_1$"
    + 60 * "W"
    + "\u202e\u6f22"
)
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
    "--enable-logging=stderr", "--window-size=1500,900", "--virtual-time-budget=5000", "--dump-dom",
)  # fmt: skip
TIME_LIMIT_S = 100

# A page of that width in a frame of this one, which looks at it when it is there and writes down what is wrong.
LOOKING = """<!doctype html><meta charset="utf-8"><body>
<script>
const found = {};
const inside = (box, part) => part.left >= box.left - 1 && part.right <= box.right + 1
  && part.top >= box.top - 1 && part.bottom <= box.bottom + 1;
const across = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
  && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
const name = (part) => part.tagName + ' "' + (part.textContent || part.alt || '').trim().slice(0, 40) + '"';
function overlaps(parts) {
  const said = [];
  parts.forEach((a, place) => parts.slice(place + 1).forEach((b) => {
    if (!a.contains(b) && !b.contains(a) && across(a.getBoundingClientRect(), b.getBoundingClientRect()))
      said.push(name(a) + ' lies over ' + name(b));
  }));
  return said;
}
function look(frame) {
  const shown = (part) => part.getClientRects().length > 0;
  const page = frame.contentDocument, said = [];
  const all = (what, of = page) => [...of.querySelectorAll(what)].filter(shown);
  if (page.documentElement.scrollWidth > frame.clientWidth) said.push('the page is wider than the screen');
  said.push(...overlaps(all('section, header, h1, h2, h3, p, li, .wide, .chart, .strip, figcaption, summary, img')));
  said.push(...overlaps(all('th, td')));
  for (const cell of all('th, td')) {
    const box = cell.getBoundingClientRect();
    if (box.left < 0 || box.right > frame.clientWidth) said.push(name(cell) + ' is hidden');
    if (cell.scrollWidth > cell.clientWidth + 1) said.push(name(cell) + ' runs out of its cell');
    if (cell.textContent.trim() && cell.clientWidth < 24) said.push(name(cell) + ' is too narrow to read');
  }
  for (const part of all('section, header, h1, h3, p, li, figcaption, .chart'))
    if (part.scrollWidth > part.clientWidth + 1) said.push(name(part) + ' runs out of its box');
  for (const drawing of all('svg')) {
    const texts = all('text', drawing), box = drawing.getBoundingClientRect();
    said.push(...overlaps(texts));
    texts.filter((t) => !inside(box, t.getBoundingClientRect())).forEach((t) => said.push(name(t) + ' is cut off'));
    if (!drawing.getAttribute('aria-label')) said.push('a drawing without a text');
    texts.filter((t) => parseFloat(getComputedStyle(t).fontSize) * box.width / drawing.viewBox.baseVal.width < 8)
      .forEach((t) => said.push(name(t) + ' is too small to read'));
  }
  for (const figure of all('figure'))
    if (!all('figcaption', figure).some((c) => c.textContent.trim())) said.push('a picture without a caption');
  for (const image of all('img')) {
    if (!image.alt.trim()) said.push('a picture without an alternative text');
    if (!image.naturalWidth) said.push(name(image) + ' does not load');
    if (!image.closest('figure')) said.push('a picture outside of a figure');
  }
  const counts = {images: all('img').length, drawings: all('svg').length, figures: all('figure').length};
  const first = all('.verdict li')[0].getBoundingClientRect();
  const scripts = page.querySelectorAll('script, [onerror]').length;
  return {problems: [...new Set(said)], ...counts, verdict_px: first.top, scripts};
}
function watch(frame) {
  found[frame.clientWidth] = look(frame);
  document.title = JSON.stringify(found);
}
</script>
"""


@pytest.fixture(scope="module")
def browser() -> str:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium is installed: apt install chromium")
    return path


def memory_map() -> dict[str, str]:
    """Return the map of an episode of 40 observations with every fate, as a report holds it."""
    order = (Fate.EVICTED, Fate.KEPT, Fate.DROPPED, Fate.WINDOW)
    fates = [(fate, None if fate is Fate.WINDOW else 0.3 * (1 + number % 3)) for fate in order for number in range(10)]
    pictures = [np.full((96, 96, 3), 6 * number, np.uint8) for number in range(40)]
    drawn, map_of = io.BytesIO(), MemoryMap("bag: open the drawer\ncache gated", pictures, fates, 0.5)
    draw_memory_map(map_of, drawn)
    return {"data": base64.b64encode(drawn.getvalue()).decode(), "about": map_of.in_words()}


def run(name: str, dimensions: tuple[str, ...] = JOINTS[:4], said: str = "", **memory: Any) -> dict[str, Any]:
    """Return a run whose actions have these dimensions; `said` stands wherever a text comes from outside."""
    record = make_episode(name.split(maxsplit=1)[0], task=said or "door-open")
    for place, frame in enumerate(record.frames):
        record.frames[place] = replace(frame, camera=frame.camera + said)
    curve = [[0.1 * step, abs(np.sin(step))] for step in range(40)]
    numbers = {
        **aggregate([record]),
        "action_error": {
            "compared": 5, "mean": 0.25, "by_dimension": dict.fromkeys(dimensions, 0.123),
            "by_horizon": {str(index): 0.01 * index for index in range(16)},
        },
        "live": {"decision_agreement": 0.95, "t_halt": {"mean": 3.0}},
        "saliency": {"count": 40, "mean": 0.6, "threshold": 0.5, "share_above": 0.7},
        "bags": [{
            "bag": "b", "latencies": said or "measured", "episodes": 1,
            "problems": [f"/a/rather/long/path/of/a/recording/robot_2026-11-26T14-00-00{said} breaks off"],
        }],
    }  # fmt: skip
    actions = {part: {"replayed": curve, "recorded": curve} for part in dimensions}
    parameters = "observer:\n  camera_topics: [" + f"a_rather_long_topic/image{said}, " * 20 + "]\n"
    return make_run(
        name + said, [record], numbers, parameters, saliency=curve, saliency_threshold=0.5,
        kv_bytes=[[t, 1e5 + 1e6 * v] for t, v in curve], kv_full_bytes=[[t, 1e7 * t] for t, _ in curve],
        chunks_kept=curve, actions=actions, **memory,
    )  # fmt: skip


def look(browser: str, text: str, folder: Path) -> tuple[dict[str, Any], str]:
    """Return what was found at each width, and what the browser said."""
    frames = [
        f'<iframe width="{width}" height="900" style="border: 0" srcdoc="{html.escape(text, quote=True)}" '
        'onload="watch(this)"></iframe>'
        for width in WIDTHS_PX
    ]
    path = folder / "looking.html"
    path.write_text(LOOKING + "".join(frames), encoding="utf-8")
    command = [browser, *OPTIONS, f"--user-data-dir={folder / 'profile'}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None, done.stdout[-2000:]
    return json.loads(html.unescape(title.group(1))), done.stderr


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("dimensions", "said"), [(1, ""), (4, HOSTILE), (7, ""), (7, HOSTILE)])
def test_the_page_is_whole_at_every_width(browser: str, tmp_path: Path, dimensions: int, said: str) -> None:
    why = {"about": f"The cache keeps no chunks by score (cache_policy window): it held the newest 25 tokens.{said}"}
    names = tuple(joint + said for joint in JOINTS[:dimensions])
    runs = [
        run(name, names, said, memory_map=memory)
        for name, memory in (("synchronous", memory_map()), ("streaming", why))
    ]
    found, told = look(browser, page("Two runs" + said, "Of the same bag." + said, runs), tmp_path)
    assert set(found) == {str(width) for width in WIDTHS_PX}
    for width, seen in found.items():
        assert not seen["problems"], f"{width} px: {seen['problems']}"
        assert seen["images"] == 2 * 2 * 12 + 1  # two runs of two cameras, and a map of the memory
        assert seen["drawings"] == 2 + 2 + 1 + 2 + 2 * dimensions + 1
        assert seen["figures"] > seen["images"]
        assert seen["scripts"] == 0
        assert said or seen["verdict_px"] < 250  # on the first screen
    assert "CONSOLE" not in told


def test_what_is_wrong_is_seen(browser: str, tmp_path: Path) -> None:
    text = page("Run", "", [run("streaming")])
    damaged = text.replace("table-layout: fixed", "white-space: nowrap").replace(
        "</main>", '<p style="width: 3000px; margin-top: -200px">over</p><img src="x" onerror="1"></main>'
    )
    found, _ = look(browser, damaged, tmp_path)
    for seen in found.values():
        told = " ".join(seen["problems"])
        for problem in ("wider than the screen", "lies over", "without an alternative text", "outside of a figure"):
            assert problem in told
        assert seen["scripts"] == 1
    assert " is hidden" in " ".join(found["390"]["problems"])
