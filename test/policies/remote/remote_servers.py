"""Servers of openpi and GR00T for tests: well-behaved ones whose every step can be replaced by a bad one."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import torch
import yaml
import zmq
from websockets.exceptions import WebSocketException
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from kv_cache.cache import CacheView
from streaming_vla.policies.contract import PolicyObservation, prefill_whole
from streaming_vla.policies.remote import groot_wire, wire
from streaming_vla.policies.remote.policy import RemotePolicy

HORIZON, SIZE = 5, 32
TIMEOUT_S = 0.3
SILENT = "has not answered within"
SPEC = {
    "name": "toy",
    "image_size": SIZE,
    "action_names": ["dx", "grip"],
    "action_absolute": [False, True],
    "action_low": [-1.0, -1.0],
    "action_high": [100.0, 100.0],
    "action_initial": [0.0, 0.0],
    "trained_horizon": HORIZON,
    "execution_horizon": 3,
}
OPENPI_KEYS = {
    "images": {"front": "observation/image", "wrist": ["more", "wrist"]},
    "state": {"observation/joints": 2, "observation/gripper": 1},
    "instruction": "prompt",
    "actions": {"actions": 2},
}
GROOT_KEYS = {
    "images": {"front": "front", "wrist": "wrist"},
    "state": {"single_arm": 2, "gripper": 1},
    "actions": {"single_arm": 1, "gripper": 1},
}
EMPTY = CacheView(torch.zeros(1, 1, 0, 2), torch.zeros(1, 1, 0, 2), 0)


def described(folder: Path, keys: dict[str, Any], **changes: Any) -> str:
    """Write a description and return its path."""
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump({**SPEC, "keys": keys, **changes}, sort_keys=False))
    return str(path)


def seen(mark: float) -> PolicyObservation:
    """Return an observation that is known by its mark."""
    images = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    images[1] = 200
    return PolicyObservation(images, np.array([mark, 1.0, 2.0], np.float32), "open")


def rows_of(mark: float) -> npt.NDArray[np.float32]:
    """Return the chunk that a good server gives to an observation."""
    return np.stack([np.arange(HORIZON) / 10, np.full(HORIZON, mark)], axis=1).astype(np.float32)


def asked(policy: RemotePolicy, mark: float, view: CacheView = EMPTY) -> npt.NDArray[np.float64]:
    """Return the chunk of an observation."""
    rows: npt.NDArray[np.float64] = prefill_whole(policy, seen(mark), view).context
    return rows


class Peer:
    """A WebSocket as a server has it, with the bytes below within reach."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._protocol = ServerProtocol(max_size=None)
        self._events: list[Any] = []

    def request(self) -> Request:
        """Return the request of the upgrade."""
        request = self._next()
        assert isinstance(request, Request)
        return request

    def upgrade(self) -> Request:
        """Become a WebSocket."""
        request = self.request()
        self._protocol.send_response(self._protocol.accept(request))
        self._write()
        return request

    def receive(self) -> bytes:
        """Return the next message."""
        parts = b""
        while True:
            frame = self._next()
            if isinstance(frame, Frame) and frame.opcode in DATA_OPCODES:
                parts += frame.data
                if frame.fin:
                    return parts

    def pong(self) -> bytes:
        """Return what the next pong holds."""
        frame = self._next()
        assert isinstance(frame, Frame) and frame.opcode is Opcode.PONG
        return bytes(frame.data)

    def send(self, value: Any) -> None:
        """Send a value as openpi does, or bytes as they are."""
        self._protocol.send_binary(value if isinstance(value, bytes) else wire.pack(value))
        self._write()

    def text(self, text: bytes) -> None:
        """Send a text frame."""
        self._protocol.send_text(text)
        self._write()

    def leave(self, code: int, reason: str) -> None:
        """Send a closing frame."""
        self._protocol.send_close(code, reason)
        self._write()

    def _next(self) -> Any:
        while not self._events:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError
            self._protocol.receive_data(data)
            self._write()
            self._events += self._protocol.events_received()
        return self._events.pop(0)

    def _write(self) -> None:
        for data in self._protocol.data_to_send():
            self.socket.sendall(data)


