"""A node whose transition fails is left inactive, in a safe state, and says why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import rclpy
from rclpy.lifecycle import TransitionCallbackReturn

from streaming_vla.machines.events import Episode
from streaming_vla.machines.executor_options import ExecutorOptions
from streaming_vla.ros.base import StartError, SuiteNode
from streaming_vla.workbench.demo.domain import reserved_domain

pytestmark = pytest.mark.ros


class Failing(SuiteNode[ExecutorOptions]):
    """Cannot take the episode that it is handed over when it is activated."""

    ended = 0

    def on_episode(self, episode: Episode) -> None:
        raise RuntimeError(f"episode {episode.number} cannot be taken")

    def deactivate(self) -> None:
        self.ended += 1


@pytest.fixture
def node() -> Iterator[Failing]:
    with reserved_domain() as domain:
        rclpy.init(args=["--ros-args", "-p", "autostart:=true"], domain_id=domain)
        node = Failing("executor", ExecutorOptions)
        yield node
        node.destroy_node()
        rclpy.try_shutdown()


def test_a_node_that_cannot_take_the_known_episode_is_not_active(node: Failing) -> None:
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    node.episode = Episode(number=7, active=True, instruction="open the drawer")
    assert node.trigger_activate() == TransitionCallbackReturn.FAILURE
    assert not node.active
    assert node.ended == 1


def test_at_the_start_it_ends_the_process_with_its_sentence(node: Failing) -> None:
    node.episode = Episode(number=7, active=True, instruction="open the drawer")
    with pytest.raises(StartError, match="node 'executor': episode 7 cannot be taken"):
        node.start()
