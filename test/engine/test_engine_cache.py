"""The engine with every cache policy: bounded sessions, statistics, and budget and threshold that change live."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy import SPEC, TOKENS, Served, ToyPolicy, flow, options

from kv_cache import CacheView, Gate, GateConfig
from kv_cache.gate_file import LoadedGate
from kv_cache.policies import POLICY_NAMES
from streaming_vla.engine.cache import EngineOptions, differences
from streaming_vla.engine.engine import Engine
from streaming_vla.engine.options import CacheOptions
from streaming_vla.engine.values import ContextReport
from streaming_vla.policies.contract import PolicyObservation, Prefilled, Slices

torch.manual_seed(0)
GATE = LoadedGate(Gate(GateConfig.of(SPEC.cache)).eval(), 0.5, {})
CHUNKED = [name for name in POLICY_NAMES if name not in ("full", "window", "newest")]


def chunked(name: str = "gated", **changes: object) -> EngineOptions:
    """Return options with chunks of one observation, a window of two and room for three summaries."""
    sizes = {"cache_recent": 2 * TOKENS, "cache_chunk": TOKENS, "cache_budget": 3 * TOKENS + 2}
    given = CacheOptions(cache_gate="gate", cache_threshold=0.0, cache_keep_rate=1.0)
    return EngineOptions(given.changed(cache_policy=name, **sizes).changed(**changes), 2, GATE)


def feed(engine: Engine, sequences: range) -> ContextReport:
    """Prefill observations and return the last report."""
    made = Served(engine)
    for sequence in sequences:
        report = made.prefilled(sequence)
    return report


def test_the_parameter_knows_every_policy() -> None:
    assert CacheOptions.declared["cache_policy"].choices == POLICY_NAMES


@pytest.mark.parametrize("name", CHUNKED)
def test_a_session_stays_within_its_budget_and_says_what_it_dropped(name: str) -> None:
    engine = Engine(ToyPolicy(), chunked(name))
    stats = feed(engine, range(12)).stats
    assert (stats.policy, stats.full_tokens) == (name, 12 * TOKENS)
    assert stats.tokens <= 3 * TOKENS + 2
    assert stats.chunks_kept == 10
    assert stats.chunks_evicted == 7
    assert stats.flops_saved == (12 * TOKENS - stats.tokens) * SPEC.cache.flops_per_pair
    assert bool(stats.scores) == (name != "mean")


def test_budget_and_threshold_change_while_sessions_are_open() -> None:
    engine = Engine(ToyPolicy(), chunked())
    before = feed(engine, range(8)).stats
    engine.retune(chunked(cache_budget=3 * TOKENS))
    after = feed(engine, range(8, 9)).stats
    assert after.tokens == before.tokens - 2
    assert after.chunks_evicted == before.chunks_evicted + 3
    engine.retune(chunked(cache_budget=3 * TOKENS, cache_threshold=1.5))
    assert feed(engine, range(9, 11)).stats.chunks_dropped == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cache_budget": 5}, "budget is 5 tokens, below the 11 of the window"),
        ({"cache_threshold": -0.5}, "threshold is -0.5"),
        ({"cache_chunk": 2}, "only budget and threshold"),
    ],
)
def test_a_wrong_change_is_refused_and_sessions_go_on(changes: dict[str, float], sentence: str) -> None:
    engine = Engine(ToyPolicy(), chunked())
    before = feed(engine, range(8)).stats
    with pytest.raises(ValueError, match=sentence):
        engine.retune(chunked(**changes))
    assert feed(engine, range(8, 9)).stats.tokens == before.tokens


def test_a_gate_of_another_model_or_none_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="needs the weights of a gate, none are given"):
        replace(chunked(), gate=None)
    other = replace(GATE, gate=Gate(GateConfig.of(replace(SPEC.cache, head_dim=8))))
    with pytest.raises(ValueError, match="load the gate that was trained for this model"):
        Engine(ToyPolicy(), replace(chunked(), gate=other))


def test_a_cache_of_other_sizes_or_weights_than_the_gates_is_told(tmp_path: Path) -> None:
    weights = tmp_path / "policy.safetensors"
    weights.write_bytes(b"weights")
    trained: dict[str, object] = {"plan": {"cache": {"sinks": 0, "recent": 2 * TOKENS, "chunk": TOKENS}}}
    assert differences(trained, chunked().cache, [weights]) == []
    (sentence,) = differences(trained, chunked(cache_chunk=TOKENS + 1).cache, [weights])
    assert sentence.startswith(f"cache_chunk is {TOKENS + 1}, its gate was trained for {TOKENS}")
    assert differences({}, chunked().cache, [weights]) == []
    trained["policy"] = {"name": "mine", "sha256": hashlib.sha256(b"weights").hexdigest()}
    assert differences(trained, chunked().cache, [weights]) == []
    weights.write_bytes(b"others")
    (sentence,) = differences(trained, chunked().cache, [weights])
    assert sentence.startswith("the gate was trained for other weights of policy mine than")


def test_two_robots_share_a_gate_but_not_its_memory() -> None:
    together = Served(Engine(ToyPolicy(), chunked()))
    for sequence in range(8):
        for session in ("/a", "/b"):
            report = together.prefilled(sequence, session=session)
    alone = Engine(ToyPolicy(), chunked())
    assert report.stats.scores == feed(alone, range(8)).stats.scores


class Damaged(ToyPolicy):
    """A toy of whose `part` (keys or values) one number is NaN."""

    part = ""

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
        """Spoil what the toy makes."""
        made = yield from super().prefill(observation, view)
        if self.part:
            getattr(made, self.part)[-1, 0, -1, -1] = torch.nan
        return made


@pytest.mark.parametrize("part", ["keys", "values"])
@pytest.mark.parametrize("name", POLICY_NAMES)
def test_tokens_that_are_no_numbers_are_refused_and_the_session_is_as_if_they_had_not_come(
    name: str, part: str
) -> None:
    policy = Damaged()
    given = chunked(name) if name in CHUNKED else options(cache_policy=name, cache_capacity=99)
    made, other = Served(Engine(policy, given)), Served(Engine(ToyPolicy(), given))

    def see(made: Served, sequence: int) -> ContextReport:
        return made.prefilled(sequence, mark=float(sequence))

    def act(made: Served, context: int) -> list[float]:
        action = made.stepped(flow(context))
        assert action.accepted, action
        return action.values.tolist()

    for sequence in range(6):
        assert see(made, sequence).stats == see(other, sequence).stats
    before = act(made, 5)
    policy.part = part
    refused = made.refused(6, mark=100.0)
    assert refused.code == "policy_failed"
    assert f"session cache: {part} are not finite" in refused.reason
    assert act(made, 5) == before
    policy.part = ""
    for sequence in (6, 7):
        assert see(made, sequence).stats == see(other, sequence).stats
        assert act(made, sequence) == act(other, sequence)
