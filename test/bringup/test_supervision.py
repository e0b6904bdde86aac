"""What watches the nodes of a launch file, with processes that a test starts in launch's place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from streaming_vla.bringup.graph import GraphNode
from streaming_vla.bringup.supervision import LOOK_S, Supervision
from streaming_vla.machines.events import NodesAway

NODE = GraphNode("observer", "none")
SCRIPT = """
import time
from streaming_vla.ros.heartbeat import Heartbeat
heartbeat = Heartbeat()
heartbeat.beat("active", time.monotonic())
print("active", flush=True)
while True:
    heartbeat.beat("active", time.monotonic())
    time.sleep(0.05)
"""


class Launched:
    """Starts and watches one node."""

    def __init__(self, folder: Path) -> None:
        self.told: list[NodesAway] = []
        self.said: list[str] = []
        self.supervision = Supervision([NODE], folder, self.told.append, self.said.append)
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self.supervision.environment("observer")}
        process = subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, stdout=subprocess.PIPE)
        self.supervision.started("observer", process.pid, time.monotonic())
        return process

    def wait(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 60.0
        while not done():
            assert time.monotonic() < deadline, f"waited in vain for {what}: {self.said}"
            self.supervision.look(time.monotonic())
            time.sleep(LOOK_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.supervision.close()


def test_a_launched_node_that_is_stopped_is_told_and_killed_and_its_next_process_is_back(tmp_path: Path) -> None:
    launched = Launched(tmp_path)
    try:
        assert launched.process.stdout is not None and launched.process.stdout.readline()
        launched.supervision.look(time.monotonic())
        launched.process.send_signal(signal.SIGSTOP)
        launched.wait(lambda: bool(launched.told), "word that it is away")
        assert launched.told[0].nodes == ("observer",) and launched.process.poll() is None
        launched.wait(lambda: launched.process.poll() == -signal.SIGKILL, "its end")
        launched.supervision.ended("observer", time.monotonic())
        launched.process.stdout.close()
        launched.process = launched.start()
        launched.wait(lambda: launched.told[-1].nodes == (), "word that it is back")
    finally:
        launched.close()
    assert "hangs, it has said nothing for" in launched.said[0]
    assert launched.said[1].startswith("observer: recovered, it was away for")
