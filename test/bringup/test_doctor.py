"""The doctor says what is in order and what is not, one line each."""

from __future__ import annotations

import sys

import pytest

from streaming_vla.bringup import checks
from streaming_vla.bringup.checks import Note, Trouble
from streaming_vla.bringup.doctor import find, report


def fail() -> str:
    raise Trouble("no engine: buy one")


def fail_twice() -> str:
    raise Trouble("one", "two")


def crash() -> str:
    raise OSError("two\nlines")


def test_a_failure_is_a_line_and_the_exit_code() -> None:
    lines: list[str] = []
    assert (
        report(
            [
                ("good", lambda: "fine"),
                ("odd", lambda: [Note("slow"), "well"]),
                ("bad", fail),
                ("worse", crash),
                ("several", fail_twice),
            ],
            lines.append,
        )
        == 1
    )
    assert lines == [
        "ok   good        fine",
        "note odd         slow",
        "ok   odd         well",
        "FAIL bad         no engine: buy one",
        "FAIL worse       OSError: two lines",
        "FAIL several     one",
        "FAIL several     two",
        "4 findings have to be repaired.",
    ]


def test_all_good_is_exit_code_zero() -> None:
    assert report([("good", lambda: "fine")], lambda line: None) == 0


@pytest.mark.parametrize(
    "check", [checks.python, checks.cpu, checks.libraries, checks.ros, checks.messages, checks.package]
)
def test_this_installation_is_in_order(check: object) -> None:
    assert callable(check)
    assert [finding.grade in ("ok", "note") for finding in find("check", check)] == [True]


def test_unsupported_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    with pytest.raises(Trouble, match=r"expected 3\.10 to 3\.13"):
        checks.python()


def test_two_ros_installations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/opt/ros/jazzy:/somewhere")
    with pytest.raises(Trouble, match="/opt/ros/jazzy is sourced as well"):
        checks.ros()


def test_package_that_is_not_sourced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/nowhere")
    with pytest.raises(Trouble, match="not built or not sourced"):
        checks.package()


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(Trouble, match="cv2 cannot be imported"):
        checks.libraries()


@pytest.mark.ros
def test_message_goes_to_another_process_and_back() -> None:
    assert [finding.grade for finding in find("dds", checks.dds)] == ["ok"]
