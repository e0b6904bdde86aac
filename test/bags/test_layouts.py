"""The layouts for Foxglove and PlotJuggler show fields that the messages have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from streaming_vla.bags.definitions import own_definitions

CONFIG = Path(__file__).resolve().parents[2] / "config"
TYPES = {
    "execution_state": "ExecutionState",
    "action": "Action",
    "observe_request": "ObserveRequest",
    "context": "Context",
    "kv_cache_stats": "KvCacheStats",
}


def foxglove() -> list[tuple[str, str]]:
    layout = json.loads((CONFIG / "foxglove_streaming_vla.json").read_text())
    paths = [path["value"] for panel in layout["configById"].values() for path in panel.get("paths", [])]
    return [tuple(re.fullmatch(r"/(\w+)\.(\w+)(?:\[\d\])?", path).groups()) for path in paths]


def plotjuggler() -> list[tuple[str, str]]:
    curves = ElementTree.parse(CONFIG / "plotjuggler_streaming_vla.xml").iter("curve")
    return [tuple(re.fullmatch(r"/(\w+)/(\w+)(?:\[\d\])?", curve.attrib["name"]).groups()) for curve in curves]


def panels(node: object) -> list[str]:
    return [node] if isinstance(node, str) else [*panels(node["first"]), *panels(node["second"])]  # type: ignore[index]


@pytest.mark.parametrize("shown", [foxglove, plotjuggler])
def test_fields_exist(shown: object) -> None:
    fields = shown()  # type: ignore[operator]
    assert len(fields) >= 12
    for topic, field in fields:
        text = own_definitions()[f"streaming_vla_interfaces/msg/{TYPES[topic]}"]
        assert re.search(rf"^[\w/\[\]]+ {field}\b", text, re.M), f"{topic} has no field {field}"


def test_every_panel_has_its_place() -> None:
    layout = json.loads((CONFIG / "foxglove_streaming_vla.json").read_text())
    assert sorted(panels(layout["layout"])) == sorted(layout["configById"])
