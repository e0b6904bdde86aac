"""Runs one node in this process: its deadlines, its signals, and an end that leaves the robot stopped."""

from __future__ import annotations

import gc
import itertools
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import rclpy
from rclpy.context import Context
from rclpy.executors import Executor, SingleThreadedExecutor, TimeoutObject
from rclpy.signals import SignalHandlerOptions

from streaming_vla.parameters.load import ParameterFileError, read_yaml
from streaming_vla.ros.base import StartError, SuiteNode

try:
    from rclpy.experimental import EventsExecutor
except ImportError:  # before ROS 2 Kilted
    EventsExecutor = None

# Python runs a signal handler only between two waits of the middleware, so no wait may be long
LONGEST_WAIT_S = 0.1
SHORTEST_WAIT_S = 1e-6
SIGNALS = (signal.SIGINT, signal.SIGTERM)
PARAMS_FILE_FLAG = "--params-file"


def run(make: Callable[[], SuiteNode], arguments: list[str] | None = None) -> int:
    """Run the node that `make` returns until SIGINT or SIGTERM; return the exit code of the process.

    What keeps the node from starting becomes one sentence on stderr and exit code 1.
    """
    arguments = sys.argv if arguments is None else arguments
    try:
        _check_files(arguments)
        # rclpy's own handlers would close the middleware before a stop command can be sent
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    except StartError as error:
        return _refuse(str(error))
    except Exception as error:
        return _refuse(f"ROS 2 cannot start: {_one_line(error)}")
    try:
        return _run(make)
    finally:
        rclpy.try_shutdown()


def _run(make: Callable[[], SuiteNode]) -> int:
    try:
        node = make()
    except (StartError, ValueError) as error:
        return _refuse(str(error))
    executor, spin_for = make_executor()
    executor.add_node(node)
    stopping = _Stop()
    try:
        node.start()
        gc.collect()
        gc.freeze()  # a collection that walks every import would delay the control tick by milliseconds
        while not stopping.asked:
            _spin_once(spin_for, node)
        return 0
    except StartError as error:
        return _refuse(str(error))
    except Exception:
        traceback.print_exc()
        return _refuse(f"node '{node.get_name()}' failed, see the traceback above")
    finally:
        try:
            node.stop()
        finally:
            executor.shutdown(0.0)  # nobody is left to finish a callback that awaits
            node.destroy_node()


def make_executor(context: Context | None = None, events: bool = True) -> tuple[Executor, Callable[[float], None]]:
    """Return an executor, and what waits at most so many seconds for one callback and runs it.

    The executor of events gives a message to its callback in half the time of the one that builds a wait set of every
    entity of the node before and after each callback, and serves all entities in the order in which they are ready.

    Args:
        context: of ROS; None: the default one. To be called on the main thread.
        events: take that one where rclpy has it.
    """
    if events and EventsExecutor is not None:
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        executor = EventsExecutor(context=context)
        for number, handler in handlers.items():
            signal.signal(number, handler)  # it has put its own in their place
        # it does nothing at all when it may not wait
        return executor, lambda timeout_s: executor.spin_once(max(SHORTEST_WAIT_S, timeout_s))
    single = SingleThreadedExecutor(context=context)
    # One object for all calls: at another timeout the executor forgets what else was ready, looks at subscriptions
    # first again, and a service beside a fast topic would never be served.
    wait = TimeoutObject(0.0)

    def spin_for(timeout_s: float) -> None:
        wait.timeout = timeout_s
        single.spin_once(timeout_sec=wait)  # type: ignore[arg-type]  # as its own spin_until_future_complete does

    return single, spin_for


def _spin_once(spin_for: Callable[[float], None], node: SuiteNode) -> None:
    """Wait for one callback or the node's next deadline, whichever comes first."""
    deadline = node.deadline()
    wait_s = LONGEST_WAIT_S if deadline is None else min(LONGEST_WAIT_S, deadline - time.monotonic())
    spin_for(max(0.0, wait_s))
    node.settle()
    deadline = node.deadline()
    if deadline is not None and time.monotonic() >= deadline:
        node.tick()


class _Stop:
    """Remembers that SIGINT or SIGTERM has come."""

    def __init__(self) -> None:
        self.asked = False
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def _check_files(arguments: list[str]) -> None:
    """Refuse a parameter file that ROS could not read, with a sentence that names it."""
    for flag, name in itertools.pairwise(arguments):
        if flag != PARAMS_FILE_FLAG:
            continue
        try:
            read_yaml(Path(name))
        except ParameterFileError as error:
            raise StartError(str(error)) from error


def _refuse(sentence: str) -> int:
    print(sentence, file=sys.stderr, flush=True)
    return 1


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
