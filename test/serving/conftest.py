"""A server in this process, on a thread of its own, and a client that speaks its messages."""

from __future__ import annotations

import asyncio
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import ClientConnection, connect

from streaming_vla.engine.cache import EngineOptions, engine_options
from streaming_vla.engine.options import CacheOptions
from streaming_vla.policies.contract import FlowPolicy, PolicySpec
from streaming_vla.policies.remote.wire import pack, unpack
from streaming_vla.serving.chunks import Chunks
from streaming_vla.serving.options import ServeOptions, bind
from streaming_vla.serving.server import PolicyServer

sys.path.insert(0, str(Path(__file__).parent))  # the tests of this folder import `policies`
MOST = 1 << 24


class Served:
    """A running server."""

    def __init__(
        self, policy: FlowPolicy, sessions: int, key: str, idle_s: float, cache: CacheOptions, keys: Any
    ) -> None:
        self._policy, self._sessions, self._key, self._idle_s = policy, sessions, key, idle_s
        self._options: EngineOptions = engine_options(cache, policy.spec.tokens_per_observation, sessions)
        self._keys = keys
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._ready.wait(10.0), "the server does not start"

    def client(self, **headers: str) -> Client:
        """Return a client."""
        return Client(self.address, headers)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Return what a page answers."""
        request = urllib.request.Request(f"http://{self.address}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10.0) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20.0)
        assert not self._thread.is_alive(), "the server does not end"

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.chunks = Chunks(self._policy, self._options)
        with bind(ServeOptions(port=0), "") as listening:
            server = await PolicyServer(self.chunks, self._sessions, self._key, self._idle_s, self._keys).listen(
                listening
            )
            self.port = listening.getsockname()[1]
            self._ready.set()
            await self._stop.wait()
            server.close()
            await server.wait_closed()
        await self.chunks.close(5.0)


class Client:
    """Speaks the messages of openpi as any program would."""

    def __init__(self, address: str, headers: dict[str, str] | None = None) -> None:
        self._open = ExitStack()
        opening = connect(
            f"ws://{address}", additional_headers=headers, compression=None, max_size=None, open_timeout=10.0
        )
        self.socket: ClientConnection = self._open.enter_context(opening)
        self.greeting = unpack(self.socket.recv(10.0), MOST)

    def say(self, request: Any) -> Any:
        """Send a message; return the answer, a text when it is refused."""
        self.socket.send(request if isinstance(request, bytes | str) else pack(request))
        answer = self.socket.recv(20.0)
        return answer if isinstance(answer, str) else unpack(answer, MOST)

    def actions(self, request: dict[str, Any]) -> np.ndarray:
        """Return the chunk of a request that is served."""
        answer = self.say(request)
        assert not isinstance(answer, str), answer
        return np.array(answer["actions"])

    def close(self) -> None:
        self._open.close()


def request_of(spec: PolicySpec, state: Any, seed: int = 0, instruction: str = "open", **more: Any) -> dict[str, Any]:
    """Return a request with pictures of noise."""
    random = np.random.default_rng(seed)
    size = (spec.image_size, spec.image_size, 3)
    pictures = {f"observation/images/{camera}": random.integers(0, 256, size, np.uint8) for camera in spec.cameras}
    told = {f"streaming_vla/{name}": value for name, value in more.items()}
    return {**pictures, "observation/state": np.asarray(state, np.float64), "prompt": instruction, **told}


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Return a function that starts a server; all are ended at the end of the test."""
    made: list[Served] = []

    def start(
        policy: FlowPolicy,
        sessions: int = 2,
        key: str = "",
        idle_s: float = 30.0,
        cache: CacheOptions | None = None,
        keys: Any = None,
    ) -> Served:
        made.append(Served(policy, sessions, key, idle_s, cache or CacheOptions(), keys))
        return made[-1]

    yield start
    for served in made:
        served.close()
