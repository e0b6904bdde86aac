"""A ROS domain of its own for a suite, also where several suites and test runs share a machine."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from streaming_vla.workbench.demo.driver import DriverError

DOMAINS = range(60, 102)  # the highest ones whose ports lie below those that Linux hands out
PORT_BASE, PORTS_PER_DOMAIN = 7400, 250  # of the RTPS standard
DISCOVERY = 0  # by multicast; processes of range LOCALHOST leave this port alone
PARTICIPANTS = range(10, 24)  # ports of the first participants


@contextmanager
def reserved_domain() -> Iterator[int]:
    """Yield a ROS domain that nobody on this machine uses; nobody else who asks here gets it meanwhile.

    Raises:
        DriverError: all of them are in use.
    """
    for domain in random.sample(DOMAINS, len(DOMAINS)):
        base = PORT_BASE + PORTS_PER_DOMAIN * domain
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reservation:
            if _bind(reservation, base + DISCOVERY) and all(_is_free(base + offset) for offset in PARTICIPANTS):
                yield domain
                return
    raise DriverError(
        f"every ROS domain from {DOMAINS[0]} to {DOMAINS[-1]} is in use on this machine: stop another suite"
    )


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return _bind(probe, port)


def _bind(endpoint: socket.socket, port: int) -> bool:
    try:
        endpoint.bind(("", port))
    except OSError:
        return False
    return True
