"""Begins ROS in a process, or says in one sentence what of the environment keeps it from it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from streaming_vla.options.texts import cut
from streaming_vla.ros.reach import GUIDE, SECURITY, secured
from streaming_vla.ros.transport import choose_transport

if TYPE_CHECKING:
    from rclpy.context import Context

HIGHEST_DOMAIN = 232  # whose ports are still below 65536


class MiddlewareError(ValueError):
    """ROS cannot begin; the message is one sentence."""


def begin(context: Context | None = None, arguments: list[str] | None = None, shared_memory: bool = True) -> None:
    """Initialise rclpy without its signal handlers: they would close the middleware before anybody could react.

    Args:
        context: the process's own by default.
        arguments: of the command line; those of the process by default.
        shared_memory: whether the process may exchange messages through it (see transport.choose_transport).

    Raises:
        MiddlewareError: the domain is none, the folder of the logs cannot be written, the security that is asked for
            cannot be had, or rclpy has another reason.
    """
    import rclpy  # the doctor reads this module where there is none
    from rclpy.signals import SignalHandlerOptions

    domain = os.environ.get("ROS_DOMAIN_ID", "")
    if domain and not (domain.isascii() and domain.isdigit() and int(domain[:9]) <= HIGHEST_DOMAIN):
        raise MiddlewareError(
            f"the environment variable ROS_DOMAIN_ID is '{cut(domain)}', expected a whole number from 0 to "
            f"{HIGHEST_DOMAIN}: correct it, or unset it for domain 0"
        )
    choose_transport(os.environ, shared_memory)
    try:
        rclpy.init(args=arguments, context=context, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:
        reason = " ".join(str(error).split())
        if "initialize logging" in reason:
            raise MiddlewareError(
                f"ROS cannot write its log files into {_log_folder()}: set the environment variable ROS_LOG_DIR to a "
                "folder that can be written"
            ) from error
        if "SECURITY ERROR" in reason:
            raise MiddlewareError(
                f"ROS cannot start with {SECURITY}: {reason}; `streaming-vla security` makes the keys ({GUIDE})"
            ) from error
        raise MiddlewareError(f"ROS cannot start: {reason}") from error
    if secured(os.environ):
        _try_security(context)


def _try_security(context: Context | None) -> None:
    """Make a node and remove it: the middleware says only then that it cannot do what was asked for."""
    import rclpy

    try:
        node = rclpy.create_node(
            "_security",
            context=context,
            use_global_arguments=False,
            start_parameter_services=False,
            enable_rosout=False,
        )
    except Exception as error:
        reason = " ".join(str(error).split())
        rclpy.try_shutdown(context=context)
        if "security libraries" in reason:
            reason = "this Fast DDS is built without DDS security, as that of the wheels is: use a ROS installation"
        raise MiddlewareError(f"ROS cannot start with {SECURITY}: {reason} ({GUIDE})") from error
    node.destroy_node()


def _log_folder() -> str:
    """Return where ROS puts its log files, as rcl finds it."""
    if folder := os.environ.get("ROS_LOG_DIR", ""):
        return f"'{folder}'"
    home = os.environ.get("ROS_HOME", "") or (f"{os.environ['HOME']}/.ros" if os.environ.get("HOME") else "")
    return f"'{home}/log'" if home else "~/.ros/log, for HOME is not set"
