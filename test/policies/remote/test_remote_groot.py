"""The client of GR00T servers: what is asked, sent and taken."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zmq
from remote_servers import (
    GROOT_KEYS,
    OPENPI_KEYS,
    TIMEOUT_S,
    GrootToy,
    asked,
    described,
    groot_answer,
    modalities,
    rows_of,
)

from kv_cache.cache import CacheView
from streaming_vla.policies.contract import PolicyUnavailable
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.remote import groot, groot_wire
from streaming_vla.policies.remote.options import RemoteOptions
from streaming_vla.policies.remote.policy import RemotePolicy

WIRE = Path(__file__).parent / "wire"
LONG_S = 10.0


def connected(toy: GrootToy, folder: Path, keys: dict[str, Any] = GROOT_KEYS, **options: Any) -> RemotePolicy:
    """Return the policy of a server."""
    remote = options.pop("remote", None) or described(folder, keys)
    return groot.connect(f"127.0.0.1:{toy.port}", RemoteOptions(**({"remote": remote, "timeout_s": LONG_S} | options)))


def kinds(value: Any) -> Any:
    """Return what a message is made of, without its numbers and sizes."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.ndim
    if isinstance(value, dict):
        return {name: kinds(inside) for name, inside in value.items()}
    if isinstance(value, list):
        return [kinds(inside) for inside in value]
    return type(value)


def test_requests_are_those_of_gr00ts_own_client(groot_toy: GrootToy, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    policy = connected(groot_toy, tmp_path, key_file=tmp_path / "key")
    np.testing.assert_allclose(asked(policy, 4.0), rows_of(4.0), rtol=1e-6)
    token = {"api_token": "secret"}
    configuration, reset, request = groot_toy.requests
    for found, name in ((configuration, "modality_request"), (reset, "reset_request"), (request, "get_action_request")):
        golden = groot_wire.unpack((WIRE / "groot" / f"{name}.bin").read_bytes(), 10_000)
        assert kinds(found) == kinds(golden | token)
        assert found["endpoint"] == golden["endpoint"] and found["api_token"] == "secret"
    observation = request["data"]["observation"]
    assert observation["video"]["wrist"].shape == (1, 1, 32, 32, 3) and observation["video"]["wrist"].mean() == 200.0
    assert observation["state"]["single_arm"].tolist() == [[[4.0, 1.0]]]
    assert observation["state"]["gripper"].tolist() == [[[2.0]]]
    assert observation["language"] == {"annotation.human.task_description": [["open"]]}
    assert policy.figures()["server_infer_ms"] == 3.5


def test_the_configuration_of_the_golden_server_is_understood(groot_toy: GrootToy, tmp_path: Path) -> None:
    golden = groot_wire.unpack((WIRE / "groot" / "modality_reply.bin").read_bytes(), 10_000)
    truth = json.loads((WIRE / "truth.json").read_text())["groot"]["modality_reply"]["decoded"]
    assert golden == truth

    def answer(request: dict[str, Any]) -> Any:
        if request["endpoint"] == "get_modality_config":
            return golden
        reply = (WIRE / "groot" / "get_action_reply.bin").read_bytes()
        return reply if request["endpoint"] == "get_action" else {}

    groot_toy.answer = answer
    keys = GROOT_KEYS | {"state": {"single_arm": 2, "gripper": 1}, "actions": {"single_arm": 5, "gripper": 1}}
    names = {
        "action_names": list("abcdef"),
        "action_absolute": [True] * 6,
        "action_low": [-100.0] * 6,
        "action_high": [100.0] * 6,
        "action_initial": [0.0] * 6,
        "trained_horizon": 4,
    }
    policy = connected(groot_toy, tmp_path, remote=described(tmp_path, keys, **names))
    rows = asked(policy, 1.0)
    np.testing.assert_array_equal(rows[:, :5], np.arange(20.0).reshape(4, 5))
    np.testing.assert_array_equal(rows[:, 5], [0.5] * 4)


def test_a_new_episode_is_a_reset_and_only_that(groot_toy: GrootToy, tmp_path: Path) -> None:
    policy = connected(groot_toy, tmp_path)
    token = torch.full((1, 1, 1, 2), 3.0)
    asked(policy, 1.0)
    asked(policy, 2.0, CacheView(token, token, 1))
    asked(policy, 3.0)
    endpoints = [request["endpoint"] for request in groot_toy.requests]
    assert endpoints == ["get_modality_config", "reset", "get_action", "get_action", "reset", "get_action"]
    assert "kill" not in endpoints


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda _request: modalities(video=([0], ["top"])), "its checkpoint has top as video, the description says"),
        (lambda _request: {}, "has no 'video'"),
        (lambda _request: {"error": "Unauthorized: Invalid API token"}, "Invalid API token: model_key_file"),
    ],
)
def test_what_cannot_be_loaded(groot_toy: GrootToy, tmp_path: Path, answer: Any, says: str) -> None:
    groot_toy.answer = answer
    with pytest.raises(CheckpointError, match=rf"groot://127.0.0.1:{groot_toy.port}: .*{says}"):
        connected(groot_toy, tmp_path)


def test_it_needs_a_description_that_fits_it(groot_toy: GrootToy, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="let model_remote be the path of a description"):
        groot.connect("127.0.0.1")
    with pytest.raises(CheckpointError, match="under plain keys"):
        connected(groot_toy, tmp_path, OPENPI_KEYS)


def test_a_server_that_is_not_there_yet(groot_toy: GrootToy, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    groot_toy.close()
    with caplog.at_level(logging.WARNING):
        policy = connected(groot_toy, tmp_path, timeout_s=TIMEOUT_S)
    assert "cannot be reached: Connection refused; observations are refused until it answers" in caplog.text
    with pytest.raises(PolicyUnavailable, match="cannot be reached: Connection refused"):
        asked(policy, 1.0)


@pytest.mark.parametrize("heartbeat_ms", [0, 20])
def test_a_server_with_the_socket_that_gr00t_has(tmp_path: Path, heartbeat_ms: int) -> None:
    served = zmq.Context.instance().socket(zmq.REP)
    served.setsockopt(zmq.LINGER, 0)
    served.setsockopt(zmq.HEARTBEAT_IVL, heartbeat_ms)
    port = served.bind_to_random_port("tcp://127.0.0.1")
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            if served.poll(10):
                request = groot_wire.unpack(served.recv(), 1 << 24)
                served.send(groot_wire.pack(groot_answer(request)))
        served.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    options = RemoteOptions(described(tmp_path, GROOT_KEYS, image_size=32), timeout_s=LONG_S)
    policy = groot.connect(f"localhost:{port}", options)
    for mark in (1.0, 2.0, 3.0):
        np.testing.assert_allclose(asked(policy, mark), rows_of(mark), rtol=1e-6)
        time.sleep(0.1)  # several beats that nobody answers: the connection is made anew
    assert policy.figures()["server_failed"] == 0
    over.set()
    thread.join(5.0)


@pytest.mark.parametrize("address", ["", ":5555", "host:five", "host/path", "me@host", "tcp://host"])
def test_addresses_that_are_none(address: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no address, expected groot://host:5555"):
        groot.connect(address, RemoteOptions(described(tmp_path, GROOT_KEYS)))


def test_a_key_of_instructions_may_be_described(groot_toy: GrootToy, tmp_path: Path) -> None:
    groot_toy.answer = groot_answer
    asked(connected(groot_toy, tmp_path, GROOT_KEYS | {"instruction": "task"}), 1.0)
    assert groot_toy.requests[-1]["data"]["observation"]["language"] == {"task": [["open"]]}
