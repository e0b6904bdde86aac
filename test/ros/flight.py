"""The whole graph of one robot at work on the stand-in, started as `streaming-vla up` does."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from robot_stand_in import RobotStandIn
from streaming_vla_interfaces.msg import Action, ExecutionState
from streaming_vla_interfaces.srv import StartEpisode

from streaming_vla.bringup import graph
from streaming_vla.bringup.starter import Suite


class Flight:
    """The graph at work on the stand-in."""

    def __init__(self, probe: Any, robot: RobotStandIn) -> None:
        self.probe, self.robot = probe, robot
        self.states = probe.record(ExecutionState, "execution_state")
        self.actions = probe.record(Action, "action")

    def begin(self) -> None:
        """Start an episode."""
        self.robot.begin()
        answer = self.probe.call(StartEpisode, "start_episode", instruction="go to the place")
        assert answer.accepted, answer.reason
        self.number = answer.episode

    def run(self, hand_overs: int, timeout_s: float = 40.0) -> None:
        """Fly until so many contexts have taken over."""
        self.probe.wait(lambda: self.newest().hand_overs >= hand_overs, "no context takes over", timeout_s)

    def newest(self) -> Any:
        """Return the newest state of the executor in this episode."""
        states = [state for _, state in self.states if state.episode == self.number]
        return states[-1] if states else ExecutionState()

    def starved_s(self) -> float:
        """Return how long it had no action after its first one, seconds."""
        return float(self.newest().starved_s)

    def indices(self) -> dict[int, list[int]]:
        """Return the indices of the actions that were sent, by context."""
        sent = [action for _, action in self.actions if action.episode == self.number]
        return {context: [a.index for a in each] for context, each in itertools.groupby(sent, lambda a: a.context)}


@contextmanager
def flying(
    probe: Any, robot: RobotStandIn, folder: Path, domain: int, text: str, modules: Sequence[Path] = ()
) -> Iterator[Flight]:
    """Start the nodes of one robot with a parameter file.

    Args:
        folder: gets the file and the nodes' logs; modules are found in it too.
        text: of the parameter file.
        modules: folders of modules that the file names.
    """
    file = folder / "my_robot.yaml"
    file.write_text(text, encoding="utf-8")
    path = os.pathsep.join((str(folder), *map(str, modules), os.environ.get("PYTHONPATH", "")))
    with (
        patch.dict(os.environ, {"ROS_DOMAIN_ID": str(domain), "PYTHONPATH": path}),
        Suite(graph.nodes(simulated=False), params_file=file, log_folder=folder, say=lambda line: None),
    ):
        yield Flight(probe, robot)
