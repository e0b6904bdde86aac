"""The client of openpi servers: what is sent and taken, keys, TLS, episodes, and servers that come and go."""

from __future__ import annotations

import logging
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from remote_servers import (
    OPENPI_KEYS,
    SIZE,
    SPEC,
    TIMEOUT_S,
    OpenpiToy,
    Peer,
    asked,
    described,
    greet,
    rows_of,
    seen,
)
from websockets.sync.server import Request, Response, ServerConnection, serve

from kv_cache.cache import CacheView
from streaming_vla.policies.contract import PlannedActions, PolicyUnavailable, prefill_whole
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.remote import openpi, wire
from streaming_vla.policies.remote.keys import DELAY_KEY, EPISODE_KEY, OPTIONAL_KEY, PLANNED_KEY
from streaming_vla.policies.remote.options import RemoteOptions
from streaming_vla.policies.remote.policy import RemotePolicy

TOLD = {**SPEC, "cameras": ["front", "wrist"], "state_size": 3}
LONG_S = 10.0


def ours(peer: Peer, optional: Any = (EPISODE_KEY, PLANNED_KEY, DELAY_KEY)) -> None:
    """Greet as `streaming-vla serve` does."""
    peer.upgrade()
    peer.send({"name": "toy", "streaming_vla": TOLD, OPTIONAL_KEY: list(optional)})


def generic(peer: Peer, question: dict[Any, Any]) -> None:
    """Answer a question with generic keys."""
    peer.send({"actions": rows_of(float(question["observation/state"][0])).astype(np.float64)})


@pytest.fixture
def our_toy(openpi_toy: OpenpiToy) -> OpenpiToy:
    """A server that says everything itself."""
    openpi_toy.greet, openpi_toy.answer = ours, generic
    return openpi_toy


def connected(toy: OpenpiToy, **options: Any) -> RemotePolicy:
    """Return the policy of a server."""
    return openpi.connect(f"127.0.0.1:{toy.port}", RemoteOptions(**({"timeout_s": LONG_S} | options)))


def view_behind(policy: RemotePolicy, mark: float, view: CacheView) -> CacheView:
    """Ask, and return the view with the observation's token."""
    found = prefill_whole(policy, seen(mark), view)
    values = torch.cat((view.values, found.values), 2)
    return CacheView(torch.zeros_like(values), values, view.next_position + 1)


