"""A policy that is wrong, in the real inference node from a parameter file: one sentence, the robot holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from robot_stand_in import RobotStandIn
from std_srvs.srv import Trigger
from streaming_vla_interfaces.msg import ExecutionState
from streaming_vla_interfaces.srv import StartEpisode

from streaming_vla.ros.exit_codes import CONFIG_ERROR

pytestmark = [pytest.mark.ros, pytest.mark.timeout(240)]
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
MODULE = """
import time
from dataclasses import replace
import numpy as np
import torch
import chunk_policy, flow_policy
from streaming_vla.policies.blocking import BlockingPolicy
from streaming_vla.policies.contract import PolicySpec

number = 7

def raises():
    raise FileNotFoundError("weights.bin is not there")

def nothing():
    return None

def takes_arguments(path):
    return flow_policy.GoalPolicy()

def wrong_horizons():
    return BlockingPolicy(lambda *seen: np.zeros((20, 4)), replace(chunk_policy.SPEC, execution_horizon=30))

def no_description():
    return lambda images, state, instruction: np.zeros((20, 4))

class NoPrefill:
    spec = flow_policy.SPEC

def nan_rows():
    rows = np.zeros((20, 4))
    rows[3, 1] = np.nan
    return rows

def fail():
    raise RuntimeError("out of memory")

CHUNKS = {
    "nan rows": nan_rows,
    "wrong horizon": lambda: np.zeros((12, 4)),
    "wrong dimensions": lambda: np.zeros((20, 7)),
    "no chunk": lambda: "go left",
    "raises": fail,
    "blocks": lambda: time.sleep(1e6),
    "good": lambda: np.full((20, 4), 0.1),
}

def chunks():
    return BlockingPolicy(lambda images, state, told: CHUNKS[told](), chunk_policy.SPEC, timeout_s=0.5)

ACTIONS = {
    "nan action": lambda: np.array([0.1, np.nan, 0.0, 0.0]),
    "short action": lambda: np.zeros(3),
    "hangs": lambda: time.sleep(1e6),
    "good": lambda: np.full(4, 0.1),
}

class Flow(flow_policy.GoalPolicy):
    def __init__(self, **changes):
        self.spec = replace(flow_policy.SPEC, **changes)

    def prefill(self, observation, view):
        self.told = observation.instruction
        prefilled = yield from super().prefill(observation, view)
        if self.told == "too many tokens":
            return prefilled._replace(keys=torch.zeros(1, 1, 5, 2), values=torch.zeros(1, 1, 5, 2))
        return "seen" if self.told == "no tokens" else prefilled

    def flow_step(self, query):
        return ACTIONS[self.told]()

def other_period():
    return Flow(control_period_s=0.1)

def other_cameras():
    return Flow(cameras=("top", "wrist"))

def other_pictures():
    return Flow(image_size=64)

def other_state():
    return Flow(state_size=6)

def other_actions():
    return Flow(layout=replace(flow_policy.LAYOUT, absolute=(True, True, True, True)))
