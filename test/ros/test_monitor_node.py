"""The monitor process with auto_start dies and comes back: what runs goes on, what has ended stays ended."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from std_msgs.msg import String
from std_srvs.srv import Trigger
from streaming_vla_interfaces.msg import Episode, ExecutionState

from streaming_vla.ros.base import LATCHED

pytestmark = pytest.mark.ros


def test_a_latched_instruction_begins_an_episode_once(suite: Any, probe: Any) -> None:
    suite.start("executor")
    suite.start("saliency_monitor", auto_start=True)
    probe.wait_for_nodes("executor", "saliency_monitor")
    states = probe.record(ExecutionState, "execution_state")
    episodes = probe.record(Episode, "episode", LATCHED)
    instructions = probe.publisher(String, "instruction", LATCHED)
    instructions.publish(String(data="open the drawer"))
    probe.wait(lambda: states and states[-1][1].mode == ExecutionState.MODE_WAITING, "no episode begins")
    number = states[-1][1].episode
    probe.wait(lambda: episodes, "the episode is not announced")

    suite.end("saliency_monitor", signal.SIGKILL)
    episodes.clear()
    suite.start("saliency_monitor")
    probe.wait(lambda: episodes, "the episode is not adopted", 60.0)
    probe.spin(2.0)
    assert [(episode.number, episode.active) for _, episode in episodes] == [(number, True)]
    assert states[-1][1].episode == number

    assert probe.call(Trigger, "stop_episode").success
    suite.end("saliency_monitor", signal.SIGKILL)
    suite.start("saliency_monitor")  # the latched instruction is that of the episode that was stopped
    probe.wait_for_nodes("saliency_monitor")
    probe.spin(2.0)
    assert (states[-1][1].episode, states[-1][1].mode) == (number, ExecutionState.MODE_IDLE)

    def said_again() -> bool:
        """Where the two find each other late, the first message counts as one from before."""
        instructions.publish(String(data="close the drawer"))
        probe.spin(1.0)
        return bool(states[-1][1].episode > number)

    probe.wait(said_again, "no new episode begins", 60.0)
    assert states[-1][1].instruction == "close the drawer"
