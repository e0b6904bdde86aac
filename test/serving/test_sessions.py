"""Several clients, each with a session of its own: what they get is what the policy gives directly."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Served, request_of
from policies import SPEC, Guided, Summing
from websockets.exceptions import ConnectionClosed

from kv_cache.cache import SessionCache
from kv_cache.policies import make_policy
from streaming_vla.engine.options import CacheOptions
from streaming_vla.policies.chunk import ChunkAsStream
from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.policies.compact.policy import CompactPolicy
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, prefill_whole
from streaming_vla.policies.remote.spec_metadata import spec_from_metadata
from streaming_vla.policies.remote.wire import pack

Serve = Callable[..., Served]
FULL = CacheOptions(cache_policy="full", cache_capacity=512)


def direct(policy: CompactPolicy, requests: list[dict[str, Any]]) -> list[np.ndarray]:
    """Return the chunks of a history, by the policy itself."""
    spec, chunks = policy.spec, []
    cache = SessionCache(spec.cache, make_policy("full", sinks=0, recent=0, capacity=512))
    with torch.inference_mode():
        for request in requests:
            pictures = np.stack([request[f"observation/images/{camera}"] for camera in spec.cameras])
            state = request["observation/state"].astype(np.float32)
            prefilled = prefill_whole(policy, PolicyObservation(pictures, state, request["prompt"]), cache.view())
            cache.append(prefilled.keys, prefilled.values)
            position, rows = spec.layout.start(), []
            for step in range(spec.trained_horizon):
                moved = position - spec.layout.start()
                rows.append(policy.flow_step(FlowQuery(cache.view(), position, step, prefilled.context, pending=moved)))
                position = spec.layout.advance(position, rows[-1])
            chunks.append(np.stack(rows))
    return chunks


@pytest.fixture(scope="module")
def compact() -> CompactPolicy:
    """A compact policy with random weights."""
    torch.manual_seed(0)
    config = CompactConfig(words=("<other>", "open"), width=48, layers=2, heads=2, kv_heads=1, channels=(8, 8, 8, 8))
    return CompactPolicy(CompactModel(config).eval(), "toy")


def test_two_clients_get_what_the_policy_gives_directly(serve: Serve, compact: CompactPolicy) -> None:
    served = serve(compact, cache=FULL)
    clients = [served.client(), served.client()]
    requests = [[request_of(compact.spec, np.full(4, 0.1 * n), 10 * c + n) for n in range(3)] for c in range(2)]
    got = [[client.actions(each[n]) for client, each in zip(clients, requests, strict=True)] for n in range(3)]
    for number, each in enumerate(requests):
        wanted = direct(compact, each)
        for step in range(3):
            assert got[step][number].shape == (compact.spec.trained_horizon, 4)
            np.testing.assert_allclose(got[step][number], wanted[step], atol=1e-5)
    alone = direct(compact, [requests[0][2]])[0]
    assert np.abs(alone - got[2][0]).max() > 1e-3, "the history counts"


def test_the_greeting_says_the_whole_spec(serve: Serve) -> None:
    client = serve(Summing()).client()
    told = spec_from_metadata(client.greeting["streaming_vla"])
    assert (told.name, told.cameras, told.layout) == (SPEC.name, SPEC.cameras, SPEC.layout)
    assert client.greeting["action_horizon"] == told.trained_horizon == 4
    assert client.greeting["streaming_vla/optional_keys"] == [
        "streaming_vla/episode",
        "streaming_vla/planned",
        "streaming_vla/delay",
    ]


def test_a_new_episode_and_a_new_connection_begin_without_a_history(serve: Serve) -> None:
    served = serve(Summing(), cache=FULL)
    client = served.client()
    sums = [client.actions(request_of(SPEC, [n, 0.0], episode=e))[0, 0] for n, e in ((1, 7), (2, 7), (4, 3), (8, 3))]
    assert sums == [1.0, 3.0, 4.0, 12.0]
    client.close()
    again = served.client()
    assert [again.actions(request_of(SPEC, [n, 0.0]))[0, 0] for n in (16, 32)] == [16.0, 48.0]


def test_actions_ahead_guide_a_chunk_and_say_where_the_flow_begins(serve: Serve) -> None:
    planned = np.array([[0.5, 0.25], [0.6, 0.75]])
    flow = serve(Summing()).client()
    assert flow.actions(request_of(SPEC, [1.0, 0.0]))[:, 1].tolist() == [0.5] * 4
    assert flow.actions(request_of(SPEC, [1.0, 0.0], planned=planned, delay=1))[0, 1] == 0.25
    policy = Guided()
    chunk = serve(ChunkAsStream(policy)).client()
    assert chunk.actions(request_of(SPEC, [1.0, 0.0], planned=planned, delay=1))[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    chunk.actions(request_of(SPEC, [1.0, 0.0]))
    [guide, none] = policy.guides
    assert guide is not None and none is None
    assert guide.target[:2].tolist() == planned.tolist() and guide.weight[0] == 1.0 and guide.weight[3] == 0.0


def test_a_picture_of_another_size_is_fitted(serve: Serve) -> None:
    policy = Summing()
    client = serve(policy).client()
    request = request_of(SPEC, [1.0, 0.0])
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    client.actions({**request, "observation/images/front": wide})
    assert policy.seen[0].images.shape == (2, 16, 16, 3)
    assert (policy.seen[0].images[0] == 200).all(), "the middle is cut out"
    assert (policy.seen[0].images[1] == request["observation/images/wrist"]).all()


def test_times_are_told(serve: Serve) -> None:
    client = serve(Summing()).client()
    first, second = (client.say(request_of(SPEC, [1.0, 0.0])) for _ in range(2))
    assert first["policy_timing"]["infer_ms"] <= first["server_timing"]["infer_ms"]
    assert "prev_total_ms" not in first["server_timing"]
    assert second["server_timing"]["prev_total_ms"] >= first["server_timing"]["infer_ms"]


def test_a_client_that_leaves_in_the_middle_is_let_go(serve: Serve) -> None:
    policy = Summing()
    served = serve(policy, sessions=1)
    leaving = served.client()
    leaving.socket.send(pack(request_of(SPEC, [-1.0, 0.0])))
    _wait(lambda: len(policy.seen) == 1, "it is not worked on")
    leaving.close()
    _wait(policy.let_go.is_set, "the policy works on for nobody")
    assert served.client().actions(request_of(SPEC, [3.0, 0.0]))[0, 0] == 3.0


def test_a_slow_request_of_one_holds_nobody_back(serve: Serve) -> None:
    policy = Summing()
    served = serve(policy)
    slow, quick = served.client(), served.client()
    slow.socket.send(pack(request_of(SPEC, [-5.0, 0.0])))
    _wait(lambda: len(policy.seen) == 1, "it is not worked on")
    begin_s = time.monotonic()
    for _ in range(10):
        quick.actions(request_of(SPEC, [1.0, 0.0]))
    assert time.monotonic() - begin_s < 2.0
    policy.gate.set_result(None)
    assert not isinstance(slow.socket.recv(10.0), str)


def test_sessions_are_given_away_when_they_are_idle_and_not_before(serve: Serve) -> None:
    served = serve(Summing(), sessions=1)
    first, second = served.client(), served.client()
    first.actions(request_of(SPEC, [1.0, 0.0]))
    assert "all 1 sessions are in use" in second.say(request_of(SPEC, [1.0, 0.0]))
    with pytest.raises(ConnectionClosed):
        second.socket.recv(5.0)
    served = serve(Summing(), sessions=1, idle_s=0.0, cache=FULL)
    first, second = served.client(), served.client()
    assert first.actions(request_of(SPEC, [1.0, 0.0]))[0, 0] == 1.0
    assert second.actions(request_of(SPEC, [2.0, 0.0]))[0, 0] == 2.0, "nothing of the other one's history"
    with pytest.raises(ConnectionClosed, match="went to another client"):
        first.socket.recv(5.0)


def test_what_the_policy_refuses_leaves_the_session_alone(serve: Serve) -> None:
    served = serve(Summing(), cache=CacheOptions(cache_policy="full", cache_capacity=2))
    client = served.client()
    sums = [client.say(request_of(SPEC, [n, 0.0])) for n in (1, 2, 4)]
    assert isinstance(sums[2], str) and "\n" not in sums[2]
    assert client.actions(request_of(SPEC, [8.0, 0.0], episode=1))[0, 0] == 8.0


def _wait(condition: Callable[[], bool], complaint: str) -> None:
    end_s = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < end_s, complaint
        time.sleep(0.005)
