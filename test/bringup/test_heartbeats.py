"""Heartbeats: what a node says through its starter's socket, and whom a supervisor calls silent, away or hung."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streaming_vla.bringup.heartbeats import HUNG_S, SILENT_S, HeartbeatSocket, Telling, Watch
from streaming_vla.ros.heartbeat import PERIOD_S, Heartbeat


def test_a_node_says_its_state_through_the_socket_of_its_starter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = HeartbeatSocket(tmp_path / "executor")
    for name, value in heard.environment.items():
        monkeypatch.setenv(name, value)
    node = Heartbeat()
    assert not set(heard.environment) & set(os.environ), "what the node starts must not speak for it"
    assert heard.newest() == ""
    node.beat("inactive", 0.0)
    node.beat("active", 0.01)
    assert heard.newest() == "active"
    node.beat("active", 0.02)
    assert heard.newest() == "", "not in every round of its loop"
    node.beat("active", 0.02 + PERIOD_S)
    assert heard.newest() == "active"
    heard.close()
    node.beat("inactive", 9.0)  # the starter is gone: the node goes on
    node.close()


def test_a_socket_that_nobody_reads_blocks_no_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = HeartbeatSocket(tmp_path / "executor")
    monkeypatch.setenv("NOTIFY_SOCKET", heard.environment["NOTIFY_SOCKET"])
    node = Heartbeat()
    for beat in range(5000):
        node.beat("active", float(beat))
    assert heard.newest() == "active"


def test_without_a_starter_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Heartbeat().beat("active", 0.0)


def watch(may_hang: bool = False) -> Watch:
    """Return the watch of a node that was heard to be active at 10 s."""
    made = Watch(may_hang)
    made.forget(9.0)
    made.hear("active", 10.0)
    return made


def ask(made: Watch, begin_s: float, end_s: float, state: str = "") -> None:
    """Let the supervisor look twenty times a second."""
    for tick in range(round((end_s - begin_s) / 0.05) + 1):
        made.hear(state, begin_s + 0.05 * tick)


def test_a_silent_node_is_away_soon_and_killed_later() -> None:
    made = watch()
    ask(made, 10.05, 10.0 + SILENT_S - 0.05)
    assert made.away_s(10.0 + SILENT_S - 0.01) is None
    assert made.away_s(10.0 + SILENT_S) == pytest.approx(SILENT_S)
    ask(made, 11.05, 10.0 + HUNG_S)
    assert made.fault(10.0 + HUNG_S - 0.01) == ""
    assert "hangs, it has said nothing for 4.0 s" in made.fault(10.0 + HUNG_S)
    made.hear("active", 14.1)
    assert (made.away_s(14.1), made.fault(14.1)) == (None, "")


def test_the_silence_of_a_simulated_robot_means_nothing_but_its_end_does() -> None:
    made = watch(may_hang=True)
    ask(made, 10.05, 30.0)
    assert (made.away_s(30.0), made.fault(30.0)) == (None, "")
    made.forget(30.0)
    assert made.away_s(30.0) == pytest.approx(20.0)


@pytest.mark.parametrize("state", ["inactive", "unconfigured", "finalized"])
def test_a_node_that_is_not_active_any_more_is_away_at_once_and_killed_later(state: str) -> None:
    made = watch()
    ask(made, 10.05, 12.0, state)
    assert made.away_s(12.0) == pytest.approx(2.0)
    assert made.fault(12.0) == ""
    ask(made, 12.05, 14.2, state)
    assert f"has been {state} for" in made.fault(14.2)


def test_a_supervisor_that_was_stopped_itself_blames_nobody() -> None:
    made = watch()
    made.hear("", 10.2)
    made.hear("", 40.0)
    assert (made.away_s(40.0), made.fault(40.0)) == (None, "")
    ask(made, 40.05, 44.0)
    assert made.fault(44.0)


def test_a_process_that_is_being_loaded_is_away_but_does_not_hang() -> None:
    made = watch()
    made.forget(10.2)
    ask(made, 10.2, 90.0)
    assert made.away_s(90.0) == pytest.approx(80.0)
    assert made.fault(90.0) == ""
    assert Watch().away_s(5.0) is None, "before the first start there is nothing to come back"


def test_what_is_told_again_and_what_is_known() -> None:
    telling = Telling()
    assert telling.tell({}, 0.0) is None
    told = telling.tell({"observer": 0.0, "inference": 1.5}, 0.1)
    assert told is not None and (told.nodes, told.away_s) == (("inference", "observer"), (1.5, 0.0))
    assert telling.tell({"observer": 0.5, "inference": 2.0}, 0.6) is None
    assert telling.tell({"observer": 1.0, "inference": 2.5}, 1.1) is not None, "again every second"
    over = telling.tell({}, 1.2)
    assert over is not None and over.nodes == () and over.supervisor == told.supervisor
    assert telling.tell({}, 9.0) is None
