"""A WebSocket connection of a client: every wait ends at a deadline, every message is bounded, no thread of its own."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import Mapping

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.protocol import State
from websockets.uri import WebSocketURI

from streaming_vla.policies.errors import shortened
from streaming_vla.policies.remote.deadline import left_s
from streaming_vla.policies.remote.link import LinkError

QUIET = logging.getLogger(f"{__name__}.protocol")
QUIET.setLevel(logging.CRITICAL)  # debugging would print the key, and what a stranger sends ends in a LinkError
READ_BYTES = 1 << 13  # frames of two bytes each take their time, within which no deadline is looked at
PARTING_S = 0.05  # for a short frame to leave
KEY_REFUSED = (401, 403)


class WebSocket:
    """A connection to a server. Neither compression, nor redirections (a key goes to nobody else), nor proxies.

    Args:
        where: the server.
        headers: of the request.
        most_bytes: of a message.
        deadline_s: time.monotonic() by which it has to be open.

    Raises:
        LinkError: the server answers, but not as a WebSocket.
        TimeoutError: the deadline is over.
        OSError: there is no connection.
    """

    def __init__(self, where: WebSocketURI, headers: Mapping[str, str], most_bytes: int, deadline_s: float) -> None:
        self._protocol = ClientProtocol(where, max_size=most_bytes, logger=QUIET)
        self._messages: deque[bytes | str] = deque()
        self._parts: list[bytes] = []
        self._is_text = False
        self._socket = socket.create_connection((where.host, where.port), left_s(deadline_s))
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            if where.secure:
                self._socket = _with_tls(self._socket, where.host, deadline_s)
            request = self._protocol.connect()
            request.headers.update(headers)
            self._protocol.send_request(request)
            self._write(deadline_s)
            while self._protocol.state is State.CONNECTING and self._protocol.handshake_exc is None:
                self._read(deadline_s)
            if self._protocol.handshake_exc is not None:
                raise LinkError(_no_websocket(self._protocol.handshake_exc))
        except BaseException:
            self._socket.close()
            raise

    def send(self, message: bytes, deadline_s: float) -> None:
        """Send a message.

        Raises:
            LinkError, TimeoutError, OSError: it has not left.
        """
        self._check_open()
        self._protocol.send_binary(message)
        self._write(deadline_s)

    def receive(self, deadline_s: float) -> bytes | str:
        """Return the next message.

        Raises:
            LinkError: the server has closed the connection, or sent what is no message or too large.
            TimeoutError: the deadline is over.
            OSError: the connection is broken.
        """
        while not self._messages:
            self._check_open()
            self._read(deadline_s)
        return self._messages.popleft()

    def usable(self) -> bool:
        """Answer what the server has sent meanwhile to keep the connection alive; see Link."""
        try:
            if self._protocol.state is State.OPEN:
                self._socket.settimeout(0.0)
                self._take_all(self._socket.recv(READ_BYTES), time.monotonic() + PARTING_S)
        except (BlockingIOError, ssl.SSLWantReadError):
            pass  # nothing has come
        except OSError:
            return False
        if self._messages or self._parts:
            raise LinkError("it has sent a message that nobody asked for")
        return self._protocol.state is State.OPEN

    def close(self) -> None:
        """Say so to the server if it listens, and close the socket."""
        with contextlib.suppress(OSError, WebSocketException):
            if self._protocol.state is State.OPEN:
                self._protocol.send_close(1000)
                self._write(time.monotonic() + PARTING_S)
        self._socket.close()

    def _check_open(self) -> None:
        if self._protocol.state is State.OPEN:
            return
        wrong = self._protocol.parser_exc
        if wrong is not None and not isinstance(wrong, EOFError):
            raise LinkError(f"it has sent what is no message that is taken: {shortened(str(wrong))}")
        said = self._protocol.close_rcvd
        reason = f" ({said.code} {shortened(said.reason)})".replace(" )", ")") if said is not None else ""
        raise LinkError(f"it has closed the connection{reason}")

    def _read(self, deadline_s: float) -> None:
        """Take what comes next."""
        self._socket.settimeout(left_s(deadline_s))
        self._take_all(self._socket.recv(READ_BYTES), deadline_s)

    def _take_all(self, data: bytes, deadline_s: float) -> None:
        """Take what came, nothing is its end, and answer pings by the deadline."""
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        self._write(deadline_s)
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode in DATA_OPCODES:
                self._take(event)

    def _take(self, frame: Frame) -> None:
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        if frame.data:
            self._parts.append(bytes(frame.data))
        if not frame.fin:
            return
        whole = b"".join(self._parts)
        self._parts.clear()
        self._messages.append(whole.decode("utf-8", "replace") if self._is_text else whole)

    def _write(self, deadline_s: float) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._socket.settimeout(left_s(deadline_s))
                self._socket.sendall(data)
            else:  # nothing more will be sent
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_WR)


def _with_tls(plain: socket.socket, host: str, deadline_s: float) -> socket.socket:
    plain.settimeout(left_s(deadline_s))
    try:
        return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise LinkError(
            f"its certificate is not trusted ({shortened(error.verify_message)}): let SSL_CERT_FILE name the file of "
            "the authority that has signed it"
        ) from error
    except ssl.SSLError as error:
        raise LinkError(f"it does not speak TLS ({shortened(error.reason or str(error))})") from error


def _no_websocket(error: Exception) -> str:
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        advice = ": give its key by model_key_file" if status in KEY_REFUSED else ", expected a WebSocket"
        return f"it answers with HTTP status {status}{advice}"
    if isinstance(error.__cause__, EOFError):
        return "it has closed the connection before it answered"
    return f"it does not answer as a WebSocket: {shortened(str(error))}"
