"""A ROS context on a domain of its own, for nodes in the test's process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import rclpy
from rclpy.context import Context

from streaming_vla.workbench.demo.domain import reserved_domain


@contextmanager
def own_context() -> Iterator[Context]:
    """Yield the context; close it at the end."""
    with reserved_domain() as domain:
        own = Context()
        rclpy.init(args=[], context=own, domain_id=domain)
        yield own
        rclpy.try_shutdown(context=own)
