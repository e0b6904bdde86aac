"""openpi://host:port: the client of an openpi server (openpi's serve_policy, vLLM-Omni, `streaming-vla serve`).

The server greets with its metadata; then every message is a question and every answer a chunk. It keeps no session: a
new episode is nothing to it, except for our own server, which is told the episode's number.
"""

from __future__ import annotations

import logging
import time
from contextlib import closing
from typing import Any

from websockets.exceptions import InvalidURI
from websockets.uri import WebSocketURI, parse_uri

from streaming_vla.policies.contract import PolicySpec, PolicyUnavailable
from streaming_vla.policies.errors import CheckpointError, listed, shortened
from streaming_vla.policies.remote import wire
from streaming_vla.policies.remote.description import read_description, with_cameras
from streaming_vla.policies.remote.exchange import chunk_of, parts, pictures, timing_of
from streaming_vla.policies.remote.keys import DELAY_KEY, EPISODE_KEY, OPTIONAL_KEY, PLANNED_KEY, Keys, generic_keys
from streaming_vla.policies.remote.link import LinkError, Reconnecting
from streaming_vla.policies.remote.messages import WireError
from streaming_vla.policies.remote.options import RemoteOptions
from streaming_vla.policies.remote.policy import Answer, Question, RemotePolicy
from streaming_vla.policies.remote.spec_metadata import SPEC_KEY, spec_from_metadata
from streaming_vla.policies.remote.websocket import WebSocket

LOGGER = logging.getLogger(__name__)
PORT = 8000
GREETING_BYTES = 1 << 18
OTHER_BYTES = 1 << 20  # of an answer, beside the chunk
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def connect(address: str, options: RemoteOptions | None = None) -> RemotePolicy:
    """Return the policy that an openpi server computes.

    A server whose messages are described may come later: until then every observation is refused.

    Args:
        address: "host:8000", or with TLS "wss://host".
        options: None: the server says everything.

    Raises:
        CheckpointError: the address is none, nobody says what the policy is fed, the server is none that can be used,
            or it is to say what it is fed and cannot be reached.
    """
    options = options or RemoteOptions()
    who, where = _parsed(address)
    key = options.key()
    if key and not where.secure and where.host not in LOOPBACK:
        LOGGER.warning("%s: the key travels in the clear; openpi:wss://... encrypts it", who)
    described = read_description(options.remote) if options.remote else None
    with closing(Reconnecting(who, lambda deadline_s: OpenpiLink(where, key, GREETING_BYTES, deadline_s))) as first:
        greeting = _greeting(first, options.timeout_s, may_come_later=described is not None)
    told = greeting.get(SPEC_KEY)
    if described is not None and told is not None:
        raise CheckpointError(f"{who} says itself what its policy is fed: leave model_remote empty")
    if described is None and told is None:
        raise CheckpointError(
            f"{who} does not say what its policy is fed (its greeting has {listed(map(str, greeting)) or 'nothing'}): "
            "let model_remote be libero, droid, aloha, or the path of a description"
        )
    try:
        spec, keys = described or _told(told, who)
        served = with_cameras(spec, keys, options)
    except WireError as error:
        raise CheckpointError(str(error)) from error
    largest = 8 * spec.trained_horizon * spec.layout.size + OTHER_BYTES
    link = Reconnecting(who, lambda deadline_s: OpenpiLink(where, key, largest, deadline_s))
    return RemotePolicy(OpenpiServer(link, *served, wire.pack(told)), served[0], options.timeout_s)


class OpenpiLink:
    """A connection, greeted.

    Args:
        where: the server.
        key: that it wants; empty: none.
        largest: bytes of an answer; a greeting may have GREETING_BYTES.
        deadline_s: time.monotonic() by which it has to be there.

    Raises:
        LinkError, WireError, OSError: there is none, or the greeting is none.
    """

    def __init__(self, where: WebSocketURI, key: str, largest: int, deadline_s: float) -> None:
        headers = {"Authorization": f"Api-Key {key}"} if key else {}
        self._largest = max(largest, GREETING_BYTES)
        self._socket = WebSocket(where, headers, self._largest, deadline_s)
        try:
            self.greeting = self._receive("greeting", GREETING_BYTES, deadline_s)
        except BaseException:
            self.close()
            raise

    def ask(self, message: dict[str, Any], deadline_s: float) -> dict[Any, Any]:
        """Return the answer to a message; raises what the constructor raises."""
        self._socket.send(wire.pack(message), deadline_s)
        return self._receive("answer", self._largest, deadline_s)

    def usable(self) -> bool:
        """See Link."""
        return self._socket.usable()

    def close(self) -> None:
        """See Link."""
        self._socket.close()

    def _receive(self, what: str, most: int, deadline_s: float) -> dict[Any, Any]:
        received = self._socket.receive(deadline_s)
        if isinstance(received, str):  # a traceback, the error at its end
            said = next((line for line in reversed(received.splitlines()) if line.strip()), "nothing")
            raise LinkError(f"it says: {shortened(said.strip())}")
        found = wire.unpack(received, most)
        if not isinstance(found, dict):
            raise WireError(f"its {what} is a {type(found).__name__}, expected a map")
        return found