def test_a_server_of_the_websockets_library_as_openpi_runs_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    questions: list[dict[Any, Any]] = []
    headers: list[str | None] = []

    def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        headers.append(connection.request.headers.get("Authorization"))
        connection.send(wire.pack({"name": "toy"}))
        for message in connection:
            assert isinstance(message, bytes)
            questions.append(wire.unpack(message, 1 << 24))
            timing = {"infer_ms": 41.5, "prev_total_ms": np.float64(50.5), "note": "warm", "nan": float("nan")}
            rows = rows_of(float(questions[-1]["observation/joints"][0])).astype(np.float64)
            connection.send(wire.pack({"actions": rows, "server_timing": timing, "policy_timing": {"infer_ms": 40.0}}))

    def health(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(HTTPStatus.OK, "OK\n") if request.path == "/healthz" else None

    (tmp_path / "key").write_text("secret\n")
    with serve(
        handler, "127.0.0.1", 0, compression=None, max_size=None, process_request=health, close_timeout=0.1
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.socket.getsockname()[1]
        options = RemoteOptions(described(tmp_path, OPENPI_KEYS), tmp_path / "key", LONG_S)
        policy = openpi.connect(f"127.0.0.1:{port}", options)
        for mark in (4.0, 5.0):
            np.testing.assert_allclose(asked(policy, mark), rows_of(mark), rtol=1e-6)
        figures = policy.figures()
        server.shutdown()
    assert headers == ["Api-Key secret"] * 2, "one connection for the greeting, and one for all questions"
    ours = [record for record in caplog.records if record.name != "websockets.server"]
    assert not any("secret" in record.getMessage() for record in ours), "no log holds the key"
    assert figures["server"] == f"openpi://127.0.0.1:{port}" and figures["server_answered"] == 2
    assert figures["server_infer_ms"] == 41.5 and figures["server_prev_total_ms"] == 50.5
    assert isinstance(figures["server_round_trip_ms"], float) and "server_nan" not in figures
    question = questions[0]
    assert list(question) == ["observation/image", "more", "observation/joints", "observation/gripper", "prompt"]
    picture = question["more"]["wrist"]
    assert picture.shape == (SIZE, SIZE, 3) and picture.dtype == np.uint8 and picture.mean() == 200.0
    assert question["observation/joints"].tolist() == [4.0, 1.0] and question["observation/gripper"].tolist() == [2.0]
    assert question["observation/joints"].dtype == np.float32 and question["prompt"] == "open"


@pytest.mark.parametrize(
    ("name", "pictures", "shape", "state", "rows"),
    [
        (
            "libero",
            ["observation/image", "observation/wrist_image"],
            (224, 224, 3),
            {"observation/state": 8},
            (10, 7),
        ),
        (
            "droid",
            ["observation/exterior_image_1_left", "observation/wrist_image_left"],
            (224, 224, 3),
            {"observation/joint_position": 7, "observation/gripper_position": 1},
            (15, 8),
        ),
        ("aloha", ["cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist"], (3, 224, 224), {"state": 14}, (50, 14)),
    ],
)
def test_presets_send_what_openpis_policies_read(
    openpi_toy: OpenpiToy, name: str, pictures: list[str], shape: tuple[int, ...], state: dict[str, int], rows: Any
) -> None:
    openpi_toy.answer = lambda peer, _question: peer.send({"actions": np.zeros(rows, np.float32)})
    policy = connected(openpi_toy, remote=name)
    images = np.zeros((len(pictures), 224, 224, 3), np.uint8)
    images[-1, 0, 1, 2] = 9
    observation = replace(seen(0.0), images=images, state=np.arange(sum(state.values()), dtype=np.float32))
    empty = CacheView(torch.zeros(1, 1, 0, 2), torch.zeros(1, 1, 0, 2), 0)
    assert prefill_whole(policy, observation, empty).context.shape == rows
    [question] = openpi_toy.questions
    place = question["images"] if name == "aloha" else question
    assert [place[key].shape for key in pictures] == [shape] * len(pictures)
    assert place[pictures[-1]][(2, 0, 1) if name == "aloha" else (0, 1, 2)] == 9
    assert {key: len(question[key]) for key in state} == state
    assert np.concatenate([question[key] for key in state]).tolist() == observation.state.tolist()
    extra = {"images"} if name == "aloha" else set(pictures)
    assert set(question) == extra | set(state) | {"prompt"}


def test_our_server_says_everything_and_is_told_episodes_and_plans(our_toy: OpenpiToy) -> None:
    policy = connected(our_toy)
    assert policy.spec.cameras == ("front", "wrist") and policy.spec.trained_horizon == 5
    empty = CacheView(torch.zeros(1, 1, 0, 2), torch.zeros(1, 1, 0, 2), 0)
    first, second = (view_behind(policy, mark, empty) for mark in (1.0, 2.0))  # two robots
    for mark, view in ((3.0, first), (4.0, second), (5.0, first)):
        np.testing.assert_allclose(asked(policy, mark, view), rows_of(mark), rtol=1e-6)
    planned = PlannedActions(np.ones((2, 2)), 1)
    prefill_whole(policy, replace(seen(6.0), planned=lambda: planned), empty)
    assert [question[EPISODE_KEY] for question in our_toy.questions] == [1, 2, 1, 2, 1, 3]
    assert [PLANNED_KEY in question for question in our_toy.questions] == [False] * 5 + [True]
    assert our_toy.questions[-1][PLANNED_KEY].tolist() == [[1.0, 1.0]] * 2 and our_toy.questions[-1][DELAY_KEY] == 1
    assert list(our_toy.questions[0])[:4] == [
        "observation/images/front",
        "observation/images/wrist",
        "observation/state",
        "prompt",
    ]


def test_a_server_is_told_only_what_it_takes(our_toy: OpenpiToy) -> None:
    our_toy.greet = lambda peer: ours(peer, optional=())
    asked(connected(our_toy), 1.0)
    assert EPISODE_KEY not in our_toy.questions[0]


def test_cameras_of_the_robot(our_toy: OpenpiToy) -> None:
    policy = connected(our_toy, cameras={"hand": "wrist", "top": "front"})
    assert policy.spec.cameras == ("top", "hand")
    asked(policy, 1.0)
    assert our_toy.questions[0]["observation/images/wrist"].mean() == 200.0


def test_another_policy_behind_the_same_address_is_refused_until_the_node_restarts(our_toy: OpenpiToy) -> None:
    policy = connected(our_toy)
    asked(policy, 1.0)
    our_toy.cut()

    def other(peer: Peer) -> None:
        peer.upgrade()
        peer.send({"streaming_vla": TOLD | {"action_names": ["dy", "grip"]}})

    our_toy.greet = other
    with pytest.raises(PolicyUnavailable, match="it serves another policy than the one that was loaded"):
        asked(policy, 2.0)


def test_a_connection_that_ended_while_nothing_was_asked_costs_no_observation(our_toy: OpenpiToy) -> None:
    policy = connected(our_toy)
    for mark in (1.0, 2.0, 3.0):
        np.testing.assert_allclose(asked(policy, mark), rows_of(mark), rtol=1e-6)
        our_toy.cut()
        time.sleep(0.05)
    assert policy.figures()["server_failed"] == 0


def test_pings_between_questions_are_answered(our_toy: OpenpiToy) -> None:
    pongs: list[bytes] = []

    def answer(peer: Peer, question: dict[Any, Any]) -> None:
        generic(peer, question)
        time.sleep(0.05)
        peer.socket.sendall(b"\x89\x02hi")
        pongs.append(peer.pong())

    our_toy.answer = answer
    policy = connected(our_toy)
    asked(policy, 1.0)
    time.sleep(0.1)
    asked(policy, 2.0)
    assert pongs[:1] == [b"hi"]


def test_a_server_that_is_described_may_come_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    toy = OpenpiToy()
    toy.deaf()
    with caplog.at_level(logging.INFO):
        policy = connected(toy, remote=described(tmp_path, OPENPI_KEYS), timeout_s=TIMEOUT_S)
        assert "observations are refused until it answers" in caplog.text
        began_s = time.monotonic()
        for _ in range(5):
            with pytest.raises(
                PolicyUnavailable, match=rf"openpi://127.0.0.1:{toy.port} cannot be reached: Connection"
            ):
                asked(policy, 1.0)
        assert time.monotonic() - began_s > 0.2, "it is not asked without a pause"
        toy.listen()
        end_s = time.monotonic() + LONG_S
        while "answers again" not in caplog.text:
            assert time.monotonic() < end_s
            try:
                np.testing.assert_allclose(asked(policy, 7.0), rows_of(7.0), rtol=1e-6)
            except PolicyUnavailable:
                continue
    toy.close()


def silent(peer: Peer) -> None:
    """Say nothing."""
    peer.socket.recv(1 << 16)
    time.sleep(1.0)


@pytest.mark.parametrize(
    ("meet", "remote", "says"),
    [
        (silent, False, "has not answered within 0.3 s"),
        (greet, False, r"does not say what its policy is fed \(its greeting has name\): let model_remote be libero"),
        (ours, True, "says itself what its policy is fed: leave model_remote empty"),
        (lambda peer: (peer.upgrade(), peer.send({"streaming_vla": {}})), False, "name is missing"),
        (lambda peer: (peer.upgrade(), peer.send({"streaming_vla": [1]})), False, "it is a list"),
        (lambda peer: (peer.upgrade(), peer.send([])), True, "its greeting is a list"),
        (lambda peer: (peer.upgrade(), peer.text(b"busy")), False, "it says: busy"),
    ],
)
def test_what_cannot_be_loaded(
    openpi_toy: OpenpiToy, tmp_path: Path, meet: Callable[[Peer], object], remote: bool, says: str
) -> None:
    openpi_toy.greet = meet
    name = described(tmp_path, OPENPI_KEYS) if remote else ""
    with pytest.raises(CheckpointError, match=rf"openpi://127.0.0.1:{openpi_toy.port}.*{says}"):
        connected(openpi_toy, remote=name, timeout_s=TIMEOUT_S)


@pytest.mark.parametrize("address", ["", ":8000", "host:eight", "host:70000", "wss://", "http://host"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(CheckpointError, match="is no address, expected openpi://host:8000 or openpi:wss://host"):
        openpi.connect(address)


def test_an_address_holds_no_password() -> None:
    with pytest.raises(CheckpointError, match="holds a password") as refused:
        openpi.connect("ws://me:hush@host:8000")
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("host", (False, "host", 8000, "")),
        ("host:9", (False, "host", 9, "")),
        ("host/pi", (False, "host", 8000, "/pi")),
        ("[::1]:9", (False, "::1", 9, "")),
        ("[::1]", (False, "::1", 8000, "")),
        ("ws://host", (False, "host", 80, "")),
        ("wss://host", (True, "host", 443, "")),
        ("wss://host:9/pi", (True, "host", 9, "/pi")),
    ],
)
def test_addresses(address: str, where: tuple[bool, str, int, str]) -> None:
    _, found = openpi._parsed(address)
    assert (found.secure, found.host, found.port, found.path) == where


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Certificate and key of this machine, signed by nobody else."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    files = str(folder / "certificate.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "2"]
    subprocess.run([*command, *names, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


@pytest.fixture
def tls_toy(our_toy: OpenpiToy, certificate: tuple[str, str]) -> OpenpiToy:
    """A server with TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    our_toy.wrap = lambda connection: context.wrap_socket(connection, server_side=True)
    return our_toy


def test_tls(tls_toy: OpenpiToy, certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    policy = openpi.connect(f"wss://localhost:{tls_toy.port}", RemoteOptions(timeout_s=LONG_S))
    for mark in (1.0, 2.0):
        np.testing.assert_allclose(asked(policy, mark), rows_of(mark), rtol=1e-6)
    assert policy.figures()["server"] == f"openpi:wss://localhost:{tls_toy.port}"


def test_a_certificate_that_nobody_trusts(tls_toy: OpenpiToy) -> None:
    with pytest.raises(CheckpointError, match=r"its certificate is not trusted \(.*\): let SSL_CERT_FILE name"):
        openpi.connect(f"wss://localhost:{tls_toy.port}", RemoteOptions(timeout_s=LONG_S))


def test_tls_where_there_is_none(our_toy: OpenpiToy) -> None:
    our_toy.greet = lambda peer: (peer.socket.recv(100), peer.socket.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    with pytest.raises(CheckpointError, match="it does not speak TLS"):
        openpi.connect(f"wss://localhost:{our_toy.port}", RemoteOptions(timeout_s=LONG_S))
