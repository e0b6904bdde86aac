"""Keeps a process off the middleware's shared memory, so that no other process can stop it for a second.

Fast DDS hands messages to processes of the same machine through queues in shared memory, each behind a mutex that every
sender and the receiver lock. A process that is killed while it holds one stops everybody who writes to that queue,
inside `publish`, until the lock times out: 1 s (BOOST_INTERPROCESS_TIMEOUT_WHEN_LOCKING_DURATION_MS in Fast DDS), and
again on the next try. The executor may not be stopped like that; its messages are small, so UDP costs it nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import MutableMapping
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

RANGE, TRANSPORTS = "ROS_AUTOMATIC_DISCOVERY_RANGE", "FASTDDS_BUILTIN_TRANSPORTS"
MIDDLEWARE = "RMW_IMPLEMENTATION"
FAST_DDS = "rmw_fastrtps"  # _cpp, which is the default, or _dynamic_cpp
PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
LOOPBACK_PROFILE = Path("config") / "fastdds_loopback.xml"


def avoid_shared_memory(environment: MutableMapping[str, str]) -> None:
    """Let Fast DDS use UDP only; to be called before ROS starts. Nothing is changed for another middleware.

    What the operator has chosen for Fast DDS stays. Range LOCALHOST always brings shared memory with it; it is replaced
    by a profile that reaches this machine only.
    """
    if not (environment.get(MIDDLEWARE) or FAST_DDS).startswith(FAST_DDS):
        return
    if TRANSPORTS in environment or any(name in environment for name in PROFILES):
        return
    if environment.get(RANGE, "").upper() != "LOCALHOST":
        environment[TRANSPORTS] = "UDPv4"
        return
    environment[RANGE] = "SYSTEM_DEFAULT"  # leaves everything to the profile
    environment[PROFILES[0]] = str(_profile())


def _profile() -> Path:
    # the source tree first: a tree that is edited is not installed again
    source = Path(__file__).resolve().parents[3] / LOOPBACK_PROFILE
    with contextlib.suppress(PackageNotFoundError, OSError):
        installed = Path(get_package_share_directory("streaming_vla")) / LOOPBACK_PROFILE
        return source if source.is_file() else installed
    return source