class OpenpiServer:
    """An openpi server; see Server.

    Args:
        told: the spec of its greeting as it was packed when the policy was loaded.
    """

    def __init__(self, link: Reconnecting[OpenpiLink], spec: PolicySpec, keys: Keys, told: bytes) -> None:
        self._link, self._spec, self._keys, self._told = link, spec, keys, told

    @property
    def address(self) -> str:
        """For people."""
        return self._link.address

    def ask(self, question: Question, deadline_s: float) -> Answer:
        """Return the chunk of an observation; see Server."""
        return self._link.use(lambda link: self._exchange(link, question, deadline_s), deadline_s)

    def _exchange(self, link: OpenpiLink, question: Question, deadline_s: float) -> Answer:
        if wire.pack(link.greeting.get(SPEC_KEY)) != self._told:
            raise LinkError("it serves another policy than the one that was loaded: restart the node inference")
        message = self._message(question) | _taken(question, link.greeting.get(OPTIONAL_KEY))
        found = link.ask(message, deadline_s)
        return Answer(chunk_of(found, self._keys, self._spec), timing_of(found.get("server_timing")))

    def _message(self, question: Question) -> dict[str, Any]:
        keys, message = self._keys, dict[str, Any]()
        for key, picture in pictures(question.images, keys):
            *folders, name = (key,) if isinstance(key, str) else key
            place = message
            for folder in folders:
                place = place.setdefault(folder, {})
            place[name] = picture
        message |= parts(question.state, keys.state)
        message[keys.instruction] = question.instruction
        return message


def _taken(question: Question, optional: Any) -> dict[str, Any]:
    """Return what only our own server takes, of the keys that its greeting names."""
    extras: dict[str, Any] = {EPISODE_KEY: question.episode}
    if question.planned is not None:
        extras |= {PLANNED_KEY: question.planned.actions, DELAY_KEY: question.planned.delay}
    return {key: value for key, value in extras.items() if isinstance(optional, list) and key in optional}


def _told(told: Any, who: str) -> tuple[PolicySpec, Keys]:
    spec = spec_from_metadata(told, who)
    return spec, generic_keys(spec)


def _greeting(link: Reconnecting[OpenpiLink], timeout_s: float, may_come_later: bool) -> dict[Any, Any]:
    try:
        return link.use(lambda opened: opened.greeting, time.monotonic() + timeout_s)
    except PolicyUnavailable as error:
        if not may_come_later or not isinstance(error.__cause__, OSError):
            raise CheckpointError(str(error)) from error
        LOGGER.warning("%s; observations are refused until it answers", error)
        return {}


def _parsed(address: str) -> tuple[str, WebSocketURI]:
    """Return how the server is called in sentences, and where it is."""
    has_scheme = address.startswith(("ws://", "wss://"))
    who = f"openpi:{shortened(address)}" if has_scheme else f"openpi://{shortened(address)}"
    try:
        if "://" in address and not has_scheme:
            raise ValueError(address)
        where = parse_uri(address if has_scheme else f"ws://{address}")
        port = where.port if has_scheme or _has_port(address) else PORT
    except (InvalidURI, ValueError) as error:
        raise CheckpointError(f"'{who}' is no address, expected openpi://host:8000 or openpi:wss://host") from error
    if where.user_info is not None:
        raise CheckpointError(f"the address of the server on {where.host} holds a password: use model_key_file")
    return who, WebSocketURI(where.secure, where.host, port, where.path, where.query)


def _has_port(address: str) -> bool:
    return address.partition("/")[0].rpartition(":")[2].isdigit()
