"""Clients that are hostile, silent, slow or without the key: each gets one sentence, and nobody else notices."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from conftest import Served, request_of
from policies import SPEC, Summing, Wide
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from streaming_vla.policies.remote.wire import pack
from streaming_vla.serving import pages, server
from streaming_vla.serving.options import ServeOptions, bind, read_key

Serve = Callable[..., Served]
GOOD = request_of(SPEC, [1.0, 0.0])
FRONT = "observation/images/front"
STATE = "observation/state"


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name != key}


def array(**changes: Any) -> bytes:
    """Return a message whose picture is a map that lies about itself."""
    told = {b"__ndarray__": True, b"data": b"\0" * 768, b"dtype": "|u1", b"shape": [16, 16, 3]}
    told |= {name.encode(): value for name, value in changes.items()}
    return msgpack.packb({**pack_plain(without(FRONT)), FRONT: told})


def pack_plain(request: dict[str, Any]) -> dict[str, Any]:
    return msgpack.unpackb(pack(request), strict_map_key=False)


HOSTILE: dict[str, tuple[Any, str]] = {
    "a text": ("hello", "a text came"),
    "nothing": (b"", "cut"),
    "noise": (b"\xc1\xff\x00noise", "extension"),
    "a cut message": (pack(GOOD)[:-5], "cut"),
    "two messages in one": (pack(GOOD) * 2, "goes on"),
    "a list": ([1, 2], "expected a map"),
    "a number": (3, "expected a map"),
    "an empty map": ({}, "has no"),
    "no picture": (without(FRONT), f"has no {FRONT}"),
    "no state": (without(STATE), f"has no {STATE}"),
    "no prompt": (without("prompt"), "has no prompt"),
    "keys of LIBERO": ({"observation/image": GOOD[FRONT], "prompt": "x"}, "observation/images/front"),
    "an unknown key": ({**GOOD, "kill": True}, "has kill"),
    "a picture of text": ({**GOOD, FRONT: "picture"}, "is a str"),
    "a picture of floats": ({**GOOD, FRONT: np.zeros((16, 16, 3))}, "float64"),
    "a picture without colours": ({**GOOD, FRONT: np.zeros((16, 16), np.uint8)}, "shape (16, 16)"),
    "an empty picture": ({**GOOD, FRONT: np.zeros((0, 16, 3), np.uint8)}, "shape (0, 16, 3)"),
    "a very wide picture": ({**GOOD, FRONT: np.zeros((1, 9000, 3), np.uint8)}, "at most 8192"),
    "objects": (array(dtype="|O"), "only numbers"),
    "too few bytes": (array(shape=[16, 16, 4]), "expected 1024"),
    "a negative size": (array(shape=[-1, 16, 3]), "sizes"),
    "a huge shape": (array(shape=[2**40, 2**40, 3]), "bytes"),
    "a claimed list": (b"\xdd\xff\xff\xff\xff", "claims"),
    "deep": (b"\x91" * 1000 + b"\x00", "deep"),
    "a long state": ({**GOOD, STATE: np.zeros(3)}, "shape (3,)"),
    "a state of text": ({**GOOD, STATE: ["a", "b"]}, "no array of numbers"),
    "a state with NaN": ({**GOOD, STATE: np.array([np.nan, 0.0])}, "not finite"),
    "a state of a map": ({**GOOD, STATE: {"x": 1}}, "is a dict"),
    "a prompt of numbers": ({**GOOD, "prompt": 5}, "expected text"),
    "a long prompt": ({**GOOD, "prompt": "x" * 5000}, "at most 4096"),
    "an episode below 0": ({**GOOD, "streaming_vla/episode": -1}, "whole number"),
    "an episode of text": ({**GOOD, "streaming_vla/episode": "1"}, "whole number"),
    "planned of another size": ({**GOOD, "streaming_vla/planned": np.zeros((2, 3))}, "shape (2, 3)"),
    "planned with infinity": ({**GOOD, "streaming_vla/planned": np.full((1, 2), np.inf)}, "not finite"),
    "a delay that is none": ({**GOOD, "streaming_vla/delay": True}, "whole number"),
}


def test_hostile_messages_get_one_sentence_and_hurt_nobody(serve: Serve) -> None:
    served = serve(Summing())
    good = served.client()
    for name, (message, expected) in HOSTILE.items():
        client = served.client()
        answer = client.say(message)
        assert isinstance(answer, str) and expected in answer, f"{name}: {answer}"
        assert "\n" not in answer and "Traceback" not in answer and len(answer) < 500, name
        with pytest.raises(ConnectionClosed):
            client.socket.recv(5.0)
        client.close()
        assert good.actions(GOOD).shape == (4, 2), name
    assert len(HOSTILE) >= 30
    refused = json.loads(served.get("/status")[1])["refused"]
    assert refused == {"bad_request": len(HOSTILE)}


def test_a_message_that_is_too_large_is_not_taken(serve: Serve) -> None:
    served = serve(Summing())
    client = served.client()
    with pytest.raises(ConnectionClosed) as closed:
        client.socket.send(b"\0" * (2 * 1920 * 1080 * 3 + (1 << 18) + 1))
        client.socket.recv(5.0)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
    assert served.client().actions(GOOD).shape == (4, 2)


def test_silent_and_slow_ones_take_no_session(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "OPEN_S", 0.5)
    served = serve(Summing(), sessions=1)
    silent = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(20)]  # no HTTP at all
    idle = [served.client() for _ in range(5)]
    half = served.client()
    half.socket.socket.sendall(b"\x82\xfe\xff\xff")  # the beginning of a frame
    begin_s = time.monotonic()
    client = served.client()
    assert client.actions(GOOD).shape == (4, 2)
    assert time.monotonic() - begin_s < 1.0
    silent[0].settimeout(5.0)
    assert silent[0].recv(1000) == b"", "it is not let go"
    half.socket.socket.close()
    for each in (*silent, *idle):
        each.close()


def test_one_that_does_not_read_is_let_go(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SEND_S", 0.2)
    served = serve(Wide())
    with socket.create_connection(("127.0.0.1", served.port)) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        _open(raw)
        frame = _frame(pack(GOOD))
        threading.Thread(target=lambda: _send_for_ever(raw, frame), daemon=True).start()
        _wait(lambda: _refused(served).get("does_not_read") == 1, "it is kept", 30.0)
    assert served.client().actions(GOOD).shape == (16, 400)


def test_there_are_only_so_many_connections(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SPARE_CONNECTIONS", 1)
    served = serve(Summing(), sessions=1)
    kept = [served.client(), served.client()]
    with pytest.raises(InvalidStatus) as refused:
        served.client()
    assert refused.value.response.status_code == 503
    assert kept[0].actions(GOOD).shape == (4, 2)
    assert served.get("/healthz") == (200, "OK\n")


def test_nobody_comes_in_without_the_key(serve: Serve) -> None:
    served = serve(Summing(), key="secret")
    for headers in ({}, {"Authorization": "Api-Key secre"}, {"Authorization": "Bearer secret"}):
        with pytest.raises(InvalidStatus) as refused:
            served.client(**headers)
        assert refused.value.response.status_code == 401
    client = served.client(Authorization="Api-Key secret")
    assert client.actions(GOOD).shape == (4, 2)
    assert served.get("/healthz") == (200, "OK\n")
    assert served.get("/status")[0] == served.get("/")[0] == 401
    code, text = served.get("/status", Authorization="Api-Key secret")
    assert code == 200 and json.loads(text)["refused"] == {"wrong_key": 5} and "secret" not in text


def test_no_page_of_a_browser_may_use_it(serve: Serve) -> None:
    served = serve(Summing())
    with pytest.raises(InvalidStatus) as refused, connect(f"ws://{served.address}", origin="http://evil.example"):
        pass
    assert refused.value.response.status_code == 403


def test_pages_tell_what_goes_on(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Summing()
    served = serve(policy)
    client = served.client()
    for _ in range(3):
        client.actions(GOOD)
    figures = json.loads(served.get("/status")[1])
    assert (figures["model"], figures["requests"]) == ("summing", 2), "the first one is warm-up"
    assert [each["requests"] for each in figures["clients"]] == [3]
    assert figures["engine"] == {"served.generate": 12, "served.prefill": 3}
    assert 0.0 < figures["infer_ms"]["p50"] <= figures["infer_ms"]["max"]
    code, page = served.get("/")
    assert code == 200 and "<h1>summing</h1>" in page and "requests 3" in page
    assert served.get("/other")[0] == 404
    client.socket.send(pack(request_of(SPEC, [-1.0, 0.0])))
    _wait(lambda: len(policy.seen) == 4, "it is not worked on")
    monkeypatch.setattr(pages, "STUCK_S", 0.0)
    code, text = served.get("/healthz")
    assert code == 503 and "restart" in text
    policy.gate.set_result(None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_others_reach_it_only_with_a_key(host: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--key-file"):
        bind(ServeOptions(host, 0), "")
    file = tmp_path / "key"
    for text, good in (("one line\n", True), ("", False), ("two\nlines", False), ("é", False), ("x" * 2000, False)):
        file.write_text(text, encoding="utf-8")
        if good:
            assert read_key(file) == "one line"
        else:
            with pytest.raises(ValueError, match="holds no key"):
                read_key(file)
    with pytest.raises(ValueError, match="cannot be read"):
        read_key(tmp_path / "missing")
    bind(ServeOptions("127.0.0.1", 0), "").close()
    with pytest.raises(ValueError, match="no address"):
        bind(ServeOptions("256.1.1.1", 0), "")


def _open(raw: socket.socket) -> None:
    """Open a WebSocket by hand."""
    raw.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert raw.recv(12) == b"HTTP/1.1 101"


def _frame(data: bytes) -> bytes:
    """Return a binary frame with the mask 0."""
    return b"\x82\xfe" + len(data).to_bytes(2, "big") + bytes(4) + data


def _send_for_ever(raw: socket.socket, frame: bytes) -> None:
    try:
        while True:
            raw.sendall(frame)
    except OSError:
        return


def _refused(served: Served) -> dict[str, int]:
    return json.loads(served.get("/status")[1])["refused"]


def _wait(condition: Callable[[], bool], complaint: str, timeout_s: float = 10.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, complaint
        time.sleep(0.02)