def greet(peer: Peer) -> None:
    """Do what an openpi server does first."""
    peer.upgrade()
    peer.send({"name": "toy"})


def answer(peer: Peer, question: dict[Any, Any]) -> None:
    """Do what an openpi server does with a question."""
    mark = float(question["observation/joints"][0])
    peer.send({"actions": rows_of(mark), "server_timing": {"infer_ms": 3.5}})


class OpenpiToy:
    """An openpi server on a port of its own; `greet` and `answer` may be replaced at any time."""

    def __init__(self) -> None:
        self.greet: Callable[[Peer], object] = greet
        self.answer: Callable[[Peer, dict[Any, Any]], object] = answer
        self.wrap: Callable[[socket.socket], socket.socket] = lambda connection: connection
        self.questions: list[dict[Any, Any]] = []
        self._open: list[socket.socket] = []
        self.port = 0
        self.listen()

    def listen(self) -> None:
        """Accept connections, on the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def deaf(self) -> None:
        """Accept no connections any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def cut(self) -> None:
        """Break all connections."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        """End it."""
        self.deaf()
        self.cut()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, EOFError, WebSocketException):
            peer = Peer(self.wrap(connection))
            self.greet(peer)
            while True:
                question = wire.unpack(peer.receive(), 1 << 24)
                self.questions.append(question)
                self.answer(peer, question)


def modalities(**changes: Any) -> dict[str, Any]:
    """Return what a GR00T server says about its checkpoint; changes are [delta_indices, modality_keys]."""
    plain = {
        "video": ([0], ["front", "wrist"]),
        "state": ([0], ["single_arm", "gripper"]),
        "action": (list(range(HORIZON)), ["single_arm", "gripper"]),
        "language": ([0], ["annotation.human.task_description"]),
    }
    return {
        name: {"__ModalityConfig_class__": True, "as_json": {"delta_indices": indices, "modality_keys": keys}}
        for name, (indices, keys) in (plain | changes).items()
    }


def groot_actions(mark: float) -> dict[str, Any]:
    """Return the actions of a good answer."""
    rows = rows_of(mark)
    return {"single_arm": rows[None, :, :1], "gripper": rows[None, :, 1:]}


def groot_answer(request: dict[str, Any]) -> Any:
    """Return what a GR00T server answers."""
    endpoint = request["endpoint"]
    if endpoint == "get_modality_config":
        return modalities()
    if endpoint == "get_action":
        mark = float(request["data"]["observation"]["state"]["single_arm"][0, 0, 0])
        return [groot_actions(mark), {"infer_ms": 3.5}]
    return {}


class GrootToy:
    """A GR00T server on a port of its own; `answer` may be replaced: bytes, parts of a message, None: says nothing."""

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, Any]], Any] = groot_answer
        self.requests: list[dict[str, Any]] = []
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.listen()

    def listen(self) -> None:
        """Serve, on the same port as before."""
        self._over = threading.Event()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(self._over, ready), daemon=True)
        self._thread.start()
        assert ready.wait(5.0)

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._thread.join(5.0)

    def _serve(self, over: threading.Event, ready: threading.Event) -> None:
        # not REP, which would wait for its own answer after a question that it leaves unanswered
        served = zmq.Context.instance().socket(zmq.ROUTER)
        served.setsockopt(zmq.LINGER, 0)
        for _ in range(100):  # the port of a raw server is free a moment after its end
            with contextlib.suppress(zmq.ZMQError):
                served.bind(f"tcp://127.0.0.1:{self.port}")
                break
            time.sleep(0.02)
        ready.set()
        while not over.is_set():
            if not served.poll(10):
                continue
            sender, _, packed = served.recv_multipart()
            request = groot_wire.unpack(packed, 1 << 24)
            self.requests.append(request)
            said = self.answer(request)
            if said is None:
                continue
            parts = said if isinstance(said, tuple) else (said if isinstance(said, bytes) else groot_wire.pack(said),)
            served.send_multipart([sender, b"", *parts])
        served.close()


def array(data: bytes, dtype: Any, shape: Any) -> bytes:
    """Return an openpi answer whose array is told so, true or not."""
    told = {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}
    packed: bytes = msgpack.packb({"actions": told})
    return packed
