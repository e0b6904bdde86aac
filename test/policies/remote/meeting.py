"""A policy that has worked with a good server meets a bad one, and then the good one again."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from hostile_groot import BadGroot
from hostile_openpi import Bad
from remote_servers import (
    GROOT_KEYS,
    OPENPI_KEYS,
    TIMEOUT_S,
    GrootToy,
    OpenpiToy,
    asked,
    described,
    groot_answer,
    modalities,
    rows_of,
)

from streaming_vla.policies.contract import PolicyUnavailable
from streaming_vla.policies.remote import groot, openpi
from streaming_vla.policies.remote.options import RemoteOptions
from streaming_vla.policies.remote.policy import RemotePolicy

BACK_S = 5.0  # within which a server that is good again has answered
RESTARTED = "restarted"


def sentence_of(policy: RemotePolicy, mark: float) -> str:
    """Ask, and return the refusal."""
    try:
        asked(policy, mark)
    except PolicyUnavailable as error:
        return str(error)
    raise AssertionError("the server is bad, and its answer was taken")


def comes_back(policy: RemotePolicy) -> None:
    """Ask until the server answers again."""
    end_s = time.monotonic() + BACK_S
    while True:
        with contextlib.suppress(PolicyUnavailable):
            np.testing.assert_allclose(asked(policy, 7.0), rows_of(7.0), rtol=1e-6)
            return
        assert time.monotonic() < end_s, "it does not come back"


Toy = TypeVar("Toy", OpenpiToy, GrootToy)


@contextlib.contextmanager
def _working(
    toy: Toy, connect: Callable[[str, RemoteOptions], RemotePolicy], keys: str
) -> Iterator[tuple[Toy, RemotePolicy]]:
    """Yield a server and a policy that has worked with it."""
    with tempfile.TemporaryDirectory() as folder:
        policy = connect(f"127.0.0.1:{toy.port}", RemoteOptions(described(Path(folder), keys), timeout_s=TIMEOUT_S))
    try:
        comes_back(policy)
        yield toy, policy
    finally:
        toy.close()


def openpi_policy() -> contextlib.AbstractContextManager[tuple[OpenpiToy, RemotePolicy]]:
    """Return an openpi server and a policy that has worked with it."""
    return _working(OpenpiToy(), openpi.connect, OPENPI_KEYS)


def groot_policy() -> contextlib.AbstractContextManager[tuple[GrootToy, RemotePolicy]]:
    """Return a GR00T server and a policy that has worked with it."""
    return _working(GrootToy(), groot.connect, GROOT_KEYS)


def meet_openpi(bad: Bad) -> str:
    """Let a policy meet a bad server and the good one again; return what it was refused with."""
    with openpi_policy() as (toy, policy):
        good = toy.greet, toy.answer
        if bad.greet is not None:
            toy.greet = bad.greet
            toy.cut()
        if bad.answer is not None:
            toy.answer = bad.answer
        if bad.again:
            asked(policy, 1.0)
            time.sleep(0.1)  # TCP may hold the second one back for 40 ms
        said = sentence_of(policy, 2.0)
        toy.greet, toy.answer = good
        comes_back(policy)
    return said


def meet_groot(bad: BadGroot) -> str:
    """Let a policy meet a bad server and the good one again; return what it was refused with."""
    with groot_policy() as (toy, policy):
        if bad.raw is not None:
            toy.close()
            with raw_server(toy.port, bad.raw):
                end_s = time.monotonic() + BACK_S
                said = sentence_of(policy, 2.0)
                while bad.says not in said and time.monotonic() < end_s:  # the good one's connection is still going
                    said = sentence_of(policy, 2.0)
            toy.listen()
        else:
            assert bad.answer is not None
            toy.answer = bad.answer
            if bad.answer({"endpoint": "get_modality_config"}) != modalities():  # it is asked by a new connection only
                toy.answer = lambda _request: {"error": RESTARTED}
                sentence_of(policy, 2.0)
                toy.answer = bad.answer
            said = sentence_of(policy, 2.0)
            while RESTARTED in said:
                said = sentence_of(policy, 2.0)
        toy.answer = groot_answer
        comes_back(policy)
    return said


@contextlib.contextmanager
def raw_server(port: int, behave: Callable[[socket.socket], object]) -> Iterator[None]:
    """Serve connections otherwise than by ZeroMQ."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            listener = socket.create_server(("127.0.0.1", port))
            break
        time.sleep(0.02)

    def one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            behave(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
