"""docs/explanation/design.md says what is there: the stations of an observation, and the files that additions touch."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "explanation" / "design.md").read_text(encoding="utf-8")
MOST_STATIONS, MOST_FILES = 22, 4


def section(title: str) -> str:
    """Return what stands under a heading."""
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def source(name: str) -> Path:
    """Return the file that the page means."""
    found = [folder / name for folder in (ROOT / "src" / "streaming_vla", ROOT / "src", ROOT)]
    return next((path for path in found if path.exists()), ROOT / name)


def test_every_station_from_camera_to_command_is_there() -> None:
    rows = re.findall(r"^\| (\d+) \| \w* ?\| `([^`]+)` \| (.*?) \|$", section("From camera to command"), re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, len(rows) + 1))
    assert 10 < len(rows) <= MOST_STATIONS
    for _, name, text in rows:
        tree = ast.parse(source(name).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        named = re.findall(r"`(\w+)`", text)
        assert named and set(named) <= defined, f"{name} has no {set(named) - defined}"
        for used in re.findall(r"`([\w/]+\.py)`", text):
            assert source(used).is_file(), used


def test_what_is_added_touches_files_that_are_there_and_few() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section("Adding to it"), re.MULTILINE)[2:]
    assert len(rows) >= 6
    for what, text in rows:
        assert len(text.split("; ")) <= MOST_FILES, what
        for name in re.findall(r"`([\w/]+\.(?:py|yaml))`", text):
            assert source(name).is_file(), f"{what}: {name}"
        for table in re.findall(r"`([A-Z]{3,})` of `([^`]+)`", text):
            assert re.search(rf"^{table[0]}\b", source(table[1]).read_text(encoding="utf-8"), re.MULTILINE), table
