"""A ZeroMQ request socket: the part of its protocol (ZMTP 3.0, mechanism NULL) that a client of one server needs.

libzmq takes in parts of a message without end, whatever bounds it is given, and does not say that nobody listens. Here
every frame is bounded before memory is taken, every wait ends at a deadline, and no thread works beside.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import NamedTuple

from streaming_vla.policies.errors import shortened
from streaming_vla.policies.remote.deadline import left_s
from streaming_vla.policies.remote.link import LinkError

SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
GREETING = SIGNATURE + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)  # version, mechanism, as-server and filler
READY = b"\x05READY\x0bSocket-Type\0\0\0\x03REQ\x08Identity\0\0\0\0"
ANSWERING = (b"REP", b"ROUTER")  # sockets that answer requests
MORE, LONG, COMMAND = 1, 2, 4  # flags of a frame
MOST_COMMAND = 4096  # bytes
READ_BYTES = 1 << 16
NO_ZEROMQ = "it does not speak ZeroMQ 3"


class _Frame(NamedTuple):
    flags: int
    body: bytes


class RequestSocket:
    """A connection to a server that answers requests one by one.

    Args:
        most_bytes: of an answer.
        deadline_s: time.monotonic() by which it has to be open.

    Raises:
        LinkError: what listens there is no server of ZeroMQ, wants another mechanism, or answers no requests.
        TimeoutError: the deadline is over.
        OSError: there is no connection.
    """

    def __init__(self, host: str, port: int, most_bytes: int, deadline_s: float) -> None:
        self._most_bytes = most_bytes
        self._socket = socket.create_connection((host, port), left_s(deadline_s))
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            self._greet(deadline_s)
        except BaseException:
            self._socket.close()
            raise

    def ask(self, request: bytes, deadline_s: float) -> bytes:
        """Return the answer to a request.

        Raises:
            LinkError: the server has closed the connection, or answers with something else than one bounded message.
            TimeoutError: the deadline is over.
            OSError: the connection is broken.
        """
        self._write(_frame(MORE, b"") + _frame(0, request), deadline_s)
        delimiter = self._message_frame(0, deadline_s)
        if not delimiter.flags & MORE:
            raise LinkError("its answer has no delimiter, which a server of requests sends")
        answer = self._message_frame(self._most_bytes, deadline_s)
        if answer.flags & MORE:
            raise LinkError("its answer has several parts, expected one")
        return answer.body

    def usable(self) -> bool:
        """Answer what the server has sent meanwhile to keep the connection alive; see Link."""
        self._socket.settimeout(0.0)
        try:
            while self._socket.recv(1, socket.MSG_PEEK):
                frame = self._frame(0, time.monotonic() + 0.05)
                if not frame.flags & COMMAND:
                    raise LinkError("it has sent a message that nobody asked for")
                self._obey(frame.body, time.monotonic() + 0.05)
                self._socket.settimeout(0.0)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """See Link."""
        self._socket.close()

    def _greet(self, deadline_s: float) -> None:
        self._write(GREETING, deadline_s)
        signature = self._read(len(SIGNATURE) + 1, deadline_s)
        if (signature[0], signature[9]) != (SIGNATURE[0], SIGNATURE[9]) or signature[10] < 3:
            raise LinkError(NO_ZEROMQ)
        mechanism = self._read(len(GREETING) - len(SIGNATURE) - 1, deadline_s)[1:21].rstrip(b"\0")
        if mechanism != b"NULL":
            raise LinkError(f"it wants the security mechanism {_text(mechanism)}, which GR00T's servers do not have")
        self._write(_frame(COMMAND, READY), deadline_s)
        ready = self._frame(0, deadline_s)
        if not ready.flags & COMMAND or not ready.body.startswith(b"\x05READY"):
            raise LinkError(f"{NO_ZEROMQ}, or refuses this client ({_text(ready.body)})")
        if not any(b"\x0bSocket-Type" + struct.pack("!I", len(kind)) + kind in ready.body for kind in ANSWERING):
            raise LinkError(f"its socket answers no requests, expected one of {b', '.join(ANSWERING).decode()}")

    def _message_frame(self, most: int, deadline_s: float) -> _Frame:
        """Return the next frame that is no command."""
        while True:
            frame = self._frame(most, deadline_s)
            if not frame.flags & COMMAND:
                return frame
            self._obey(frame.body, deadline_s)

    def _frame(self, most: int, deadline_s: float) -> _Frame:
        flags = self._read(1, deadline_s)[0]
        if flags & ~(MORE | LONG | COMMAND):
            raise LinkError(f"it has sent what is no frame of ZeroMQ (flags 0x{flags:02x})")
        size = int.from_bytes(self._read(8 if flags & LONG else 1, deadline_s), "big")
        bound = MOST_COMMAND if flags & COMMAND else most
        if size > bound:
            raise LinkError(f"it has sent a frame of {size} bytes where at most {bound} are taken")
        return _Frame(flags, self._read(size, deadline_s))

    def _obey(self, command: bytes, deadline_s: float) -> None:
        """Answer a PING; no other command needs an answer."""
        if command.startswith(b"\x04PING"):
            self._write(_frame(COMMAND, b"\x04PONG" + command[7:23]), deadline_s)  # behind two bytes of a time

    def _read(self, size: int, deadline_s: float) -> bytes:
        found = bytearray()
        while len(found) < size:
            self._socket.settimeout(left_s(deadline_s))
            data = self._socket.recv(min(READ_BYTES, size - len(found)))
            if not data:
                raise LinkError("it has closed the connection")
            found += data
        return bytes(found)

    def _write(self, data: bytes, deadline_s: float) -> None:
        self._socket.settimeout(left_s(deadline_s))
        with contextlib.suppress(BrokenPipeError):  # what it said before it went is read
            self._socket.sendall(data)


def _frame(flags: int, body: bytes) -> bytes:
    if len(body) < 256:
        return bytes((flags, len(body))) + body
    return bytes((flags | LONG,)) + struct.pack("!Q", len(body)) + body


def _text(data: bytes) -> str:
    return shortened(data.decode("ascii", "replace")) or "nothing"
