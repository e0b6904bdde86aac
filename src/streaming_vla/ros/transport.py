"""How Fast DDS reaches other processes: only those of this machine where that is asked for, and past a stuck one.

*This machine only.* With range LOCALHOST ROS tells nobody else of a process, but the process goes on listening on every
network interface. A profile in place of the range binds every socket to the loopback interface.

*No shared memory.* Fast DDS hands messages to processes of the same machine through queues in shared memory, each
behind a mutex that every sender and the receiver lock. A process that is killed while it holds one stops everybody who
writes to that queue, inside `publish`, until the lock times out: 1 s in Fast DDS, and again on the next try
(BOOST_INTERPROCESS_TIMEOUT_WHEN_LOCKING_DURATION_MS). The executor may not be stopped like that; its messages are
small, so UDP costs it nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import MutableMapping
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

RANGE, TRANSPORTS = "ROS_AUTOMATIC_DISCOVERY_RANGE", "FASTDDS_BUILTIN_TRANSPORTS"
OLD_RANGE = "ROS_LOCALHOST_ONLY"  # deprecated, but ROS lets it win over the range
THIS_MACHINE, UNCHANGED = "LOCALHOST", "SYSTEM_DEFAULT"
MIDDLEWARE = "RMW_IMPLEMENTATION"
FAST_DDS = "rmw_fastrtps"  # _cpp, which is the default, or _dynamic_cpp
PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
LOOPBACK_PROFILE = "fastdds_loopback.xml"
UDP_PROFILE = "fastdds_loopback_udp.xml"  # without shared memory


def choose_transport(environment: MutableMapping[str, str], shared_memory: bool = True) -> None:
    """Set the environment so that Fast DDS does what the module says; to be called before ROS starts.

    What the operator has chosen for Fast DDS stays, and nothing is changed for another middleware. A process that is
    started with the changed environment may call it again, and choose otherwise.

    Args:
        environment: of the process.
        shared_memory: whether messages may go through it.
    """
    if not (environment.get(MIDDLEWARE) or FAST_DDS).startswith(FAST_DDS) or TRANSPORTS in environment:
        return
    given = next((environment[name] for name in PROFILES if name in environment), None)
    ours = given is not None and Path(given).name in (LOOPBACK_PROFILE, UDP_PROFILE)
    if given is not None and not ours:
        return
    if ours or this_machine_only(environment):
        environment[RANGE] = UNCHANGED  # the profile says it all; the range would bring other sockets
        environment.pop(OLD_RANGE, None)
        environment[PROFILES[0]] = str(_profile(LOOPBACK_PROFILE if shared_memory else UDP_PROFILE))
    elif not shared_memory:
        environment[TRANSPORTS] = "UDPv4"


def this_machine_only(environment: MutableMapping[str, str]) -> bool:
    """Return whether the operator has asked for processes of this machine only."""
    old = environment.get(OLD_RANGE, "")
    return old == "1" if old else environment.get(RANGE, "").upper() == THIS_MACHINE


def _profile(name: str) -> Path:
    # the source tree first: a tree that is edited is not installed again
    path = Path("config") / name
    source = Path(__file__).resolve().parents[3] / path
    with contextlib.suppress(PackageNotFoundError, OSError):
        installed = Path(get_package_share_directory("streaming_vla")) / path
        return source if source.is_file() else installed
    return source