"""
AT_START = {
    "raises": "raises raises FileNotFoundError: weights.bin is not there",
    "missing": "has no missing",
    "number": "has a int, no function number",
    "nothing": "gives a NoneType without a spec, expected a policy with a PolicySpec as its spec",
    "takes_arguments": "takes_arguments must be callable without arguments",
    "wrong_horizons": "wrong_horizons raises ValueError: policy goal_chunks: trained_horizon 20 is below execution",
    "no_description": "gives a function without a description: return BlockingPolicy(function, spec)",
    "NoPrefill": "gives a NoPrefill without prefill, expected a flow policy or a chunk policy",
}
WRONG_CHUNKS = {  # by the instruction that makes the policy go wrong
    "nan rows": "policy goal_chunks in denoise failed with ValueError: its chunk is not finite in row 3",
    "wrong horizon": "its chunk has shape (12, 4), expected (20, 4): horizon and action dimensions",
    "wrong dimensions": "its chunk has shape (20, 7), expected (20, 4): horizon and action dimensions",
    "no chunk": "policy goal_chunks in denoise failed with ValueError: could not convert string to float",
    "raises": "policy goal_chunks in prefill failed with RuntimeError: out of memory",
}
WRONG_FLOW = {
    "nan action": "policy goal in flow_step failed with ValueError: action is not finite in dy",
    "short action": "action has shape (3,), expected (4,) for dx, dy, dz, gripper",
    "too many tokens": "it made 5 tokens, it declares at most 1",
    "no tokens": "policy goal in prefill failed with ",
}
# model, instruction, node that says it, sentence
FOR_GOOD = {
    "blocks": ("chunks", "blocks", "inference", "its function has not returned in time, 0.5 s are allowed: make it"),
    "hangs": ("Flow", "hangs", "inference", "the model has not answered for 2 s: restart this node"),
    "period": ("other_period", "good", "generator", "control_period_s is 0.05, an action of the policy lasts 0.1 s"),
    "cameras": ("other_cameras", "good", "inference", "cameras are corner2, gripperPOV, the policy needs top, wrist"),
    "pictures": ("other_pictures", "good", "inference", "96"),
    "state": ("other_state", "good", "inference", "robot state has shape (4,), the policy needs (6,)"),
    "actions": ("other_actions", "good", "generator", "action_absolute is wrong for dx, dy, dz: targets of the policy"),
}


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make the policies importable for the processes of this module."""
    folder = tmp_path_factory.mktemp("policies")
    (folder / "bad_policies.py").write_text(MODULE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{EXAMPLES}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        yield


def parameter_file(folder: Path, model: str) -> Path:
    """Write a parameter file."""
    file = folder / "my_robot.yaml"
    file.write_text(yaml.safe_dump({"/**/inference": {"ros__parameters": {"model": model}}}), encoding="utf-8")
    return file


@pytest.mark.parametrize("name", AT_START)
def test_what_cannot_be_loaded_ends_the_node_with_one_sentence(suite: Any, tmp_path: Path, name: str) -> None:
    model = f"python:bad_policies:{name}"
    file = parameter_file(tmp_path, model)
    before = len(suite.log("inference"))
    code, said = suite.run("inference", "--params-file", str(file), "-p", "autostart:=true")
    said = said[before:]
    assert code == CONFIG_ERROR, said
    [sentence] = [line for line in said.splitlines() if AT_START[name] in line]
    assert sentence.startswith(f"{file}: section '/**/inference': node 'inference': model '{model}'"), sentence
    assert "Traceback" not in said


def test_a_module_that_is_not_there_ends_the_node(suite: Any, tmp_path: Path) -> None:
    file = parameter_file(tmp_path, "python:no_such_module:Policy")
    code, said = suite.run("inference", "--params-file", str(file), "-p", "autostart:=true")
    assert code == CONFIG_ERROR
    assert "there is no module no_such_module, put its folder on PYTHONPATH" in said.splitlines()[-1]


@pytest.fixture(scope="module")
def states(suite: Any, probe: Any, domain: int) -> Iterator[list[tuple[float, Any]]]:
    """The rest of the graph, with a robot that lives; returns the executor's states as they come."""
    robot = RobotStandIn(domain)
    for node in ("observer", "generator", "saliency_monitor", "executor"):
        suite.start(node)
    probe.wait_for_nodes("observer", "generator", "saliency_monitor", "executor")
    yield probe.record(ExecutionState, "execution_state")
    robot.close()


class Tried:
    """Tries instructions on the graph."""

    def __init__(self, suite: Any, probe: Any, states: list[tuple[float, Any]]) -> None:
        self.suite, self.probe, self.states = suite, probe, states

    def begin(self, instruction: str) -> int:
        """Start an episode; return its number."""
        answer = self.probe.call(StartEpisode, "start_episode", instruction=instruction)
        assert answer.accepted, answer.reason
        return int(answer.episode)

    def executed(self, episode: int) -> int:
        """Return how many actions the robot was given."""
        return max((state.executed for _, state in self.states if state.episode == episode), default=0)

    def is_held(self, instruction: str, node: str, sentence: str) -> None:
        """Check that the node says the sentence, that the robot is not moved and that the inference node lives."""
        said = len(self.suite.log(node))
        episode = self.begin(instruction)
        self.probe.wait(lambda: sentence in self.suite.log(node)[said:], f"{node} does not say '{sentence}'", 20.0)
        self.probe.spin(0.5)
        assert not self.suite.has_ended("inference"), self.suite.log("inference")
        modes = {state.mode for _, state in self.states if state.episode == episode}
        assert modes and modes <= {ExecutionState.MODE_WAITING, ExecutionState.MODE_HOLD}, modes
        assert self.executed(episode) == 0
        assert self.probe.call(Trigger, "stop_episode").success


@contextmanager
def tried(suite: Any, probe: Any, states: list[tuple[float, Any]], name: str) -> Iterator[Tried]:
    """Run the inference node with a policy."""
    suite.start("inference", model=f"python:bad_policies:{name}")
    try:
        probe.wait_for_nodes("inference")
        yield Tried(suite, probe, states)
    finally:
        suite.kill("inference")


@pytest.mark.parametrize(("name", "wrong"), [("chunks", WRONG_CHUNKS), ("Flow", WRONG_FLOW)])
def test_what_goes_wrong_holds_the_robot_and_the_node_lives_on(
    suite: Any, probe: Any, states: list[tuple[float, Any]], name: str, wrong: dict[str, str]
) -> None:
    with tried(suite, probe, states, name) as graph:
        for instruction, sentence in wrong.items():
            graph.is_held(instruction, "inference", sentence)
        episode = graph.begin("good")
        probe.wait(lambda: graph.executed(episode) >= 20, "it does not go on with what is good", 20.0)
        assert probe.call(Trigger, "stop_episode").success


@pytest.mark.parametrize("case", FOR_GOOD)
def test_what_stays_wrong_holds_the_robot(suite: Any, probe: Any, states: list[tuple[float, Any]], case: str) -> None:
    name, instruction, node, sentence = FOR_GOOD[case]
    with tried(suite, probe, states, name) as graph:
        graph.is_held(instruction, node, sentence)
