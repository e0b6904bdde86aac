"""Servers that are silent, slow, broken or bad: what each does, and a part of the sentence that it ends in.

A policy that has worked with a good server meets the bad one, and then the good one again.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np
from remote_servers import (
    GROOT_KEYS,
    HORIZON,
    OPENPI_KEYS,
    GrootToy,
    OpenpiToy,
    Peer,
    array,
    asked,
    described,
    greet,
    groot_actions,
    groot_answer,
    modalities,
    rows_of,
)

from streaming_vla.policies.contract import PolicyUnavailable
from streaming_vla.policies.remote import groot, openpi
from streaming_vla.policies.remote.options import RemoteOptions

TIMEOUT_S = 0.2
BACK_S = 5.0  # within which a server that is good again has answered
SILENT = "has not answered within"
FULL = rows_of(1.0)


class Bad(NamedTuple):
    """A bad openpi server: how it greets, or how it answers."""

    name: str
    says: str
    greet: Callable[[Peer], object] | None = None
    answer: Callable[[Peer, dict[Any, Any]], object] | None = None
    again: bool = False  # the sentence comes with the next question


class BadGroot(NamedTuple):
    """A bad GR00T server: how it answers, or what is on its port instead."""

    name: str
    says: str
    answer: Callable[[dict[str, Any]], Any] | None = None
    raw: Callable[[socket.socket], object] | None = None


def nothing(*_given: Any) -> None:
    """Do nothing."""


def hold(peer: Peer) -> None:
    """Read until the other end has enough."""
    while peer.socket.recv(1 << 16):
        pass


def http(answer: bytes) -> Callable[[Peer], None]:
    """Answer the request of the upgrade so, and go."""

    def meet(peer: Peer) -> None:
        peer.request()
        peer.socket.sendall(answer)
        raise EOFError

    return meet


def status(line: str, *headers: str) -> Callable[[Peer], None]:
    """Answer the request of the upgrade with an HTTP status."""
    return http("\r\n".join((f"HTTP/1.1 {line}", *headers, "Content-Length: 0", "", "")).encode())


def endless(data: bytes, start: bytes = b"", pause_s: float = 0.0) -> Callable[[Peer], None]:
    """Send the same bytes again and again."""

    def meet(peer: Peer) -> None:
        peer.socket.sendall(start)
        while True:
            peer.socket.sendall(data)
            time.sleep(pause_s)

    return meet


def greeting(value: Any) -> Callable[[Peer], None]:
    """Greet with something else."""

    def meet(peer: Peer) -> None:
        peer.upgrade()
        peer.send(value)
        hold(peer)

    return meet


def upgraded(then: Callable[[Peer], object]) -> Callable[[Peer], None]:
    """Upgrade, and go on otherwise."""

    def meet(peer: Peer) -> None:
        peer.upgrade()
        then(peer)

    return meet


def says(value: Any) -> Callable[[Peer, Any], None]:
    """Answer with a value."""
    return lambda peer, _question: peer.send(value)


def actions(value: Any) -> Callable[[Peer, Any], None]:
    """Answer with other actions."""
    return says({"actions": value})


def claims(data: bytes, dtype: Any, shape: Any) -> Callable[[Peer, Any], None]:
    """Answer with an array that is told so."""
    return says(array(data, dtype, shape))


def sends(data: bytes) -> Callable[[Peer, Any], None]:
    """Answer with bytes below the WebSocket, and go."""

    def answer(peer: Peer, _question: Any) -> None:
        peer.socket.sendall(data)
        raise EOFError

    return answer


def late(peer: Peer, question: dict[Any, Any]) -> None:
    """Answer after the deadline, with what must not be taken for the next answer."""
    time.sleep(2.0 * TIMEOUT_S)
    peer.send({"actions": rows_of(-1.0)})


def text(line: bytes) -> Callable[[Peer, Any], None]:
    """Answer with a text frame, and close."""

    def answer(peer: Peer, _question: Any) -> None:
        peer.text(line)
        peer.leave(1011, "Internal server error")
        raise EOFError

    return answer


def twice(peer: Peer, question: dict[Any, Any]) -> None:
    """Answer twice."""
    for _ in range(2):
        peer.send({"actions": rows_of(float(question["observation/joints"][0]))})


def leaves(peer: Peer, _question: Any) -> None:
    """Close without an answer."""
    peer.leave(1012, "")
    raise EOFError


def deep(levels: int) -> bytes:
    """Return a message of lists in each other."""
    return b"\x91" * levels + b"\xc0"


def bad_row(value: float) -> np.ndarray[Any, Any]:
    """Return a chunk with a bad number in row 3."""
    rows = FULL.copy()
    rows[3, 0] = value
    return rows


OPENPI = (
    Bad("silent from the start", SILENT, hold),
    Bad("closes at once", "closed the connection before it answered", http(b"")),
    Bad("not found", "HTTP status 404", status("404 Not Found")),
    Bad("wants a key", "HTTP status 401: give its key by model_key_file", status("401 Unauthorized")),
    Bad("is starting", "HTTP status 503", status("503 Service Unavailable")),
    Bad("sends elsewhere", "HTTP status 302", status("302 Found", "Location: ws://127.0.0.1:1/")),
    Bad("speaks another protocol", "does not answer as a WebSocket", http(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")),
    Bad("a header without end", "does not answer as a WebSocket", endless(b"a" * 4096, b"HTTP/1.1 101 ok\r\nA: ")),
    Bad("headers without end", "does not answer as a WebSocket", endless(b"A: b\r\n" * 64, b"HTTP/1.1 101 ok\r\n")),
    Bad("drips", SILENT, endless(b"a", b"HTTP/1.1 101 ok\r\nA: ", 0.01)),
    Bad(
        "wrong accept key",
        "does not answer as a WebSocket",
        status("101 ok", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: AAAA"),
    ),
    Bad("does not greet", SILENT, upgraded(hold)),
    Bad("greets with text", "it says: welcome", upgraded(lambda peer: peer.text(b"welcome"))),
    Bad("greets with garbage", "the message", greeting(b"\xc1\xff\x00garbage")),
    Bad("greets with a list", "its greeting is a list", greeting([1, 2])),
    Bad("greets at length", "at most 262144 are taken", greeting({"name": "a" * 300_000})),
    Bad("greets with half a message", "the message is cut", greeting(msgpack.packb({"name": "toy"})[:-2])),
    Bad("greets with an extension", "an extension of msgpack", greeting(msgpack.packb({"a": msgpack.ExtType(1, b"a")}))),
    Bad("serves another policy", "it serves another policy", greeting({"streaming_vla": {"name": "other"}})),
    Bad("leaves after the greeting", "closed the connection", lambda peer: (greet(peer), peer.leave(1001, "bye"))),
    Bad("silent", SILENT, answer=nothing),
    Bad("slow", SILENT, answer=late),
    Bad("a traceback", "it says: KeyError: 'observation/image'", answer=text(b"Traceback:\n  x\nKeyError: 'observation/image'\n")),
    Bad("text that is none", "it says", answer=text(b"\xff\xfe")),
    Bad("text of a megabyte", "it says: aaaa", answer=text(b"a" * 1_000_000)),
    Bad("leaves", "closed the connection (1012)", answer=leaves),
    Bad("cuts a frame", "closed the connection", answer=sends(b"\x82\x7e\x03\xe8" + b"a" * 10)),
    Bad("claims a terabyte", "no message that is taken", answer=sends(b"\x82\x7f" + struct.pack("!Q", 1 << 40))),
    Bad("reserved bits", "no message that is taken", answer=sends(b"\xf2\x01a")),
    Bad("masks", "no message that is taken", answer=sends(b"\x82\x81\0\0\0\0a")),
    Bad("fragments without end", "no message that is taken", answer=lambda p, _q: endless(b"\x00\x7e\x10\x00" + b"a" * 4096, b"\x02\x01a")(p)),
    Bad("empty fragments without end", SILENT, answer=lambda p, _q: endless(b"\x00\x00" * 512, b"\x02\x01a", 1e-3)(p)),
    Bad("pings without end", SILENT, answer=lambda p, _q: endless(b"\x89\x00" * 8, b"", 1e-3)(p)),
    Bad("an answer too large", "no message that is taken", answer=says({"actions": FULL, "more": b"a" * 2_000_000})),
    Bad("no msgpack", "the message", answer=says(b"\xc1")),
    Bad("an empty message", "the message is cut", answer=says(b"")),
    Bad("two values", "goes on for", answer=says(b"\x80\x80")),
    Bad("a key that is a map", "no msgpack that is taken", answer=says(b"\x81\x80\x01")),
    Bad("text in no alphabet", "no msgpack that is taken", answer=says(b"\x81\xa1\xff\x01")),
    Bad("claims four thousand million values", "claims a list or map", answer=says(b"\xdd\xff\xff\xff\xff")),
    Bad("a million maps", "claims a list or map", answer=says(b"\xdd" + struct.pack("!I", 1_000_000) + b"\x80" * 1_000_000)),
    Bad("many lists", "more than 10000 values", answer=says(b"\x9f" + (b"\xdc\x1f\x40" + b"\xc0" * 8000) * 15)),
    Bad("deep", "levels deep", answer=says(deep(1000))),
    Bad("a list", "its answer is a list", answer=says([1])),
    Bad("no actions", "nothing under 'actions'", answer=says({"action": FULL})),
    Bad("actions in a list", "a list under 'actions'", answer=actions([[0.0, 0.0]] * HORIZON)),
    Bad("actions in text", "a str under 'actions'", answer=actions("0 0")),
    Bad("fewer rows", "shape (4, 2)", answer=actions(FULL[:4])),
    Bad("one row", "shape (2,)", answer=actions(FULL[0])),
    Bad("more numbers", "shape (5, 3)", answer=actions(np.zeros((HORIZON, 3), np.float32))),
    Bad("not a number", "not finite in row 3", answer=actions(bad_row(np.nan))),
    Bad("infinite", "not finite in row 3", answer=actions(bad_row(-np.inf))),
    Bad("truth values", "expected numbers", answer=actions(FULL > 0)),
    Bad("objects", "only numbers are taken", answer=claims(b"cos\nsystem\n", "|O", [1])),
    Bad("records", "only numbers are taken", answer=claims(bytes(40), "f8,f8", [5])),
    Bad("complex numbers", "only numbers are taken", answer=claims(bytes(160), "<c16", [5, 2])),
    Bad("a type that is none", "only numbers are taken", answer=claims(bytes(40), ["<f4"], [5, 2])),
    Bad("too few bytes", "has 8 bytes, expected 40", answer=claims(bytes(8), "<f4", [5, 2])),
    Bad("a negative size", "expected a list of sizes", answer=claims(bytes(40), "<f4", [-5, -2])),
    Bad("a size of no machine", "bytes, expected", answer=claims(bytes(40), "<f4", [1 << 62, 1 << 62])),
    Bad("many dimensions", "dimensions", answer=claims(bytes(4), "<f4", [1] * 70)),
    Bad("numbers in text", "expected bytes", answer=claims("a" * 40, "<f4", [5, 2])),  # type: ignore[arg-type]
    Bad("answers twice", "nobody asked for", answer=twice, again=True),
)  # fmt: skip


def on(endpoint: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    """Answer one kind of request otherwise; a callable makes the answer."""

    def answer(request: dict[str, Any]) -> Any:
        if request["endpoint"] != endpoint:
            return groot_answer(request)
        return value() if callable(value) else value

    return answer


def acts(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    """Answer with other actions."""
    return on("get_action", [groot_actions(1.0) | changes, {}])


def npy(header: bytes, data: bytes = b"") -> bytes:
    """Return an answer whose .npy file has a header of one's own."""
    file = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data
    told = {"__ndarray_class__": True, "as_npy": file}
    packed: bytes = msgpack.packb([{"single_arm": told, "gripper": told}, {}])
    return packed


