"""The server: openpi's WebSocket with one session of the engine for each client."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from streaming_vla.engine.refused import Refused
from streaming_vla.policies.contract import PolicySpec
from streaming_vla.policies.remote.keys import DELAY_KEY, EPISODE_KEY, OPTIONAL_KEY, PLANNED_KEY, Keys, generic_keys
from streaming_vla.policies.remote.spec_metadata import SPEC_KEY, spec_to_metadata
from streaming_vla.policies.remote.wire import WireError, pack
from streaming_vla.serving.chunks import Chunk, Chunks
from streaming_vla.serving.clients import Client, Figures
from streaming_vla.serving.pages import Doorman
from streaming_vla.serving.request import Request, Requests
from streaming_vla.serving.seats import Seats, SeatsFull

LOGGER = logging.getLogger(__name__)
OPEN_S = 10.0  # for the request that opens a connection
SEND_S = 10.0  # a client that does not read its answer for so long is let go
PING_S = 20.0  # a client that does not answer one within that time again is gone
CLOSE_S = 1.0
SPARE_CONNECTIONS = 16  # beside one for each session: of clients that have not asked anything
WRONG, LATER = 1011, 1013  # codes of a closed connection; openpi's server uses the first one for every error
Result = TypeVar("Result")


class _GoneError(Exception):
    """The client has left while its request was worked on."""


class PolicyServer:
    """Serves a policy's chunks; `listen` begins it, to be used by one event loop.

    Args:
        chunks: of the policy.
        sessions: clients that may have a session at the same time.
        key: that clients have to send; empty: none.
        idle_s: see Seats.
        keys: of the messages; None: those of `generic_keys`.
    """

    def __init__(
        self, chunks: Chunks, sessions: int, key: str = "", idle_s: float = 30.0, keys: Keys | None = None
    ) -> None:
        self._chunks = chunks
        self._spec = chunks.spec
        self._keys = keys or generic_keys(self._spec)
        self._requests = Requests(self._spec, self._keys)
        self._seats: Seats[Client] = Seats(sessions, idle_s)
        self._figures = Figures()
        self._closing: set[asyncio.Task[None]] = set()  # connections that end
        self._most = sessions + SPARE_CONNECTIONS
        self._greeting = pack(greeting(self._spec, keys is None))
        self._doorman = Doorman(
            key, self._report, chunks.stuck_s, lambda: len(self._figures.clients) >= self._most, self._count
        )

    async def listen(self, listening: socket.socket) -> Server:
        """Begin to serve at a socket that has an address; close what is returned to end it."""
        return await serve(
            self._serve,
            sock=listening,
            process_request=self._doorman.answer,
            origins=[None],  # no page of a browser may use a server of its machine
            compression=None,
            max_size=self._requests.most_bytes,
            max_queue=1,
            open_timeout=OPEN_S,
            ping_interval=PING_S,
            ping_timeout=PING_S,
            close_timeout=CLOSE_S,
            server_header=None,
        )

    async def _serve(self, connection: ServerConnection) -> None:
        client = Client(connection)
        self._figures.clients.add(client)
        try:
            await self._send(client, self._greeting)
            async for message in connection:
                begin_s = time.monotonic()
                answer, code = await self._answer(client, message)
                await self._send(client, answer)
                client.previous_s = time.monotonic() - begin_s
                if code is not None:
                    await connection.close(code)
                    return
        except (ConnectionClosed, _GoneError):
            pass
        finally:
            self._figures.clients.discard(client)
            session = self._seats.leave(client)
            if session is not None:  # what it has in work keeps nobody waiting
                self._chunks.begin(session, self._seats.new_episode())

    async def _answer(self, client: Client, message: bytes | str) -> tuple[bytes | str, int | None]:
        """Return the answer to a message, a text when it is refused, and the code to close the connection with."""
        try:
            request = self._requests.read(message)
            session, episode = self._enter(client, request)
        except WireError as error:
            self._count("bad_request")
            return str(error), WRONG
        except SeatsFull as error:
            self._count("sessions_full")
            return str(error), LATER
        client.sequence += 1
        begin_s = time.monotonic()
        try:
            asked = self._chunks.ask(session, episode, client.sequence, request)
            chunk = await _while_open(client.connection, asked)
        except Refused as refused:
            self._count(refused.code)
            return refused.reason, None
        finally:
            self._seats.work(client, time.monotonic(), busy=False)
        infer_s = time.monotonic() - begin_s
        client.requests += 1
        self._figures.infer.add(infer_s)
        return pack(_reply(chunk, self._keys, infer_s, client.previous_s)), None

    def _enter(self, client: Client, request: Request) -> tuple[str, int]:
        """Return session and episode of a client's request; both are new with the first, the episode when it says so.

        Raises:
            SeatsFull: there is no session for it.
        """
        now = time.monotonic()
        session = self._seats.of(client)
        if session is None:
            session, lost = self._seats.take(client, now)
            client.episode = self._seats.new_episode()
            if lost is not None:
                self._count("session_taken")
                reason = "its session went to another client, as it was idle"
                closing = asyncio.get_running_loop().create_task(lost.connection.close(LATER, reason))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
        elif request.episode != client.told:
            client.episode = self._seats.new_episode()
        client.told = request.episode
        self._seats.work(client, now, busy=True)
        return session, client.episode

    async def _send(self, client: Client, message: bytes | str) -> None:
        try:
            await asyncio.wait_for(client.connection.send(message), SEND_S)
        except asyncio.TimeoutError:
            self._count("does_not_read")
            client.connection.transport.abort()
            raise _GoneError from None

    def _report(self) -> dict[str, Any]:
        sessions = {client: self._seats.of(client) or "" for client in self._figures.clients}
        return self._figures.report(self._spec.name, sessions, self._chunks.engine.counts(), self._chunks.stuck_s())

    def _count(self, code: str) -> None:
        self._figures.refused[code] += 1


def greeting(spec: PolicySpec, generic: bool = True) -> dict[str, Any]:
    """Return the metadata that every client gets first.

    Its `action_horizon` are the rows of a chunk, as openpi says it; a request may have the optional keys beside those
    of the policy. The spec is told with generic keys only: a client that reads it takes those.
    """
    told = {SPEC_KEY: spec_to_metadata(spec)} if generic else {}
    optional = [EPISODE_KEY, PLANNED_KEY, DELAY_KEY]
    return {"name": spec.name, "action_horizon": spec.trained_horizon, **told, OPTIONAL_KEY: optional}


def _reply(chunk: Chunk, keys: Keys, infer_s: float, previous_s: float | None) -> dict[str, Any]:
    timing = {"infer_ms": 1000.0 * infer_s, "queued_ms": 1000.0 * chunk.queued_s}
    if previous_s is not None:
        timing["prev_total_ms"] = 1000.0 * previous_s
    ends = np.cumsum(list(keys.actions.values()))[:-1]
    return {
        **dict(zip(keys.actions, np.split(chunk.actions, ends, axis=1), strict=True)),
        "policy_timing": {"infer_ms": 1000.0 * chunk.model_s},
        "server_timing": timing,
    }


async def _while_open(connection: ServerConnection, work: Coroutine[Any, Any, Result]) -> Result:
    """Return what `work` returns; _GoneError when the connection is lost first."""
    doing, lost = asyncio.ensure_future(work), asyncio.ensure_future(connection.wait_closed())
    try:
        await asyncio.wait({doing, lost}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise _GoneError
        return doing.result()
    finally:
        doing.cancel()
        lost.cancel()
