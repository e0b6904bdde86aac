"""The layouts for Foxglove and PlotJuggler: fields that exist, in the robot's namespace, for its cameras."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from streaming_vla.bags.definitions import own_definitions
from streaming_vla.bringup.watch.layouts import foxglove, plotjuggler, subject
from streaming_vla.bringup.watch.signals import PLOTS
from streaming_vla.cli import app
from streaming_vla.parameters.nodes import SuiteOptions

OPTIONS = SuiteOptions().changed(
    "observer", {"cameras": ["top", "hand"], "camera_topics": ["camera/top", "/hand/image_raw"]}
)
ROBOT = subject(OPTIONS, "arm")


def panels(node: Any) -> list[str]:
    return [node] if isinstance(node, str) else [*panels(node["first"]), *panels(node["second"])]


def shown(layout: str) -> set[tuple[str, str]]:
    """Return topic and field of every curve."""
    if layout.startswith("{"):
        values = [
            path["value"] for panel in json.loads(layout)["configById"].values() for path in panel.get("paths", [])
        ]
    else:
        values = [curve.attrib["name"] for curve in ElementTree.fromstring(layout).iter("curve")]
    found = [re.fullmatch(r"/arm/(\w+)[./](\w+)(\[\d\])?", value) for value in values]
    assert all(found) and len(set(values)) == len(values)
    return {(match[1], match[2]) for match in found if match}


@pytest.mark.parametrize("layout", [foxglove(ROBOT), plotjuggler(ROBOT)], ids=["foxglove", "plotjuggler"])
def test_every_curve_is_a_field_of_its_message(layout: str) -> None:
    curves = shown(layout)
    assert curves == {(plot.topic, field) for plot in PLOTS for field in plot.fields} and len(curves) >= 12
    kinds = {plot.topic: plot.kind for plot in PLOTS}
    for topic, field in curves:
        text = own_definitions()[f"streaming_vla_interfaces/msg/{kinds[topic]}"]
        assert re.search(rf"^[\w/\[\]]+ {field}\b", text, re.M), f"{topic} has no field {field}"
    assert layout.count("/arm/action") == len(OPTIONS.executor.action_names)


def test_every_panel_of_foxglove_has_its_place_and_every_camera_its_panel() -> None:
    layout = json.loads(foxglove(ROBOT))
    assert sorted(panels(layout["layout"])) == sorted(layout["configById"])
    images = [panel["imageMode"]["imageTopic"] for panel in layout["configById"].values() if "imageMode" in panel]
    assert images == ["/arm/camera/top", "/hand/image_raw"]


def test_the_splitters_of_plotjuggler_have_as_many_places_as_they_say() -> None:
    for splitter in ElementTree.fromstring(plotjuggler(ROBOT)).iter("DockSplitter"):
        assert int(splitter.attrib["count"]) == len(splitter) == len(splitter.attrib["sizes"].split(";"))


def test_the_command_writes_the_file_for_a_robots_parameters(tmp_path: Path) -> None:
    parameters, out = tmp_path / "arm.yaml", tmp_path / "layout.json"
    parameters.write_text("/**/observer:\n  ros__parameters: {cameras: [eye], camera_topics: [/eye/image]}\n")
    given = ["--params-file", str(parameters), "--namespace", "arm", "--out", str(out)]
    done = CliRunner().invoke(app, ["watch", "--layout", "foxglove", *given])
    assert done.exit_code == 0, done.output
    assert "/eye/image" in out.read_text() and "/arm/execution_state.mode" in out.read_text()
    assert CliRunner().invoke(app, ["watch", "--layout", "foxglove"]).exit_code == 1
