"""Layouts for Foxglove and PlotJuggler, made for the namespace, the cameras and the actions of a robot."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from xml.etree import ElementTree

from streaming_vla.bringup.watch.signals import PLOTS, Plot, curves
from streaming_vla.parameters.nodes import SuiteOptions
from streaming_vla.parameters.sections import full_namespace

COLOURS = ("#2f6fb6", "#d9731a", "#3a8f5c", "#8a4fb0", "#b23a48", "#5c6b73", "#c2a83e", "#3fa7a3")


@dataclass(frozen=True)
class Subject:
    """What a layout is made for.

    Args:
        namespace: of the robot, absolute.
        cameras: picture topic of each, by name, absolute.
        dimensions: of an action.
    """

    namespace: str
    cameras: dict[str, str]
    dimensions: int

    def topic(self, name: str) -> str:
        """Return a topic's full name."""
        return name if name.startswith("/") else f"{self.namespace.rstrip('/')}/{name}"


def subject(options: SuiteOptions, namespace: str) -> Subject:
    """Return what the parameters of a robot say."""
    seen = Subject(full_namespace(namespace), {}, len(options.executor.action_names))
    topics = options.observer.of_cameras(options.observer.camera_topics)
    return Subject(seen.namespace, {name: seen.topic(topic) for name, topic in topics.items()}, seen.dimensions)


def foxglove(robot: Subject) -> str:
    """Return a layout of Foxglove, JSON: cameras and nodes on the left, plots on the right."""
    panels: dict[str, dict[str, Any]] = {}
    for name, topic in robot.cameras.items():
        panels[f"Image!{name}"] = {"foxglovePanelTitle": name, "imageMode": {"imageTopic": topic}}
    panels["DiagnosticSummary!nodes"] = {"foxglovePanelTitle": "Nodes", "topicToRender": "/diagnostics"}
    left = list(panels)
    for plot in PLOTS:
        paths = [f"{robot.topic(plot.topic)}.{field}" for field in curves(plot, robot.dimensions)]
        panels[f"Plot!{plot.title.lower().replace(' ', '_')}"] = {
            "foxglovePanelTitle": plot.title,
            "paths": [{"value": path, "enabled": True, "timestampMethod": "receiveTime"} for path in paths],
            "showLegend": True,
            "isSynced": True,
        }
    right = [name for name in panels if name not in left]
    half = (len(right) + 1) // 2
    layout = _split("row", [_column(left), _column(right[:half]), _column(right[half:])])
    whole = {"configById": panels, "globalVariables": {}, "userNodes": {}, "playbackConfig": {"speed": 1}}
    return json.dumps({**whole, "layout": layout}, indent=2) + "\n"


def plotjuggler(robot: Subject) -> str:
    """Return a layout of PlotJuggler 3, XML: a tab for each group of plots."""
    root = ElementTree.Element("root")
    tabs = ElementTree.SubElement(root, "tabbed_widget", {"name": "Main Window", "parent": "main_window"})
    for title, group in groupby(PLOTS, key=lambda plot: plot.tab):
        plots = list(group)
        tab = ElementTree.SubElement(tabs, "Tab", tab_name=title, containers="1")
        sizes = ";".join([f"{1 / len(plots):.4f}"] * len(plots))
        splitter = ElementTree.SubElement(
            ElementTree.SubElement(tab, "Container"),
            "DockSplitter",
            orientation="-",
            count=str(len(plots)),
            sizes=sizes,
        )
        for plot in plots:
            _add_plot(splitter, plot, robot)
    ElementTree.SubElement(tabs, "currentTabIndex", index="0")
    ElementTree.SubElement(root, "use_relative_time_offset", enabled="1")
    ElementTree.indent(root, " ")
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


LAYOUTS: dict[str, Callable[[Subject], str]] = {"foxglove": foxglove, "plotjuggler": plotjuggler}


def _add_plot(splitter: ElementTree.Element, plot: Plot, robot: Subject) -> None:
    area = ElementTree.SubElement(splitter, "DockArea", name=plot.title)
    holder = ElementTree.SubElement(area, "plot", mode="TimeSeries", style="Lines")
    for place, field in enumerate(curves(plot, robot.dimensions)):
        name, colour = f"{robot.topic(plot.topic)}/{field}", COLOURS[place % len(COLOURS)]
        ElementTree.SubElement(holder, "curve", name=name, color=colour)


def _column(panels: Sequence[str]) -> Any:
    return _split("column", panels)


def _split(direction: str, parts: Sequence[Any]) -> Any:
    """Return parts beside each other, all of one size; a split of Foxglove has two."""
    if len(parts) == 1:
        return parts[0]
    share = round(100.0 / len(parts), 2)
    return {
        "direction": direction,
        "splitPercentage": share,
        "first": parts[0],
        "second": _split(direction, parts[1:]),
    }