def configured(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    """Tell of another checkpoint."""
    return on("get_modality_config", modalities(**changes))


def slow() -> Any:
    """Answer after the deadline."""
    time.sleep(2.0 * TIMEOUT_S)
    return [groot_actions(-1.0), {}]


def reads(connection: socket.socket) -> None:
    """Accept, and say nothing."""
    while connection.recv(1 << 16):
        pass


def chatters(connection: socket.socket) -> None:
    """Send what is no ZeroMQ."""
    while True:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 100)
        time.sleep(1e-3)


ARM = groot_actions(1.0)["single_arm"]
GROOT = (
    BadGroot("silent without ZeroMQ", SILENT, raw=reads),
    BadGroot("closes at once", SILENT, raw=nothing),
    BadGroot("speaks another protocol", SILENT, raw=chatters),
    BadGroot("silent", SILENT, lambda _request: None),
    BadGroot("silent about actions", SILENT, on("get_action", None)),
    BadGroot("slow", SILENT, on("get_action", slow)),
    BadGroot("an error", "it says: Unknown endpoint: x", on("get_action", {"error": "Unknown endpoint: x"})),
    BadGroot("no reset", "it says: no reset", on("reset", {"error": "no reset"})),
    BadGroot("wants a key", "Invalid API token: model_key_file", lambda _r: {"error": "Unauthorized: Invalid API token"}),
    BadGroot("an error of another kind", "it says: [1, 2]", on("get_action", {"error": [1, 2]})),
    BadGroot("ERROR", "it says ERROR", on("get_action", b"ERROR")),
    BadGroot("no msgpack", "the message", on("get_action", b"\xc1")),
    BadGroot("an answer too large", SILENT, on("get_action", b"\xc4" * 3_000_000)),
    BadGroot("two parts", "several parts", on("get_action", (b"\x80", b"\x80"))),
    BadGroot("a map", "its answer is a dict", on("get_action", {"actions": 1})),
    BadGroot("no gripper", "nothing under 'gripper'", on("get_action", [{"single_arm": ARM}, {}])),
    BadGroot("an old form", "'single_arm' has shape (5, 1)", acts(single_arm=ARM[0])),
    BadGroot("a batch of two", "expected a batch of one", acts(single_arm=np.repeat(ARM, 2, 0))),
    BadGroot("fewer rows", "shape (3, 1)", acts(single_arm=ARM[:, :3])),
    BadGroot("not a number", "not finite in row 0", acts(single_arm=ARM * np.nan)),
    BadGroot("text", "a str under 'gripper'", acts(gripper="open")),
    BadGroot("no .npy file", "no .npy file", on("get_action", msgpack.packb([{"single_arm": {"__ndarray_class__": True, "as_npy": b"PK"}}, {}]))),
    BadGroot("a pickle", "only numbers are taken", on("get_action", npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", b"cos\nsystem\n."))),
    BadGroot("claims terabytes", "expected 4398046511104", on("get_action", npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }\n"))),
    BadGroot("a header that is code", "header cannot be read", on("get_action", npy(b"__import__('os').abort()\n"))),
    BadGroot("no configuration", "has no 'video'", on("get_modality_config", {})),
    BadGroot("another camera", "front, top as video", configured(video=([0], ["front", "top"]))),
    BadGroot("another arm", "as state", configured(state=([0], ["arm"]))),
    BadGroot("several moments", "wants 2 moments of video", configured(video=([-1, 0], ["front", "wrist"]))),
    BadGroot("another horizon", "gives 16 actions", configured(action=(list(range(16)), ["single_arm", "gripper"]))),
    BadGroot("two instructions", "one instruction is sent", configured(language=([0], ["a", "b"]))),
    BadGroot("a configuration of text", "modality_keys is", configured(video=([0], "front"))),
)  # fmt: skip


def sentence_of(policy: Any, mark: float) -> str:
    """Ask, and return the refusal."""
    try:
        asked(policy, mark)
    except PolicyUnavailable as error:
        return str(error)
    raise AssertionError("the server is bad, and its answer was taken")


def comes_back(policy: Any) -> None:
    """Ask until the server answers again."""
    end_s = time.monotonic() + BACK_S
    while True:
        with contextlib.suppress(PolicyUnavailable):
            np.testing.assert_allclose(asked(policy, 7.0), rows_of(7.0), rtol=1e-6)
            return
        assert time.monotonic() < end_s, "it does not come back"


@contextlib.contextmanager
def openpi_policy() -> Iterator[tuple[OpenpiToy, Any]]:
    """Yield a server and a policy that has worked with it."""
    toy = OpenpiToy()
    with tempfile.TemporaryDirectory() as folder:
        options = RemoteOptions(described(Path(folder), OPENPI_KEYS), timeout_s=TIMEOUT_S)
        policy = openpi.connect(f"127.0.0.1:{toy.port}", options)
    try:
        comes_back(policy)
        yield toy, policy
    finally:
        toy.close()


@contextlib.contextmanager
def groot_policy() -> Iterator[tuple[GrootToy, Any]]:
    """Yield a server and a policy that has worked with it."""
    toy = GrootToy()
    with tempfile.TemporaryDirectory() as folder:
        options = RemoteOptions(described(Path(folder), GROOT_KEYS), timeout_s=TIMEOUT_S)
        policy = groot.connect(f"127.0.0.1:{toy.port}", options)
    try:
        comes_back(policy)
        yield toy, policy
    finally:
        toy.close()


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
                said = sentence_of(policy, 2.0)
            toy.listen()
        else:
            assert bad.answer is not None
            toy.answer = bad.answer
            if bad.answer({"endpoint": "get_modality_config"}) != modalities():  # it is asked by a new connection only
                toy.close()
                toy.listen()
                sentence_of_any(policy)
            said = sentence_of(policy, 2.0)
        toy.answer = groot_answer
        comes_back(policy)
    return said


def sentence_of_any(policy: Any) -> None:
    """Let the connection fail once, so that the next one asks everything anew."""
    policy._server._link._drop()


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
