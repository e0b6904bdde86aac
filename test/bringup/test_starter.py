"""The starter with toy processes: order, respawn, stop in reverse, and a sentence for each fault."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming_vla.bringup import lifecycle_client, processes
from streaming_vla.bringup.graph import GraphNode
from streaming_vla.bringup.starter import Suite, SuiteError
from streaming_vla.workbench.demo.domain import reserved_domain

pytestmark = pytest.mark.ros

TOYS = Path(__file__).parent / "toys"
NODES = tuple(GraphNode(name, "toy_node") for name in ("first", "second", "third"))


@pytest.fixture(autouse=True)
def toys_on_an_own_domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", f"{TOYS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "DEFAULT")  # a profile would come too late, see test_recovery.py
    with reserved_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        yield


@pytest.fixture
def lines() -> Iterator[list[str]]:
    yield []


def notes(lines: list[str]) -> list[str]:
    """Return "node what" of what the toys noted, in order of time."""
    found = [line.split("NOTE ", 1)[1].split(maxsplit=1) for line in lines if "NOTE " in line]
    return [what for _, what in sorted(found, key=lambda pair: float(pair[0]))]


def test_nodes_come_up_in_order_and_stop_in_reverse(lines: list[str]) -> None:
    with Suite(NODES, namespace="arm", say=lines.append) as suite:
        assert suite.is_up
        assert suite.failure == ""
    seen = [note for note in notes(lines) if not note.endswith("made")]
    up = [f"{node.name} {what}" for node in NODES for what in ("configured", "activated")]
    assert seen == [*up, *(f"{node.name} stopped" for node in reversed(NODES))]
    assert not suite.is_up


def test_killed_node_is_respawned_and_active_again(lines: list[str]) -> None:
    with Suite(NODES, say=lines.append) as suite:
        old = suite.node_process("second")
        old.kill()
        old.wait(5)
        deadline = time.monotonic() + 5
        while suite.is_up and time.monotonic() < deadline:
            time.sleep(0.01)
        assert suite.wait_up(30)
        assert suite.node_process("second").pid != old.pid
        assert {node.name: suite.respawns(node.name) for node in NODES} == {"first": 0, "second": 1, "third": 0}
    noted = notes(lines)
    assert noted.count("second activated") == 2
    assert noted.count("second starts itself") == 1, "only the process that was started again"
    again = noted.index("second starts itself")
    assert noted[again : again + 3] == ["second starts itself", "second configured", "second activated"]
    assert any("node 'second': ended by SIGKILL; respawned in 0.2 s" in line for line in lines)


def test_a_node_that_refuses_its_configuration_is_not_respawned(tmp_path: Path, lines: list[str]) -> None:
    wrong = tmp_path / "wrong"
    with Suite(NODES, settings={"second": {"again": str(wrong)}}, say=lines.append) as suite:
        wrong.write_text("parameter 'hold_s' is -1, expected a number from 0")
        suite.node_process("second").kill()
        assert suite.wait_failure(30) == "node 'second': parameter 'hold_s' is -1, expected a number from 0"
        assert suite.respawns("second") == 1, "the crash, not the refusal"
    assert notes(lines).count("second made") == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"die": True}, "node 'second': the camera is on fire"),
        ({"refuse": True}, "node 'second': model 'x' is unknown"),
    ],
)
def test_fault_at_the_start_is_one_sentence(settings: dict[str, bool], sentence: str, lines: list[str]) -> None:
    with pytest.raises(SuiteError) as caught, Suite(NODES, settings={"second": settings}, say=lines.append):
        pass
    assert str(caught.value) == sentence
    noted = notes(lines)
    # a node that dies at once may do so while the others are still being loaded: those have nothing to stop
    assert [f"{node.name} stopped" in noted for node in NODES] == [f"{node.name} made" in noted for node in NODES]
    assert "first stopped" in noted or "die" in settings, "the first one was active"


def test_second_suite_in_the_domain_is_refused(lines: list[str]) -> None:
    with Suite(NODES[:1], say=lines.append), pytest.raises(SuiteError, match="already has a suite with node first in"):
        Suite(NODES, say=lines.append).start()


def test_nodes_of_another_starter_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle_client, "DISCOVERY_S", 20.0)  # a busy machine
    with subprocess.Popen([sys.executable, "-m", "toy_node", "--ros-args", "-r", "__node:=first"]) as other:
        try:
            with pytest.raises(SuiteError, match="already has node first in namespace /:"):
                Suite(NODES).start()
        finally:
            other.kill()  # one that hangs on SIGTERM would be waited for for ever


def test_a_second_suite_may_run_the_other_nodes(lines: list[str]) -> None:
    with Suite(NODES[:1], say=lines.append), Suite(NODES[1:2], say=lines.append) as other:
        assert other.is_up


def test_same_domain_with_another_namespace_is_fine(lines: list[str]) -> None:
    with Suite(NODES[:1], say=lines.append), Suite(NODES[:1], namespace="left/arm", say=lines.append) as other:
        assert other.is_up


def test_node_that_does_not_end_is_killed(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_TIMEOUT_S", 0.5)
    with Suite(NODES[:1], settings={"first": {"deaf": True}}, say=lines.append) as suite:
        process = suite.node_process("first")
    assert process.poll() == -signal.SIGKILL
    assert any("is killed" in line for line in lines)


def test_nodes_end_with_a_starter_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from streaming_vla.bringup.graph import GraphNode\n"
        "from streaming_vla.bringup.starter import Suite\n"
        "with Suite((GraphNode('first', 'toy_node'),), say=lambda line: None) as suite:\n"
        "    print(suite.node_process('first').pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as starter:
        try:
            assert starter.stdout is not None
            pid = int(starter.stdout.readline())
        finally:
            starter.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/cmdline").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_output_goes_to_a_log_per_node(tmp_path: Path, lines: list[str]) -> None:
    with Suite(NODES[:2], log_folder=tmp_path / "logs", say=lines.append):
        pass
    assert "second activated" in (tmp_path / "logs" / "second.log").read_text()
    assert not notes(lines)


def test_wrong_namespace_and_parameter_file_are_refused_before_any_process(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="namespace 'a b' is not a ROS namespace"):
        Suite(NODES, namespace="a b")
    with pytest.raises(SuiteError, match=r"missing\.yaml"):
        Suite(NODES, params_file=tmp_path / "missing.yaml")
