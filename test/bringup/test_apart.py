"""What is asked of ROS in a process of its own ends in time, whatever the process does."""

from __future__ import annotations

from pathlib import Path

import pytest
from questions import hung, hung_on_the_way_down, killed, refused, twice

from streaming_vla.bringup.apart import ask
from streaming_vla.ros.middleware import MiddlewareError


def test_the_answer_comes_back() -> None:
    assert ask(twice, 21) == 42


def test_what_it_raises_is_raised() -> None:
    with pytest.raises(MiddlewareError, match="no such domain"):
        ask(refused, "no such domain")


def test_one_that_hangs_is_killed_with_all_that_it_has_started(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="ROS has not answered within 8 s"):
        ask(hung, str(tmp_path / "pids"), limit_s=8.0)
    for pid in (tmp_path / "pids").read_text(encoding="ascii").split():
        state = Path(f"/proc/{pid}/stat")
        assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_an_answer_counts_though_what_follows_it_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming_vla.bringup.apart.END_S", 0.2)
    assert ask(hung_on_the_way_down) == "seen"


def test_one_that_dies_is_a_sentence() -> None:
    with pytest.raises(ChildProcessError, match="ended with code -9"):
        ask(killed)
