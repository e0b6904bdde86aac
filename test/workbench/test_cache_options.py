"""What is kept of the history: the same engine options as the inference node's, and the sizes that a gate knows."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from kv_cache import CacheSpec, CacheView, Gate, GateConfig, SessionCache
from kv_cache.gate_file import GateFileError, save_gate
from kv_cache.policies import POLICY_NAMES
from streaming_vla.engine.cache import engine_options
from streaming_vla.engine.engine import Engine
from streaming_vla.engine.options import CacheOptions, InferenceOptions
from streaming_vla.engine.values import ContextReport, EncodedObservation
from streaming_vla.machines.events import GeneratedAction, GenerateRequest
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, PolicySpec, Prefilled, Slices
from streaming_vla.policies.layout import ActionLayout, Vector
from streaming_vla.sim.frames import encode_frame
from streaming_vla.workbench.evaluation.cache_options import FULL, choose_cache, fitted, gated_cache, with_gate_digest

BLOCK = 2
REVISIONS = itertools.count(1)
SIZES = {"sinks": 1, "recent": 2 * BLOCK, "chunk": BLOCK}


class Remembering:
    """Its tokens hold the robot's state; a flow step returns the mean of what is held."""

    spec = PolicySpec(
        "remembering", ("eye",), 8, 1, ActionLayout(("dx",), (False,), (-1.0,), (1.0,), (0.0,)), 10, 16, BLOCK,
        CacheSpec(layers=1, kv_heads=1, head_dim=4),
    )  # fmt: skip

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
        """Remember the state."""
        yield None
        shape = (1, 1, BLOCK, 4)
        return Prefilled(torch.ones(shape), torch.full(shape, float(observation.state[0])))

    def flow_step(self, query: FlowQuery) -> Vector:
        """Return the mean, which tells what is held."""
        return np.array([float(query.view.values.mean())])

    def look_ahead(self, seen: torch.Tensor, pending: Vector) -> float:
        """It has no predictor."""
        raise NotImplementedError


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Return the file of a gate that says which cache it was trained for."""
    torch.manual_seed(0)
    path = tmp_path / "some_gate.safetensors"
    save_gate(path, Gate(GateConfig.of(Remembering.spec.cache)), 0.25, {"plan": {"cache": SIZES}})
    return path


def serving(cache: CacheOptions) -> Engine:
    """Return an engine that remembers."""
    return Engine(Remembering(), engine_options(cache, BLOCK))


def seen(engine: Engine, sequence: int) -> bool:
    """Prefill observation `sequence`, whose state is its number; False when it was refused."""
    image = encode_frame(np.zeros((8, 8, 3), np.uint8), 8)
    engine.observe(EncodedObservation("/", 1, sequence, "go", (image,), np.array([sequence], np.float32)), 0.0)
    return isinstance(answered(engine), ContextReport)


def held(engine: Engine, context: int) -> float | None:
    """Return what a flow step finds in a context, None when it is refused."""
    engine.generate("/", GenerateRequest(1, context, next(REVISIONS), 0, np.zeros(1), 1), 0.0)
    reply = answered(engine)
    assert isinstance(reply, GeneratedAction)
    return float(reply.values[0]) if reply.accepted else None


def answered(engine: Engine) -> object:
    """Return the one answer of the engine."""
    replies = []
    while engine.deadline() != float("inf"):
        replies += engine.poll(0.0)
    [reply] = replies
    return reply.value


def options(name: str, gate: Path) -> CacheOptions:
    """Return a cache with room for three summaries."""
    return gated_cache(gate, budget=12).changed(cache_policy=name, cache_threshold=0.0, cache_keep_rate=1.0)


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_contexts_handed_over_stay_readable_while_the_cache_goes_on(name: str, gate: Path) -> None:
    service = serving(options(name, gate))
    found: list[float | None] = []
    for sequence in range(12):
        assert seen(service, sequence)
        found.append(held(service, sequence))
        oldest = max(0, sequence - 2)  # the old one, the one that takes over, and one that was asked for again
        assert [held(service, context) for context in range(oldest, sequence + 1)] == found[oldest:]
        assert held(service, oldest - 1) is None
    assert (found[-1] == 11.0) is (name == "newest"), "the history is in all others"


def test_a_cache_that_is_full_takes_no_more_and_what_it_holds_stays(gate: Path) -> None:
    service = serving(CacheOptions(cache_policy="full", cache_capacity=3 * BLOCK))
    assert [seen(service, sequence) for sequence in range(4)] == [True, True, True, False]
    assert held(service, 2) == 1.0


def test_random_keeps_other_chunks_in_another_episode() -> None:
    kept = []
    for seed in (1, 2, 1):
        options = CacheOptions(
            cache_policy="random", cache_recent=BLOCK, cache_chunk=BLOCK, cache_budget=400, cache_keep_rate=0.3
        )
        policy = fitted(options, Remembering.spec, seed)
        cache = SessionCache(Remembering.spec.cache, policy)
        spec = Remembering.spec.cache
        cache.append(*torch.randn(2, spec.layers, spec.kv_heads, 60 * BLOCK, spec.head_dim))
        kept.append([number for number, _ in cache.kept_chunks()])
    assert kept[0] == kept[2] != kept[1] and 0 < len(kept[1]) < 59


def test_sizes_that_are_left_open_are_those_of_one_observation_and_of_the_gate(gate: Path) -> None:
    inference = InferenceOptions(cache_policy="gated", cache_gate=str(gate), cache_budget=12, cache_chunk=0)
    options = engine_options(inference, BLOCK, inference.max_sessions)
    cache = options.cache
    assert (cache.cache_recent, cache.cache_chunk, cache.cache_threshold) == (BLOCK, BLOCK, 0.25)
    assert options.gate is not None and options.max_sessions == 4
    ours = engine_options(gated_cache(gate, budget=12), BLOCK)
    room = ours.cache.cache_capacity  # of full
    assert ours.cache == cache.changed(cache_sinks=1, cache_recent=2 * BLOCK, cache_capacity=room)
    assert ours.gate is not None
    assert all(torch.equal(v, options.gate.gate.state_dict()[name]) for name, v in ours.gate.gate.state_dict().items())


def test_budget_and_threshold_change_with_the_gate_that_is_loaded(gate: Path) -> None:
    options = engine_options(gated_cache(gate, budget=12), BLOCK)
    gate.unlink()
    other = options.retuned(options.cache.changed(cache_budget=16, cache_threshold=0.7))
    assert (other.cache.cache_budget, other.cache.cache_threshold) == (16, 0.7) and other.gate is options.gate
    assert other.retuned(options.cache.changed(cache_threshold=-1.0)).cache.cache_threshold == 0.25


def test_a_gate_that_does_not_tell_its_cache_is_refused_and_so_is_no_gate(tmp_path: Path) -> None:
    silent = tmp_path / "silent.safetensors"
    save_gate(silent, Gate(GateConfig.of(Remembering.spec.cache)), 0.5, {"plan": {"cache": {"sinks": 0}}})
    with pytest.raises(ValueError, match=r"silent.* does not tell for which cache it was trained, expected sinks"):
        gated_cache(silent, 256)
    with pytest.raises(GateFileError, match="missing"):
        gated_cache(tmp_path / "missing.safetensors", 256)


def test_sizes_that_are_not_asked_for_are_those_of_the_gate(gate: Path) -> None:
    assert choose_cache("gated", gate, 12) == gated_cache(gate, 12)
    assert choose_cache("gated", gate, 12, recent=6) == gated_cache(gate, 12).changed(cache_recent=6)
    assert choose_cache("mean", None, 12) == FULL.changed(cache_policy="mean", cache_chunk=0, cache_budget=12)
    assert choose_cache("mean", None, 12, 1, 4, 2) == FULL.changed(
        cache_policy="mean", cache_sinks=1, cache_recent=4, cache_chunk=2, cache_budget=12
    )


def test_caches_with_other_gates_are_told_apart_whatever_the_files_are_called(gate: Path) -> None:
    kept = gated_cache(gate, 256)
    before = with_gate_digest(kept)
    copy = gate.with_name("copy.safetensors")
    copy.write_bytes(gate.read_bytes())
    assert with_gate_digest(kept.changed(cache_gate=str(copy))) == before
    save_gate(gate, Gate(GateConfig.of(Remembering.spec.cache)), 0.25, {"plan": {"cache": SIZES}})
    assert gated_cache(gate, 256) == kept and with_gate_digest(kept) != before
    assert with_gate_digest(FULL) == FULL
