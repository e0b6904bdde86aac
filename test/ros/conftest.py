"""Starts real node processes on a ROS domain of their own, and a probe that talks to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 120.0  # importing torch in several processes at once on a busy machine
try:
    import rclpy
    import streaming_vla_interfaces.msg  # noqa: F401 (only whether it is there)
except ImportError as error:
    MISSING = f"the ROS interfaces are not built or not sourced ({error}): run make setup, then . tools/env.sh"
else:
    MISSING = ""
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor

    from streaming_vla.bringup import graph
    from streaming_vla.workbench.demo.domain import reserved_domain


if MISSING:

    class _Skipped(pytest.Module):
        def collect(self) -> Iterator[pytest.Item]:
            pytest.skip(MISSING)

    def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
        """Show every module as skipped, with the reason, where ROS is missing."""
        return _Skipped.from_parent(parent, path=module_path)


class Probe:
    """A node of the test: records topics, publishes, calls services; spins only while it waits."""

    def __init__(self, domain: int) -> None:
        self.context = Context()
        rclpy.init(args=[], context=self.context, domain_id=domain)
        self.node = rclpy.create_node("probe", context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._figures: dict[str, dict[str, str]] = {}
        self._problems: dict[str, str] = {}
        self._levels: dict[str, bytes] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 20)

    def record(self, message_type: type, topic: str, qos: Any = 200) -> list[tuple[float, Any]]:
        """Return a list that grows by (monotonic seconds, message)."""
        heard: list[tuple[float, Any]] = []
        self.node.create_subscription(
            message_type, topic, lambda message: heard.append((time.monotonic(), message)), qos
        )
        return heard

    def publisher(self, message_type: type, topic: str, qos: Any = 10) -> Any:
        """Return a publisher that somebody listens to."""
        publisher = self.node.create_publisher(message_type, topic, qos)
        self.wait(lambda: publisher.get_subscription_count() > 0, f"nobody listens to {topic}")
        return publisher

    def call(self, service_type: type, name: str, **fields: Any) -> Any:
        """Return the response of a service."""
        client = self.node.create_client(service_type, name)
        self.wait(client.service_is_ready, f"nobody offers {name}", START_TIMEOUT_S)
        future = client.call_async(service_type.Request(**fields))
        self.wait(future.done, f"{name} does not answer", 20.0)
        self.node.destroy_client(client)
        return future.result()

    def wait(self, condition: Callable[[], Any], complaint: str, timeout_s: float = 10.0) -> None:
        """Spin until `condition` holds."""
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, f"{complaint} (waited {timeout_s:g} s)"
            self._executor.spin_once(timeout_sec=0.02)

    def spin(self, duration_s: float) -> None:
        """Spin for a while."""
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s:
            self._executor.spin_once(timeout_sec=max(0.0, end_s - time.monotonic()))

    def figure(self, node: str, key: str) -> str:
        """Return a key figure or counter of the node's newest diagnostics, "0" when it is not there."""
        return self._figures.get(f"/{node}", {}).get(key, "0")

    def problem(self, node: str) -> str:
        """Return the message of the node's newest diagnostics."""
        return self._problems.get(f"/{node}", "")

    def level(self, node: str) -> bytes:
        """Return the level of the node's newest diagnostics."""
        return self._levels.get(f"/{node}", DiagnosticStatus.STALE)

    def wait_for_nodes(self, *names: str) -> None:
        """Wait until the nodes say that they are active."""
        self._problems.clear()
        for name in names:
            self.wait(lambda name=name: self.problem(name), f"node {name} does not start", START_TIMEOUT_S)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            figures = {item.key: item.value for item in status.values}
            if figures.get("state") == "active":
                self._problems[status.name] = status.message
                self._levels[status.name] = status.level
                self._figures[status.name] = figures


class Suite:
    """Node processes, each with its own parameter file; all of them are ended at the end of the test."""

    def __init__(self, folder: Path, domain: int) -> None:
        self._folder = folder
        self._environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "PYTHONUNBUFFERED": "1"}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._parameters: dict[str, dict[str, Any]] = {}

    def start(self, node: str, **parameters: Any) -> None:
        """Start a node that activates itself; without parameters those of its last start are used."""
        self._parameters[node] = parameters or self._parameters.get(node, {})
        file = self._folder / f"{node}.yaml"
        file.write_text(yaml.safe_dump({node: {"ros__parameters": {"autostart": True, **self._parameters[node]}}}))
        self._processes[node] = self._open(node, ["--params-file", str(file)])

    def run(self, node: str, *arguments: str) -> tuple[int, str]:
        """Run a node to its end; return its exit code and what it said on stderr."""
        process = self._open(node, list(arguments))
        try:
            code = process.wait(START_TIMEOUT_S)
        finally:
            process.kill()
            process.wait()
        return code, self.log(node)

    def log(self, node: str) -> str:
        """Return what the node has written so far."""
        file = self._folder / f"{node}.log"
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    def pid(self, node: str) -> int:
        """Return the process of a node."""
        return self._processes[node].pid

    def end(self, node: str, number: signal.Signals) -> int:
        """Send a signal, wait for the end and return the exit code."""
        process = self._processes[node]
        process.send_signal(number)
        return process.wait(START_TIMEOUT_S)

    def has_ended(self, node: str) -> bool:
        """Whether the process of a node is gone."""
        return self._processes[node].poll() is not None

    def kill(self, node: str) -> None:
        """Kill a node; it is gone when every one of its threads has run once more."""
        self._processes[node].kill()

    def close(self) -> None:
        """End every process."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _open(self, node: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"streaming_vla.ros.nodes.{node}", "--ros-args", *arguments]
        with (self._folder / f"{node}.log").open("ab") as log:
            return subprocess.Popen(command, env=self._environment, stdout=log, stderr=log, cwd=ROOT)


sys.path.insert(0, str(Path(__file__).parent))  # the tests of this folder import `stalls`, `observations`


@pytest.fixture(scope="session")
def domain() -> Iterator[int]:
    """A ROS domain of its own, also where several test runs share a machine."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    with reserved_domain() as number:
        yield number


@pytest.fixture(scope="module")
def probe(domain: int) -> Iterator[Probe]:
    """A probe for the tests of one module."""
    probe = Probe(domain)
    yield probe
    probe.close()


@pytest.fixture(scope="module")
def suite(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """Processes for the tests of one module."""
    suite = Suite(tmp_path_factory.mktemp("suite"), domain)
    yield suite
    suite.close()


@pytest.fixture(scope="module")
def every_node(suite: Suite, probe: Probe, toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Starts every node with what it cannot do without, and waits for them."""
    bags = tmp_path_factory.mktemp("bags")
    own = {"inference": {"model": str(toy_model)}, "recorder": {"bag_folder": str(bags)}}
    names = (*(node.name for node in graph.NODES), "recorder")
    for name in names:
        suite.start(name, **own.get(name, {}))
    probe.wait_for_nodes(*names)


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compact policy with random weights: it moves, but to no purpose."""
    import torch

    from streaming_vla.policies.compact.checkpoint import save_policy
    from streaming_vla.policies.compact.config import CompactConfig
    from streaming_vla.policies.compact.model import CompactModel

    path = tmp_path_factory.mktemp("model") / "toy.safetensors"
    torch.manual_seed(0)
    config = CompactConfig(words=("<other>", "open"), width=48, layers=2, heads=2, kv_heads=1, channels=(8, 8, 8, 8))
    save_policy(path, config, CompactModel(config).state_dict(), {})
    return path
