"""What of the environment keeps ROS from starting is one sentence, whoever starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BEGIN = """
from streaming_vla.ros.middleware import MiddlewareError, begin
try:
    begin(arguments=[])
except MiddlewareError as error:
    print(error)
"""
NODE = ("-m", "streaming_vla.ros.nodes.executor")
UP = ("-m", "streaming_vla", "up", "--nodes", "robot")
TIMEOUT_S = 100.0


def say(words: tuple[str, ...], environment: dict[str, str | None]) -> tuple[int, list[str]]:
    """Run Python with variables of the environment set, or unset (None); return exit code and lines."""
    given = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, *words],
        env={name: value for name, value in given.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()


@pytest.mark.parametrize("domain", ["lab", "-1", "233", "1.0", "7 of 9", "9" * 30, "٣"])
def test_a_domain_that_is_none(domain: str) -> None:
    _, lines = say(("-c", BEGIN), {"ROS_DOMAIN_ID": domain})
    assert len(lines) == 1 and lines[0].startswith("the environment variable ROS_DOMAIN_ID is '")
    assert "expected a whole number from 0 to 232" in lines[0]


@pytest.mark.parametrize("domain", ["", "0", "007", "101"])
def test_a_domain_that_is_one(domain: str) -> None:
    assert say(("-c", BEGIN), {"ROS_DOMAIN_ID": domain}) == (0, [])


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"HOME": "/proc"}, "'/proc/.ros/log'"),
        ({"HOME": None}, "~/.ros/log, for HOME is not set"),
        ({"ROS_HOME": "/proc/no"}, "'/proc/no/log'"),
        ({"ROS_LOG_DIR": "/proc/no", "ROS_HOME": "/tmp"}, "'/proc/no'"),
    ],
)
def test_a_log_folder_that_cannot_be_written(environment: dict[str, str | None], place: str) -> None:
    _, lines = say(("-c", BEGIN), {"ROS_LOG_DIR": None, "ROS_HOME": None, **environment})
    assert len(lines) == 1 and f"into {place}: set the environment variable ROS_LOG_DIR" in lines[0]


@pytest.mark.parametrize("made", [False, True])
def test_security_that_cannot_be_had(made: bool, tmp_path: Path) -> None:
    if made:
        (tmp_path / "enclaves").mkdir()  # of the root; only a middleware with security misses what is not in it
    keys = {"ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_STRATEGY": "Enforce", "ROS_SECURITY_KEYSTORE": str(tmp_path)}
    lines = [line for line in say(("-c", BEGIN), keys)[1] if "Found security directory" not in line]
    assert len(lines) == 1 and lines[0].startswith("ROS cannot start with ROS_SECURITY_ENABLE: ")
    assert lines[0].endswith("(docs/how-to/secure.md)")
    if not made:
        assert "does not exist" in lines[0] and "`streaming-vla security` makes the keys" in lines[0]


@pytest.mark.parametrize("words", [NODE, UP], ids=["node", "up"])
@pytest.mark.parametrize(
    ("environment", "name"),
    [({"ROS_DOMAIN_ID": "lab"}, "ROS_DOMAIN_ID"), ({"HOME": "/proc", "ROS_LOG_DIR": None}, "ROS_LOG_DIR")],
    ids=["domain", "home"],
)
def test_who_starts_ros_says_it_alone(words: tuple[str, ...], environment: dict[str, str | None], name: str) -> None:
    code, lines = say(words, environment)
    assert code == 1 and len(lines) == 1 and name in lines[0]
