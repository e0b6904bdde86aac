"""What is kept of the history: the same engine options as the inference node's, and the sizes that a gate knows."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kv_cache import CacheSpec, CacheView, Gate, GateConfig, SessionCache
from kv_cache.gate_file import GateFileError, save_gate
from kv_cache.policies import POLICY_NAMES
from streaming_vla.engine.engine import Engine
from streaming_vla.engine.values import ContextReport, EncodedObservation
from streaming_vla.machines.events import GeneratedAction, GenerateRequest
from streaming_vla.parameters.tables import table
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, PolicySpec, Prefilled
from streaming_vla.policies.layout import ActionLayout, Vector
from streaming_vla.sim.frames import encode_frame
from streaming_vla.workbench.evaluation.cache_options import CacheOptions, choose_cache, gated_cache
from streaming_vla.workbench.machine_options import engine_options

BLOCK = 2
SIZES = {"sinks": 1, "recent": 2 * BLOCK, "chunk": BLOCK}


class Remembering:
    """Its tokens hold the robot's state; a flow step returns the mean of what is held."""

    spec = PolicySpec(
        "remembering", ("eye",), 8, 1, ActionLayout(("dx",), (False,), (-1.0,), (1.0,), (0.0,)), 10, 16, BLOCK,
        CacheSpec(layers=1, kv_heads=1, head_dim=4),
    )  # fmt: skip

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Generator[None, None, Prefilled]:
        """Remember the state."""
        yield
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


class Served:
    """An engine with a cache of these options."""

    def __init__(self, options: CacheOptions) -> None:
        self._engine = Engine(Remembering(), options.engine(Remembering.spec))
        self._asked = 0

    def sees(self, sequence: int) -> bool:
        """Prefill observation `sequence`, whose state is its number; False when it was refused."""
        images = (encode_frame(np.zeros((8, 8, 3), np.uint8), 8),)
        state = np.array([sequence], np.float32)
        self._engine.observe(EncodedObservation("/", 1, sequence, "go", images, state), 0.0)
        return isinstance(self._answer(), ContextReport)

    def held(self, context: int) -> float | None:
        """Return what a flow step finds in a context, None when it is refused."""
        self._asked += 1  # always a new beginning of the flow
        self._engine.generate("/", GenerateRequest(1, context, self._asked, 0, np.zeros(1), 1), 0.0)
        action = self._answer()
        assert isinstance(action, GeneratedAction)
        return float(action.values[0]) if action.accepted else None

    def _answer(self) -> object:
        replies = []
        while self._engine.deadline() < 0.0:
            replies += self._engine.poll(0.0)
        [reply] = replies
        return reply.value


def options(name: str, gate: Path) -> CacheOptions:
    """Return a cache with room for three summaries."""
    return replace(gated_cache(gate, budget=12), policy=name, threshold=0.0, keep_rate=1.0)


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_contexts_handed_over_stay_readable_while_the_cache_goes_on(name: str, gate: Path) -> None:
    served = Served(options(name, gate))
    found: list[float | None] = []
    for sequence in range(12):
        assert served.sees(sequence)
        found.append(served.held(sequence))
        oldest = max(0, sequence - 2)  # the old one, the one that takes over, and one that was asked for again
        assert [served.held(context) for context in range(oldest, sequence + 1)] == found[oldest:]
        assert served.held(oldest - 1) is None
    assert found[-1] != 11.0, "the history is in it"


def test_a_cache_that_is_full_takes_no_more_and_what_it_holds_stays(gate: Path) -> None:
    served = Served(CacheOptions("full", capacity=3 * BLOCK))
    assert [served.sees(sequence) for sequence in range(4)] == [True, True, True, False]
    assert served.held(2) == 1.0


def test_random_keeps_other_chunks_in_another_episode() -> None:
    kept = []
    for seed in (1, 2, 1):
        policy = CacheOptions("random", recent=BLOCK, chunk=BLOCK, budget=400, keep_rate=0.3).build(
            Remembering.spec, seed
        )
        cache = SessionCache(Remembering.spec.cache, policy)
        spec = Remembering.spec.cache
        cache.append(*torch.randn(2, spec.layers, spec.kv_heads, 60 * BLOCK, spec.head_dim))
        kept.append([number for number, _ in cache.kept_chunks()])
    assert kept[0] == kept[2] != kept[1] and 0 < len(kept[1]) < 59


def test_the_engine_is_set_as_the_inference_nodes_is(gate: Path) -> None:
    kept = gated_cache(gate, budget=12)
    parameters = {name: parameter.default for name, parameter in table("inference").items()}
    parameters |= {f"cache_{name}": value for name, value in SIZES.items()}
    parameters |= {
        "cache_policy": "gated",
        "cache_gate": str(gate),
        "cache_budget": 12,
        "cache_capacity": kept.capacity,
    }
    ours, nodes = kept.engine(Remembering.spec), engine_options(parameters, BLOCK)
    assert replace(ours, gate=None, cache_policy="mean") == replace(nodes, gate=None, cache_policy="mean")
    assert ours.threshold == 0.25 and ours.gate is not None and nodes.gate is not None
    assert all(torch.equal(value, nodes.gate.state_dict()[name]) for name, value in ours.gate.state_dict().items())


def test_a_gate_that_does_not_tell_its_cache_is_refused_and_so_is_no_gate(tmp_path: Path) -> None:
    silent = tmp_path / "silent.safetensors"
    save_gate(silent, Gate(GateConfig.of(Remembering.spec.cache)), 0.5, {"plan": {"cache": {"sinks": 0}}})
    with pytest.raises(ValueError, match=r"silent.* does not tell for which cache it was trained, expected sinks"):
        gated_cache(silent, 256)
    with pytest.raises(GateFileError, match="missing"):
        gated_cache(tmp_path / "missing.safetensors", 256)


def test_sizes_that_are_not_asked_for_are_those_of_the_gate(gate: Path) -> None:
    assert choose_cache("gated", gate, 12) == gated_cache(gate, 12)
    assert choose_cache("gated", gate, 12, recent=6) == replace(gated_cache(gate, 12), recent=6)
    assert choose_cache("mean", None, 12) == CacheOptions("mean", budget=12)
    assert choose_cache("mean", None, 12, 1, 4, 2) == CacheOptions("mean", 1, 4, 2, 12)


def test_caches_with_other_gates_are_told_apart_whatever_the_files_are_called(gate: Path) -> None:
    kept = gated_cache(gate, 256)
    before = kept.with_gate_digest()
    copy = gate.with_name("copy.safetensors")
    copy.write_bytes(gate.read_bytes())
    assert replace(kept, gate=str(copy)).with_gate_digest() == before
    save_gate(gate, Gate(GateConfig.of(Remembering.spec.cache)), 0.25, {"plan": {"cache": SIZES}})
    assert gated_cache(gate, 256) == kept and kept.with_gate_digest() != before
    assert CacheOptions("full").with_gate_digest() == CacheOptions("full")
