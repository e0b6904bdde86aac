"""Bad openpi servers: what each does, and a part of the sentence that it ends in."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack
import numpy as np
from remote_servers import HORIZON, SILENT, TIMEOUT_S, Peer, array, greet, rows_of

FULL = rows_of(1.0)


class Bad(NamedTuple):
    """A bad openpi server: how it greets, or how it answers."""

    name: str
    says: str
    greet: Callable[[Peer], object] | None = None
    answer: Callable[[Peer, dict[Any, Any]], object] | None = None
    again: bool = False  # the sentence comes with the next question


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
    Bad(
        "greets with an extension", "an extension of msgpack", greeting(msgpack.packb({"a": msgpack.ExtType(1, b"a")}))
    ),
    Bad("serves another policy", "it serves another policy", greeting({"streaming_vla": {"name": "other"}})),
    Bad("leaves after the greeting", "closed the connection", lambda peer: (greet(peer), peer.leave(1001, "bye"))),
    Bad("silent", SILENT, answer=nothing),
    Bad("slow", SILENT, answer=late),
    Bad(
        "a traceback",
        "it says: KeyError: 'observation/image'",
        answer=text(b"Traceback:\n  x\nKeyError: 'observation/image'\n"),
    ),
    Bad("text that is none", "it says", answer=text(b"\xff\xfe")),
    Bad("text of a megabyte", "it says: aaaa", answer=text(b"a" * 1_000_000)),
    Bad("leaves", "closed the connection (1012)", answer=leaves),
    Bad("cuts a frame", "closed the connection", answer=sends(b"\x82\x7e\x03\xe8" + b"a" * 10)),
    Bad("claims a terabyte", "no message that is taken", answer=sends(b"\x82\x7f" + struct.pack("!Q", 1 << 40))),
    Bad("reserved bits", "no message that is taken", answer=sends(b"\xf2\x01a")),
    Bad("masks", "no message that is taken", answer=sends(b"\x82\x81\0\0\0\0a")),
    Bad(
        "fragments without end",
        "no message that is taken",
        answer=lambda p, _q: endless(b"\x00\x7e\x10\x00" + b"a" * 4096, b"\x02\x01a")(p),
    ),
    Bad("empty fragments without end", SILENT, answer=lambda p, _q: endless(b"\x00\x00" * 512, b"\x02\x01a", 1e-3)(p)),
    Bad("pings without end", SILENT, answer=lambda p, _q: endless(b"\x89\x00" * 8, b"", 1e-3)(p)),
    Bad("an answer too large", "no message that is taken", answer=says({"actions": FULL, "more": b"a" * 2_000_000})),
    Bad("no msgpack", "the message", answer=says(b"\xc1")),
    Bad("an empty message", "the message is cut", answer=says(b"")),
    Bad("two values", "goes on for", answer=says(b"\x80\x80")),
    Bad("a key that is a map", "no msgpack that is taken", answer=says(b"\x81\x80\x01")),
    Bad("text in no alphabet", "no msgpack that is taken", answer=says(b"\x81\xa1\xff\x01")),
    Bad("claims four thousand million values", "claims a list or map", answer=says(b"\xdd\xff\xff\xff\xff")),
    Bad(
        "a million maps",
        "claims a list or map",
        answer=says(b"\xdd" + struct.pack("!I", 1_000_000) + b"\x80" * 1_000_000),
    ),
    Bad("many lists", "more than 4096 values", answer=says(b"\x9f" + (b"\xdc\x03\xe8" + b"\xc0" * 1000) * 15)),
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
)
