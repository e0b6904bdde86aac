"""A policy that is wrong, in the real inference node from a parameter file: one sentence, the robot holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from robot_stand_in import RobotStandIn
from std_srvs.srv import Trigger
from streaming_vla_interfaces.msg import ExecutionState
from streaming_vla_interfaces.srv import StartEpisode

from streaming_vla.ros.exit_codes import CONFIG_ERROR

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180)]
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

def chunk_of(rows):
    return BlockingPolicy(lambda images, state, instruction: rows, chunk_policy.SPEC)

def nan_rows():
    rows = np.zeros((20, 4))
    rows[3, 1] = np.nan
    return chunk_of(rows)

def wrong_horizon():
    return chunk_of(np.zeros((12, 4)))

def wrong_dimensions():
    return chunk_of(np.zeros((20, 7)))

def no_chunk():
    return chunk_of("go left")

def blocks():
    return BlockingPolicy(lambda *seen: time.sleep(1e6), chunk_policy.SPEC, timeout_s=0.5)

def raises_later():
    def fail(images, state, instruction):
        raise RuntimeError("out of memory")
    return BlockingPolicy(fail, chunk_policy.SPEC)

class Flow(flow_policy.GoalPolicy):
    def __init__(self, action=None, **changes):
        self.action, self.spec = action, replace(flow_policy.SPEC, **changes)

    def flow_step(self, query):
        return super().flow_step(query) if self.action is None else self.action()

def nan_action():
    return Flow(lambda: np.array([0.1, np.nan, 0.0, 0.0]))

def short_action():
    return Flow(lambda: np.zeros(3))

def hangs():
    return Flow(lambda: time.sleep(1e6))

class TooManyTokens(Flow):
    def prefill(self, observation, view):
        prefilled = yield from super().prefill(observation, view)
        return prefilled._replace(keys=torch.zeros(1, 1, 5, 2), values=torch.zeros(1, 1, 5, 2))

class NoPrefilled(Flow):
    def prefill(self, observation, view):
        yield
        return "seen"

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
LATER = {  # name: (node whose log has it, sentence)
    "nan_rows": ("inference", "policy goal_chunks in denoise failed: its chunk is not finite in row 3"),
    "wrong_horizon": ("inference", "its chunk has shape (12, 4), expected (20, 4): horizon and action dimensions"),
    "wrong_dimensions": ("inference", "its chunk has shape (20, 7), expected (20, 4): horizon and action dimensions"),
    "no_chunk": ("inference", "policy goal_chunks in denoise failed: could not convert string to float"),
    "blocks": (
        "inference",
        "policy goal_chunks: its function has not returned in time, 0.5 s are allowed: make it ret",
    ),
    "raises_later": ("inference", "policy goal_chunks in prefill failed: out of memory"),
    "nan_action": ("inference", "policy goal in flow_step failed: action is not finite in dy"),
    "short_action": ("inference", "action has shape (3,), expected (4,) for dx, dy, dz, gripper"),
    "hangs": ("inference", "the model has not answered for 2 s: restart this node"),
    "TooManyTokens": ("inference", "it made 5 tokens, it declares at most 1"),
    "NoPrefilled": ("inference", "policy goal in prefill failed: "),
    "other_period": ("generator", "control_period_s is 0.05, an action of the policy lasts 0.1 s: its actions"),
    "other_cameras": ("inference", "its cameras are corner2, gripperPOV, the policy needs top, wrist: set"),
    "other_pictures": ("inference", "96"),
    "other_state": ("inference", "robot state has shape (4,), the policy needs (6,)"),
    "other_actions": ("generator", "action_absolute is wrong for dx, dy, dz: targets of the policy are dx, dy, dz, gr"),
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


@pytest.mark.parametrize("name", LATER)
def test_what_fails_later_leaves_the_robot_held_and_the_node_alive(
    suite: Any, probe: Any, states: list[tuple[float, Any]], name: str
) -> None:
    node, sentence = LATER[name]
    suite.start("inference", model=f"python:bad_policies:{name}")
    try:
        probe.wait_for_nodes("inference")
        heard = len(suite.log(node))
        answer = probe.call(StartEpisode, "start_episode", instruction="go to the place")
        assert answer.accepted, answer.reason
        probe.wait(lambda: sentence in suite.log(node)[heard:], f"nothing of '{sentence}' in:\n{suite.log(node)}", 20.0)
        probe.spin(1.0)
        assert not suite.has_ended("inference"), suite.log("inference")
        modes = {state.mode for _, state in states if state.episode == answer.episode}
        assert modes and modes <= {ExecutionState.MODE_WAITING, ExecutionState.MODE_HOLD}, modes
        assert not any(state.executed for _, state in states if state.episode == answer.episode)
    finally:
        probe.call(Trigger, "stop_episode")
        suite.kill("inference")
