"""Begins ROS in a process, or says in one sentence what of the environment keeps it from it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from streaming_vla.options.texts import cut

if TYPE_CHECKING:
    from rclpy.context import Context

HIGHEST_DOMAIN = 232  # whose ports are still below 65536


class MiddlewareError(ValueError):
    """ROS cannot begin; the message is one sentence."""


def begin(context: Context | None = None, arguments: list[str] | None = None) -> None:
    """Initialise rclpy without its signal handlers: they would close the middleware before anybody could react.

    Args:
        context: the process's own by default.
        arguments: of the command line; those of the process by default.

    Raises:
        MiddlewareError: the domain is none, the folder of the logs cannot be written, or rclpy has another reason.
    """
    import rclpy  # the doctor reads this module where there is none
    from rclpy.signals import SignalHandlerOptions

    domain = os.environ.get("ROS_DOMAIN_ID", "")
    if domain and not (domain.isascii() and domain.isdigit() and int(domain[:9]) <= HIGHEST_DOMAIN):
        raise MiddlewareError(
            f"the environment variable ROS_DOMAIN_ID is '{cut(domain)}', expected a whole number from 0 to "
            f"{HIGHEST_DOMAIN}: correct it, or unset it for domain 0"
        )
    try:
        rclpy.init(args=arguments, context=context, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:
        reason = " ".join(str(error).split())
        if "initialize logging" in reason:
            raise MiddlewareError(
                f"ROS cannot write its log files into {_log_folder()}: set the environment variable ROS_LOG_DIR to a "
                "folder that can be written"
            ) from error
        raise MiddlewareError(f"ROS cannot start: {reason}") from error


def _log_folder() -> str:
    """Return where ROS puts its log files, as rcl finds it."""
    if folder := os.environ.get("ROS_LOG_DIR", ""):
        return f"'{folder}'"
    home = os.environ.get("ROS_HOME", "") or (f"{os.environ['HOME']}/.ros" if os.environ.get("HOME") else "")
    return f"'{home}/log'" if home else "~/.ros/log, for HOME is not set"
