"""A remote policy in the engine: nobody waits for the server, and nothing of an old episode comes back."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from remote_servers import OPENPI_KEYS, TIMEOUT_S, OpenpiToy, Peer, answer, described, rows_of
from toy import WAIT_S, Served, flow, observation, options

from streaming_vla.engine.engine import Engine
from streaming_vla.engine.loading import load_model
from streaming_vla.engine.options import ModelOptions
from streaming_vla.engine.values import ContextReport
from streaming_vla.policies.chunk import ChunkAsStream
from streaming_vla.policies.registry import PolicyError, load_policy
from streaming_vla.policies.remote.options import RemoteOptions
from streaming_vla.policies.remote.policy import RemotePolicy


def driven(toy: OpenpiToy, folder: Path, timeout_s: float = WAIT_S) -> tuple[Served, RemotePolicy]:
    """Return a driven engine and its policy, loaded as the node does it."""
    options_told = ModelOptions(
        model=f"openpi://127.0.0.1:{toy.port}", model_remote=described(folder, OPENPI_KEYS), model_timeout_s=timeout_s
    )
    policy = load_model(options_told)
    assert isinstance(policy, ChunkAsStream) and isinstance(policy.policy, RemotePolicy)
    return Served(Engine(policy, options(max_sessions=3))), policy.policy


class Gate:
    """Answers a question of mark 9 and more when the test says so."""

    def __init__(self) -> None:
        self.inside, self.go_on = threading.Event(), threading.Event()

    def __call__(self, peer: Peer, question: dict[Any, Any]) -> None:
        """Answer."""
        if question["observation/joints"][0] >= 9.0:
            self.inside.set()
            self.go_on.wait(WAIT_S)
        answer(peer, question)


def test_a_chunk_comes_as_a_stream(openpi_toy: OpenpiToy, tmp_path: Path) -> None:
    made, policy = driven(openpi_toy, tmp_path)
    made.observe(observation(0, mark=4.0))
    made.ask(flow(0, steps=5))
    made.wait_for(lambda: len(made.replies) == 6)
    np.testing.assert_allclose([action.values for action in made.actions()], rows_of(4.0), rtol=1e-6)
    assert made.report(0).chunk and policy.figures()["server_answered"] == 1
    assert made.engine.policy.figures() == policy.figures()  # type: ignore[attr-defined]


def test_others_generate_while_the_server_thinks(openpi_toy: OpenpiToy, tmp_path: Path) -> None:
    openpi_toy.answer = gate = Gate()
    made, _ = driven(openpi_toy, tmp_path)
    made.observe(observation(0, session="/b"))
    made.wait_for(lambda: len(made.replies) == 1)
    made.observe(observation(0, mark=9.0))
    made.finish()
    assert gate.inside.wait(WAIT_S)
    for row in range(5):
        assert made.stepped(flow(0, step=row), "/b").accepted
    assert made.engine.deadline() == float("inf"), "no busy loop"
    gate.go_on.set()
    made.wait_for(lambda: len(made.replies) == 7)
    assert made.report(0, "/a").chunk


def test_nothing_of_an_old_episode_comes_back(openpi_toy: OpenpiToy, tmp_path: Path) -> None:
    openpi_toy.answer = gate = Gate()
    made, policy = driven(openpi_toy, tmp_path)
    made.observe(observation(0, mark=9.0))
    made.finish()
    assert gate.inside.wait(WAIT_S)
    made.engine.reset("/a", 2, 1)
    made.observe(observation(0, episode=2, mark=3.0))
    made.ask(flow(0, episode=2, steps=5))
    made.finish()
    gate.go_on.set()
    made.wait_for(lambda: len(made.steps()) == 5)
    values = [action.values for action in made.actions() if action.accepted]
    np.testing.assert_allclose(values, rows_of(3.0), rtol=1e-6)
    assert policy.figures()["server_dropped"] == 1
    assert [float(question["observation/joints"][0]) for question in openpi_toy.questions] == [9.0, 3.0]


def test_questions_of_an_old_episode_that_still_wait_are_not_asked(openpi_toy: OpenpiToy, tmp_path: Path) -> None:
    openpi_toy.answer = gate = Gate()
    made, _ = driven(openpi_toy, tmp_path)
    made.observe(observation(0, session="/b", mark=9.0))
    made.finish()
    assert gate.inside.wait(WAIT_S)
    made.observe(observation(0, mark=1.0))
    made.finish()
    made.engine.reset("/a", 2, 1)
    made.observe(observation(0, episode=2, mark=3.0))
    made.finish()
    gate.go_on.set()
    made.wait_for(lambda: len(openpi_toy.questions) == 2)
    assert [float(question["observation/joints"][0]) for question in openpi_toy.questions] == [9.0, 3.0]


def test_a_server_that_goes_and_comes_back_is_refusals_and_then_a_context(
    openpi_toy: OpenpiToy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    made, _ = driven(openpi_toy, tmp_path, TIMEOUT_S)
    made.observe(observation(0))
    made.wait_for(lambda: len(made.replies) == 1)
    openpi_toy.close()
    made.observe(observation(1))
    made.wait_for(lambda: len(made.replies) == 2)
    refusal = made.refusal(1)
    assert refusal.code == "policy_unavailable"
    assert refusal.reason.startswith(f"policy toy: openpi://127.0.0.1:{openpi_toy.port} ")
    openpi_toy.answer = lambda _peer, _question: None
    openpi_toy.listen()
    codes: set[str] = set()
    sequence = 1
    while "policy_timeout" not in codes:
        sequence += 1
        made.observe(observation(sequence))
        made.wait_for(lambda: len(made.replies) == sequence + 1)  # noqa: B023
        codes.add(made.refusal(sequence).code)
    assert made.stepped(flow(0)).accepted, "the context of before can be played to its end"
    openpi_toy.answer = answer
    came = len(made.replies)
    while not isinstance(made.replies[-1].value, ContextReport):
        sequence, came = sequence + 1, came + 1
        made.observe(observation(sequence, mark=5.0))
        made.wait_for(lambda: len(made.replies) == came)  # noqa: B023
    np.testing.assert_allclose(made.stepped(flow(sequence, step=1)).values, rows_of(5.0)[1], rtol=1e-6)
    assert not any(record.exc_info for record in caplog.records), "no traceback"


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (
            {"model_assets": "/dir"},
            "model_assets is set, model 'openpi://h' has no use for it: it is for lerobot:/folder",
        ),
        ({"model_denoise_steps": 3}, "model_denoise_steps is set.*the server denoises"),
        ({"model": "compact_mt10", "model_remote": "libero"}, "model_remote is set.*it is for openpi:// and groot://"),
        ({"model": "compact_mt10", "model_key_file": "/k"}, "model_key_file is set"),
        ({"model": "lerobot:/dir", "model_timeout_s": 1.0}, "model_timeout_s is set.*it is for openpi:// and groot://"),
        ({"model": "python:a:b", "model_cameras": ("a=b",)}, "model_cameras is set"),
        ({"saliency_model": "x"}, "saliency_model is 'x'"),
        ({"model_key_file": "/nowhere/key"}, "model_key_file '/nowhere/key' cannot be read"),
    ],
)
def test_options_that_a_model_has_no_use_for(told: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        load_model(ModelOptions(**({"model": "openpi://h"} | told)))


def test_a_server_has_no_rows_for_more_than_its_horizon(openpi_toy: OpenpiToy, tmp_path: Path) -> None:
    options_told = ModelOptions(
        model=f"openpi://127.0.0.1:{openpi_toy.port}",
        model_remote=described(tmp_path, OPENPI_KEYS),
        model_execution_horizon=6,
    )
    with pytest.raises(PolicyError, match="trained_horizon 5 is below execution_horizon 6"):
        load_model(options_told)


def test_the_registry_loads_it(openpi_toy: OpenpiToy, tmp_path: Path) -> None:
    remote = RemoteOptions(described(tmp_path, OPENPI_KEYS))
    policy = load_policy(f"openpi://127.0.0.1:{openpi_toy.port}", remote=remote)
    assert policy.spec.chunk and policy.spec.name == "toy"
