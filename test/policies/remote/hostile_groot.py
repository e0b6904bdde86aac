"""Bad GR00T servers: what each does, and a part of the sentence that it ends in."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack
import numpy as np
from remote_servers import SILENT, TIMEOUT_S, groot_actions, groot_answer, modalities

from streaming_vla.policies.remote.zeromq import GREETING


class BadGroot(NamedTuple):
    """A bad GR00T server: how it answers, or what is on its port instead."""

    name: str
    says: str
    answer: Callable[[dict[str, Any]], Any] | None = None
    raw: Callable[[socket.socket], object] | None = None


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


def ready(kind: bytes = b"REP") -> bytes:
    """Return the command by which a server of ZeroMQ says that it is ready."""
    body = b"\x05READY\x0bSocket-Type" + struct.pack("!I", len(kind)) + kind
    return bytes((4, len(body))) + body


def zeromq(*parts: bytes, endless: bytes = b"", stays: bool = True) -> Callable[[socket.socket], None]:
    """Send the parts, each after something has come, and then the same bytes again and again."""

    def behave(connection: socket.socket) -> None:
        for part in parts:
            connection.recv(1 << 16)
            connection.sendall(part)
        while endless:
            connection.sendall(endless)
            time.sleep(1e-3)
        while stays and connection.recv(1 << 16):
            pass

    return behave


CURVE = GREETING[:12] + b"CURVE".ljust(20, b"\0") + GREETING[32:]
BUSY = b"\x04\x0b\x05ERROR\x04busy"
TERABYTE = b"\x01\0\x02" + struct.pack("!Q", 1 << 40)
ARM = groot_actions(1.0)["single_arm"]
GROOT = (
    BadGroot("silent without ZeroMQ", SILENT, raw=reads),
    BadGroot("closes at once", "closed the connection", raw=lambda connection: connection.recv(64)),
    BadGroot("speaks another protocol", "does not speak ZeroMQ", raw=chatters),
    BadGroot("speaks an older ZeroMQ", "does not speak ZeroMQ", raw=zeromq(GREETING[:10] + b"\x01" + GREETING[11:])),
    BadGroot(
        "wants encryption",
        "wants the security mechanism CURVE",
        raw=zeromq(GREETING.replace(b"NULL", b"CURVE", 1)[:64]),
    ),
    BadGroot("greets by halves", SILENT, raw=zeromq(GREETING[:30])),
    BadGroot(
        "refuses the client", "refuses this client (?ERROR?busy)", raw=zeromq(GREETING, b"\x04\x0b\x05ERROR\x04busy")
    ),
    BadGroot("answers no requests", "answers no requests", raw=zeromq(GREETING, ready(b"PUB"))),
    BadGroot("a command too long", "a frame of 70000 bytes", raw=zeromq(GREETING, b"\x06" + struct.pack("!Q", 70_000))),
    BadGroot("no frame", "no frame of ZeroMQ (flags 0x50)", raw=zeromq(GREETING, ready(), b"P")),
    BadGroot("no delimiter", "has no delimiter", raw=zeromq(GREETING, ready(), b"\x00\x00")),
    BadGroot("a delimiter that is none", "at most 0 are taken", raw=zeromq(GREETING, ready(), b"\x01\x05hello")),
    BadGroot(
        "claims a terabyte",
        "at most 1048656 are taken",
        raw=zeromq(GREETING, ready(), b"\x01\0\x02" + struct.pack("!Q", 1 << 40)),
    ),
    BadGroot("cuts a frame", "closed the connection", raw=zeromq(GREETING, ready(), b"\x01\0\x00\x64abc", stays=False)),
    BadGroot("parts without end", "several parts", raw=zeromq(GREETING, ready(), b"\x01\0" + b"\x01\x01a" * 100_000)),
    BadGroot("commands without end", SILENT, raw=zeromq(GREETING, ready(), endless=b"\x04\x0b\x04PING\0\0abcd")),
    BadGroot("does not read", SILENT, raw=lambda _connection: time.sleep(2.0 * TIMEOUT_S)),
    BadGroot("silent", SILENT, lambda _request: None),
    BadGroot("silent about actions", SILENT, on("get_action", None)),
    BadGroot("slow", SILENT, on("get_action", slow)),
    BadGroot("an error", "it says: Unknown endpoint: x", on("get_action", {"error": "Unknown endpoint: x"})),
    BadGroot("no reset", "it says: no reset", on("reset", {"error": "no reset"})),
    BadGroot(
        "wants a key", "Invalid API token: model_key_file", lambda _r: {"error": "Unauthorized: Invalid API token"}
    ),
    BadGroot("an error of another kind", "it says: [1, 2]", on("get_action", {"error": [1, 2]})),
    BadGroot("ERROR", "it says ERROR", on("get_action", b"ERROR")),
    BadGroot("no msgpack", "the message", on("get_action", b"\xc1")),
    BadGroot("an answer too large", "at most 1048656 are taken", on("get_action", b"\xc4" * 3_000_000)),
    BadGroot("two parts", "several parts", on("get_action", (b"\x80", b"\x80"))),
    BadGroot("a map", "its answer is a dict", on("get_action", {"actions": 1})),
    BadGroot("no gripper", "nothing under 'gripper'", on("get_action", [{"single_arm": ARM}, {}])),
    BadGroot("an old form", "'single_arm' has shape (5, 1)", acts(single_arm=ARM[0])),
    BadGroot("a batch of two", "expected a batch of one", acts(single_arm=np.repeat(ARM, 2, 0))),
    BadGroot("fewer rows", "shape (3, 1)", acts(single_arm=ARM[:, :3])),
    BadGroot("not a number", "not finite in row 0", acts(single_arm=ARM * np.nan)),
    BadGroot("text", "a str under 'gripper'", acts(gripper="open")),
    BadGroot(
        "no .npy file",
        "no .npy file",
        on("get_action", msgpack.packb([{"single_arm": {"__ndarray_class__": True, "as_npy": b"PK"}}, {}])),
    ),
    BadGroot(
        "a pickle",
        "only numbers are taken",
        on("get_action", npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", b"cos\nsystem\n.")),
    ),
    BadGroot(
        "claims terabytes",
        "expected 4398046511104",
        on("get_action", npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }\n")),
    ),
    BadGroot("a header that is code", "header cannot be read", on("get_action", npy(b"__import__('os').abort()\n"))),
    BadGroot("no configuration", "has no 'video'", on("get_modality_config", {})),
    BadGroot("another camera", "front, top as video", configured(video=([0], ["front", "top"]))),
    BadGroot("another arm", "as state", configured(state=([0], ["arm"]))),
    BadGroot("several moments", "wants 2 moments of video", configured(video=([-1, 0], ["front", "wrist"]))),
    BadGroot("another horizon", "gives 16 actions", configured(action=(list(range(16)), ["single_arm", "gripper"]))),
    BadGroot("two instructions", "one instruction is sent", configured(language=([0], ["a", "b"]))),
    BadGroot("a configuration of text", "modality_keys is", configured(video=([0], "front"))),
)
