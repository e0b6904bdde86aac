"""Where `streaming-vla serve` listens, and whom it lets in."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

MOST_KEY_BYTES = 1024


@dataclass(frozen=True)
class ServeOptions:
    """Address and key of a server.

    Args:
        host: name or address to listen at.
        port: 0: any that is free.
        key_file: a file whose one line clients send as their key; None: nobody is asked, which only loopback allows.
        idle_s: after so many seconds without a request a client's session may be given to another one.

    Raises:
        ValueError: a number out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    key_file: Path | None = None
    idle_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port is {self.port}, expected 0 to 65535")
        if not 0.0 <= self.idle_s < float("inf"):
            raise ValueError(f"idle_s is {self.idle_s}, expected seconds of 0 or more")


def bind(options: ServeOptions, key: str) -> socket.socket:
    """Return a socket that has the address; it does not listen yet.

    Args:
        key: of `read_key`, empty: none.

    Raises:
        ValueError: no such host, the address is taken, or others can reach it and there is no key.
    """
    where = f"{options.host}:{options.port}"
    try:
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"--host {options.host} is no address of this machine: {_line(error)}") from error
    family, kind, protocol, _, address = found[0]
    if not key and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise ValueError(
            f"--host {options.host} can be reached from other machines: give a key with --key-file (a file with one "
            "line, which clients send as Authorization: Api-Key ...), or listen at 127.0.0.1"
        )
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise ValueError(f"the server cannot listen at {where}: {_line(error)}; choose another --port") from error
    return listening


def read_key(file: Path | None) -> str:
    """Return the key in a file, empty without one.

    Raises:
        ValueError: it cannot be read, is empty, or holds more than one line of printable ASCII.
    """
    if file is None:
        return ""
    try:
        with file.open("rb") as opened:
            data = opened.read(MOST_KEY_BYTES + 1)
    except OSError as error:
        raise ValueError(f"--key-file {file} cannot be read: {_line(error)}") from error
    key = data.decode("ascii", errors="replace").strip()
    if not key or not key.isascii() or not key.isprintable() or len(data) > MOST_KEY_BYTES:
        raise ValueError(f"--key-file {file} holds no key: expected one line of printable ASCII characters")
    return key


def _line(error: OSError | UnicodeError) -> str:
    return getattr(error, "strerror", None) or str(error)
