"""groot://host:port: the client of a GR00T server (gr00t/eval/run_gr00t_server.py of Isaac-GR00T N1.6 and later).

What the checkpoint wants is asked of the server; sizes and limits of its numbers, which it does not tell, are in a
description. A new episode is told to the server by `reset`.
"""

from __future__ import annotations

import logging
import time
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from streaming_vla.policies.contract import PolicySpec, PolicyUnavailable
from streaming_vla.policies.errors import CheckpointError, shortened
from streaming_vla.policies.remote import groot_wire
from streaming_vla.policies.remote.description import read_description, with_cameras
from streaming_vla.policies.remote.exchange import chunk_of, parts, pictures, timing_of
from streaming_vla.policies.remote.keys import Keys
from streaming_vla.policies.remote.link import LinkError, Reconnecting
from streaming_vla.policies.remote.messages import WireError
from streaming_vla.policies.remote.modality import check_modalities
from streaming_vla.policies.remote.options import RemoteOptions
from streaming_vla.policies.remote.policy import Answer, Question, RemotePolicy
from streaming_vla.policies.remote.zeromq import RequestSocket

LOGGER = logging.getLogger(__name__)
PORT = 5555
OTHER_BYTES = 1 << 20  # of an answer, beside the chunk


def connect(address: str, options: RemoteOptions | None = None) -> RemotePolicy:
    """Return the policy that a GR00T server computes; until the server is there every observation is refused.

    Args:
        address: "host:5555".

    Raises:
        CheckpointError: the address is none, nothing describes the robot's messages, or the server is none that can be
            used.
    """
    options = options or RemoteOptions()
    who, host, port = _parsed(address)
    if not options.remote:
        raise CheckpointError(
            f"{who} does not tell sizes and limits of its actions: let model_remote be the path of a description"
        )
    spec, keys = read_description(options.remote)
    if keys.channels_first or not all(isinstance(key, str) for key in keys.images.values()):
        raise CheckpointError(f"model_remote '{options.remote}': GR00T takes pictures as [S, S, 3] under plain keys")
    served, named = with_cameras(spec, keys, options)
    key = options.key()
    most = 8 * spec.trained_horizon * spec.layout.size + OTHER_BYTES
    link = Reconnecting(who, lambda deadline_s: GrootLink(host, port, key, most, named, served, deadline_s))
    try:
        link.use(lambda _opened: None, time.monotonic() + options.timeout_s)
    except PolicyUnavailable as error:
        if not isinstance(error.__cause__, OSError):
            raise CheckpointError(str(error)) from error
        LOGGER.warning("%s; observations are refused until it answers", error)
    return RemotePolicy(GrootServer(link, served, named), served, options.timeout_s)


class GrootLink:
    """A connection whose server has said what its checkpoint wants.

    Args:
        key: the server's api_token; empty: none.
        most_bytes: of an answer.
        deadline_s: time.monotonic() by which it has to be there.

    Raises:
        LinkError: the checkpoint does not fit the description.
        WireError, OSError: the server answers something else, or not at all.
    """

    def __init__(
        self, host: str, port: int, key: str, most_bytes: int, keys: Keys, spec: PolicySpec, deadline_s: float
    ) -> None:
        self._key, self._most_bytes = key, most_bytes
        self._socket = RequestSocket(host, port, most_bytes, deadline_s)
        try:
            told = self.ask({"endpoint": "get_modality_config"}, deadline_s)
            self.instruction = check_modalities(told, keys, spec)
        except BaseException:
            self.close()
            raise

    def ask(self, request: dict[str, Any], deadline_s: float) -> Any:
        """Return the answer to a request; raises what the constructor raises."""
        message = groot_wire.pack(request | ({"api_token": self._key} if self._key else {}))
        received = self._socket.ask(message, deadline_s)
        if received == b"ERROR":
            raise LinkError("it says ERROR: see its log")
        found = groot_wire.unpack(received, self._most_bytes)
        if isinstance(found, dict) and "error" in found:
            raise LinkError(f"it says: {shortened(found['error'])}{': model_key_file' if _unauthorized(found) else ''}")
        return found

    def usable(self) -> bool:
        """See Link."""
        return self._socket.usable()

    def close(self) -> None:
        """See Link."""
        self._socket.close()


class GrootServer:
    """A GR00T server; see Server."""

    def __init__(self, link: Reconnecting[GrootLink], spec: PolicySpec, keys: Keys) -> None:
        self._link, self._spec, self._keys = link, spec, keys

    @property
    def address(self) -> str:
        """For people."""
        return self._link.address

    def ask(self, question: Question, deadline_s: float) -> Answer:
        """Return the chunk of an observation; see Server."""
        return self._link.use(lambda link: self._exchange(link, question, deadline_s), deadline_s)

    def _exchange(self, link: GrootLink, question: Question, deadline_s: float) -> Answer:
        if question.begins:
            link.ask({"endpoint": "reset", "data": {"options": None}}, deadline_s)
        observation = {
            "video": {key: picture[None, None] for key, picture in pictures(question.images, self._keys)},
            "state": {key: part[None, None] for key, part in parts(question.state, self._keys.state)},
            "language": {link.instruction: [[question.instruction]]},
        }
        request = {"endpoint": "get_action", "data": {"observation": observation, "options": None}}
        found = link.ask(request, deadline_s)
        if not isinstance(found, list) or len(found) != 2 or not isinstance(found[0], dict):
            raise WireError(f"its answer is a {type(found).__name__}, expected a map of actions and one of remarks")
        one = {key: _only(key, value) for key, value in found[0].items()}
        return Answer(chunk_of(one, self._keys, self._spec), timing_of(found[1]))


def _only(key: object, value: object) -> object:
    """Return what an array [1, H, numbers] of a batch of one holds."""
    if not isinstance(value, np.ndarray):
        return value
    if value.ndim != 3 or len(value) != 1:
        raise WireError(f"its '{shortened(key)}' has shape {value.shape}, expected a batch of one, (1, H, numbers)")
    return value[0]


def _unauthorized(found: dict[Any, Any]) -> bool:
    return "nauthorized" in str(found["error"])


def _parsed(address: str) -> tuple[str, str, int]:
    who = f"groot://{shortened(address)}"
    try:
        found = urlsplit(f"//{address}")
        host, port = found.hostname, found.port or PORT
    except ValueError:
        host, port = None, 0
    if not host or found.path or found.query or found.username:
        raise CheckpointError(f"'{who}' is no address, expected groot://host:5555")
    return who, host, port
