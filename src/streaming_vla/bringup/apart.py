"""Asks ROS from a process of its own: DDS may hang, most often while it is taken down, and its process with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

Answer = TypeVar("Answer")

LIMIT_S = 60.0  # for rclpy to be imported and the question to be answered, on a busy machine
END_S = 5.0  # for what follows the answer


def ask(question: Callable[..., AbstractContextManager[Answer]], *arguments: Any, limit_s: float = LIMIT_S) -> Answer:
    """Return the answer of a question to ROS, which its process may be given: a context that leaves ROS behind it.

    Raises:
        TimeoutError: there is no answer in time; the process is killed with all that it has started.
        ChildProcessError: the process ended without one.
        Exception: what the question raises.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(there, question, arguments))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl-C is for who waits
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    there.close()
    left_s = 0.0
    try:
        if not here.poll(limit_s):
            raise TimeoutError(
                f"ROS has not answered within {limit_s:g} s: this machine is too busy, or Fast DDS waits for a "
                "killed node; stop all nodes, remove /dev/shm/fastdds* and /dev/shm/fastrtps*, and try again"
            )
        good, answer = here.recv()
        left_s = END_S
    except EOFError as error:
        process.join(END_S)
        raise ChildProcessError(f"the process that asked ROS ended with code {process.exitcode}") from error
    finally:
        _end(process, left_s)
    if not good:
        raise answer
    return answer  # type: ignore[no-any-return]


def _answer(
    pipe: Connection, question: Callable[..., AbstractContextManager[Answer]], arguments: tuple[Any, ...]
) -> None:
    os.setsid()  # one group with what the question starts
    try:
        with question(*arguments) as answer:
            pipe.send((True, answer))
    except Exception as error:
        with suppress(BrokenPipeError):
            pipe.send((False, error))


def _end(process: BaseProcess, left_s: float) -> None:
    process.join(left_s)
    if process.exitcode != 0:
        with suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.kill()
    process.join()
