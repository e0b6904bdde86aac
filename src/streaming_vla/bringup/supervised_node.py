"""A node under supervision: process, way to the active state, heartbeat, respawn after a crash or a hang."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from streaming_vla.bringup.graph import GraphNode
from streaming_vla.bringup.heartbeats import ACTIVE, HeartbeatSocket, Watch
from streaming_vla.bringup.lifecycle_client import BringUp, LifecycleClient, Progress
from streaming_vla.bringup.processes import NodeProcess, RespawnPolicy
from streaming_vla.ros.exit_codes import CONFIG_ERROR

BRING_UP_TIMEOUT_S = 120.0


class GivenUp(RuntimeError):
    """The node cannot run; the message is one sentence for the operator."""


class Member:
    """One node of the suite; every method belongs to the supervising thread.

    Args:
        node: which one.
        ros_arguments: what follows `--ros-args`.
        client: that asks for lifecycle transitions.
        say: gets what happens to the node, one line each.
        output: gets every line that the process prints, from another thread.
        folder: private, for the node's socket.
        policy: how often it is started again.
    """

    def __init__(
        self,
        node: GraphNode,
        ros_arguments: Sequence[str],
        client: LifecycleClient,
        say: Callable[[str], None],
        output: Callable[[str], None],
        folder: Path,
        policy: RespawnPolicy,
    ) -> None:
        self.node = node
        self.active = False
        self.respawns = 0
        self.process: NodeProcess | None = None
        self._ros_arguments = list(ros_arguments)
        self._client = client
        self._say = say
        self._output = output
        self._policy = policy
        self._socket = HeartbeatSocket(folder / node.name)
        self._watch = Watch(may_hang=node.simulated_only)
        self._driver: BringUp | None = None
        self._spawned_s = 0.0
        self._respawn_s = 0.0
        self._lost_s = 0.0  # when it was last known to be there, monotonic seconds

    def spawn(self) -> None:
        """Start the process; one that is started again waits for nobody and activates itself.

        To be asked for its transitions takes seconds more: requests still find the services of the process before it,
        and none of those is answered.
        """
        alone = ["-p", "autostart:=true"] if self._watch.been_active else []
        arguments = [*self._ros_arguments, *alone]
        self.process = NodeProcess(self.node, arguments, self._output, self._socket.environment)
        self._spawned_s = time.monotonic()
        self._socket.newest()  # words of the process before
        self._watch.forget(self._spawned_s)
        self._driver = self._client.bring_up(self.node.name)

    def step(self, now: float, may_come_up: bool) -> None:
        """Do what is due at `now` (monotonic seconds).

        Args:
            now: monotonic seconds.
            may_come_up: whether the node may be configured and activated already.

        Raises:
            GivenUp: the node failed at its first start, refuses its configuration, or crashed too often.
        """
        self._watch.hear(self._socket.newest(), now)
        if self.process is None:
            if now >= self._respawn_s:
                self.respawns += 1
                self.spawn()
        elif self.process.ended:
            self._lost(self.process, now)
        elif self._driver is not None:
            if may_come_up:
                self._drive(self.process, self._driver, now)
            else:
                self._spawned_s = now  # its time begins when it is its turn
        else:
            self._watch_over(now)
            if fault := self._watch.fault(now):
                self._lost(self.process, now, fault=f"node '{self.node.name}': {fault}")

    def _watch_over(self, now: float) -> None:
        """Say once that the node is away though its process lives, and that it is back."""
        away_s = self.away_s(now)
        if self.active and away_s is not None:
            self._lost_s = now - away_s
            self._say(f"{self.node.name}: not heard to be active for {away_s:.1f} s")
        elif not self.active and away_s is None:
            self._say(f"{self.node.name}: recovered, active again after {now - self._lost_s:.1f} s")
        self.active = away_s is None

    def away_s(self, now: float) -> float | None:
        """Return for how long the node has been away, seconds; None while it is there, or before it ever was."""
        return self._watch.away_s(now)

    def stop(self) -> None:
        """End the process."""
        self.active = False
        if self.process is not None:
            self.process.stop()
        self._socket.close()

    def _drive(self, process: NodeProcess, driver: BringUp, now: float) -> None:
        progress = Progress.ACTIVE if self._watch.state == ACTIVE else driver.step(now)
        if progress is Progress.ACTIVE:
            self.active = self._watch.been_active = True
            self._driver = None
            recovered = f"recovered, {now - self._lost_s:.1f} s after it was lost, " if self.respawns else ""
            self._say(f"{self.node.name}: {recovered}active after {now - self._spawned_s:.1f} s")
        elif progress is Progress.REFUSED or now - self._spawned_s > BRING_UP_TIMEOUT_S:
            self._lost(process, now, refused=progress is Progress.REFUSED)

    def _lost(self, process: NodeProcess, now: float, refused: bool = False, fault: str = "") -> None:
        if self.active:
            self._lost_s = now
        sentence = fault or process.last_sentence()
        self.active = False
        self._driver = None
        if fault:
            process.kill()
        else:
            process.stop()
        self.process = None
        self._watch.forget(now)
        # what a node refuses it would refuse again
        if not self._watch.been_active or refused or process.popen.returncode == CONFIG_ERROR:
            raise GivenUp(sentence)
        delay_s = self._policy.delay_s(now)
        if delay_s is None:
            raise GivenUp(f"{sentence}; it crashed too often, giving up")
        self._respawn_s = now + delay_s
        self._say(f"{sentence}; respawned in {delay_s:.1f} s")
