"""The page of the report: one HTML file without anything from outside, readable on a laptop and on a phone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jinja2

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { --ink: #1f2328; --faint: #59636e; --line: #d8dee4; --back: #ffffff; --soft: #f5f7f9; --good: #1a7f37;
  --bad: #c62430; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--soft); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 20px 16px 60px; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 8px 0 2px; }
h2 { font-size: 1.15rem; margin: 0 0 6px; }
h3 { font-size: 1rem; margin: 14px 0 4px; color: var(--faint); }
p { margin: 4px 0; }
section, header { background: var(--back); border: 1px solid var(--line); border-radius: 10px; padding: 18px;
  margin-top: 14px; }
figure { margin: 0; }
figcaption, .about { color: var(--faint); font-size: .92rem; margin-top: 4px; }
.verdict li { margin: 5px 0; }
.verdict { margin: 10px 0 0; padding-left: 20px; font-size: 1.06rem; }
.good::marker { color: var(--good); content: "\\2713\\00a0"; }
.bad::marker { color: var(--bad); content: "!\\00a0"; }
.wide { overflow-x: auto; }
.parts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24em), 1fr)); gap: 14px 22px; }
.parts > * { min-width: 0; }
.across { grid-column: 1 / -1; }
svg { display: block; width: 100%; height: auto; }
.narrow { display: none; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: .9rem; }
.legend span { unicode-bidi: isolate; min-width: 0; }
.legend i { display: inline-block; width: 14px; height: 14px; border-radius: 3px; margin-right: 6px;
  vertical-align: -2px; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; font-variant-numeric: tabular-nums; }
th, td { text-align: right; vertical-align: top; padding: 5px 10px; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
.strip { display: flex; gap: 6px; overflow-x: auto; padding-bottom: 6px; }
.strip figure { flex: 0 0 auto; width: 96px; }
.strip img { width: 96px; height: 96px; border-radius: 6px; display: block; }
.strip figcaption { text-align: center; font-size: .8rem; line-height: 1.35; margin: 2px 0 0; }
.bar { display: block; height: 6px; border-radius: 3px; background: #e4e8ec; margin: 3px 0 1px; }
.bar i { display: block; height: 6px; border-radius: 3px; background: #a9b4c0; }
.bar i.high { background: #24292f; }
.sent { display: inline-block; background: #dbe7f5; color: #1c4f8a; border-radius: 8px; padding: 0 7px;
  margin-top: 2px; }
.picture { display: block; width: 100%; min-width: 760px; height: auto; }
pre { overflow-x: auto; font-size: .85rem; background: var(--soft); padding: 12px; border-radius: 8px; }
@media (max-width: 600px) {
  main { padding: 8px 8px 40px; }
  section, header { padding: 12px; }
  .broad { display: none; }
  .narrow { display: block; }
  table { font-size: .88rem; }
  th, td { padding: 5px 4px; }
}
details summary { cursor: pointer; font-weight: 600; }
</style>
</head>
<body>
<main>
<header>
<h1>{{ title }}</h1>
<p class="about">{{ about }}</p>
<ul class="verdict">
{% for kind, text in verdict %}<li class="{{ kind }}">{{ text }}</li>
{% endfor %}</ul>
</header>
<section>
<h2>Numbers</h2>
{% if terms %}<p class="about">{{ terms }}</p>
{% endif %}<table>
<thead><tr><th scope="col">figure</th>{% for run in runs %}<th scope="col">{{ run.name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for name, cells in rows %}<tr><td>{{ name }}</td>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
</section>
{% for chart in charts %}<section>
<h2>{{ chart.title }}</h2>
{% for note in chart.notes %}<p>{{ note }}</p>
{% endfor %}<div class="parts">
{% for part in chart.parts %}<figure{% if part.across %} class="across"{% endif %}>
{% if part.name %}<h3>{{ part.name }}</h3>{% endif %}
{{ part.drawing | safe }}
<figcaption>{{ part.caption }}</figcaption>
</figure>
{% endfor %}</div>
</section>
{% endfor %}{% for run in runs %}{% if run.parameters %}<section>
<details><summary>Parameters of {{ run.name }}</summary><pre>{{ run.parameters }}</pre></details>
</section>
{% endif %}{% endfor %}</main>
</body>
</html>
"""
# what is not seen, and turns the text behind it around or breaks it
_UNSEEN = re.compile("[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def _seen(value: object) -> object:
    return _UNSEEN.sub("\ufffd", value) if type(value) is str else value


_PAGE = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, finalize=_seen).from_string(_TEMPLATE)


def render(
    title: str,
    about: str,
    verdict: Sequence[tuple[str, str]],
    rows: Sequence[tuple[str, Sequence[str]]],
    charts: Sequence[dict[str, Any]],
    runs: Sequence[dict[str, Any]],
    terms: str = "",
) -> str:
    """Return the HTML; every text is escaped, what `section` holds as drawings must be HTML already.

    Args:
        verdict: (good, plain or bad; sentence); bad is what must be done something about, and says what.
        rows: (figure, text of each run).
        charts: of `section`; those without anything in them are left out.
        runs: their names stand above the columns, their parameters (YAML text) at the end.
        terms: what the figures' names mean.
    """
    shown = [each for each in charts if each["parts"] or each["notes"]]
    return _PAGE.render(title=title, about=about, verdict=verdict, rows=rows, charts=shown, runs=runs, terms=terms)


def section(title: str, parts: Sequence[dict[str, Any]], notes: Sequence[str] = ()) -> dict[str, Any]:
    """Return a section of the page; parts without a drawing are left out."""
    return {"title": title, "notes": list(notes), "parts": [part for part in parts if part["drawing"]]}


def part(drawing: str, caption: str, name: str = "", across: bool = False) -> dict[str, Any]:
    """Return a drawing (HTML) with its caption, below a name; two stand side by side unless one goes `across`."""
    return {"drawing": drawing, "caption": caption, "name": name, "across": across}
