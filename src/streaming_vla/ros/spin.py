"""Runs one node in this process: its deadlines, its signals, and an end that leaves the robot stopped."""

from __future__ import annotations

import gc
import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

import rclpy

from streaming_vla.parameters.load import ParameterFileError, read_yaml
from streaming_vla.ros.base import ConfigError, StartError, SuiteNode
from streaming_vla.ros.declare import parameter_files
from streaming_vla.ros.executors import SIGNALS, Spinner, make_spinner
from streaming_vla.ros.exit_codes import CONFIG_ERROR
from streaming_vla.ros.heartbeat import Heartbeat
from streaming_vla.ros.middleware import MiddlewareError, begin

# Python runs a signal handler only between two waits of the middleware, so no wait may be long
LONGEST_WAIT_S = 0.1


def run(make: Callable[[], SuiteNode[Any]], arguments: list[str] | None = None, shared_memory: bool = True) -> int:
    """Run the node that `make` returns until SIGINT or SIGTERM; return the exit code of the process.

    What keeps the node from starting becomes one sentence on stderr. The exit code is CONFIG_ERROR where it is the
    configuration, which is the same when it is started again; else 1.

    Args:
        make: returns the node.
        arguments: of the command line; those of the process by default.
        shared_memory: see transport.choose_transport.
    """
    arguments = sys.argv if arguments is None else arguments
    stopping = _Stop()
    try:
        for path in parameter_files(arguments):
            read_yaml(path)  # else ROS refuses it in words of its own
        begin(arguments=arguments, shared_memory=shared_memory)
    except ParameterFileError as error:
        return _refuse(str(error), CONFIG_ERROR)
    except MiddlewareError as error:
        return _refuse(str(error))
    try:
        return _run(make, stopping)
    except ConfigError as error:
        return _refuse(str(error), CONFIG_ERROR)
    except (StartError, ValueError) as error:
        return _refuse(str(error))
    finally:
        rclpy.try_shutdown()


def _run(make: Callable[[], SuiteNode[Any]], stopping: _Stop) -> int:
    node = make()
    spinner = make_spinner(node, events=not node.takes_raw)
    heartbeat = Heartbeat()
    try:
        node.start()
        gc.collect()
        gc.freeze()  # a collection that walks every import would delay the control tick by milliseconds
        while not stopping.asked:
            _spin_once(spinner, node)
            heartbeat.beat(node.life, time.monotonic())
        return 0
    except StartError:
        raise
    except Exception:
        traceback.print_exc()
        return _refuse(f"node '{node.get_name()}' failed, see the traceback above")
    finally:
        heartbeat.close()
        try:
            node.stop()
        finally:
            spinner.close()  # nobody is left to finish a callback that awaits
            node.destroy_node()


def _spin_once(spinner: Spinner, node: SuiteNode[Any]) -> None:
    """Wait for one callback or the node's next deadline, whichever comes first."""
    deadline = node.deadline()
    # a tick of a published clock is a callback too: nobody has to look whether it has come
    spinner.spin_for(LONGEST_WAIT_S if deadline is None else max(0.0, min(LONGEST_WAIT_S, node.until(deadline))))
    node.handle_responses()
    deadline = node.deadline()
    if deadline is not None and node.now() >= deadline:
        node.tick()


class _Stop:
    """Remembers that SIGINT or SIGTERM has come."""

    def __init__(self) -> None:
        self.asked = False
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def _refuse(sentence: str, code: int = 1) -> int:
    print(sentence, file=sys.stderr, flush=True)
    return code
