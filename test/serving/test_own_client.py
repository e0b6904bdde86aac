"""The suite's own client (`openpi://`) against the suite's own server: the whole way of a remote policy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from conftest import Served
from policies import SPEC, Guided, Summing

from kv_cache.cache import CacheView, SessionCache
from kv_cache.policies import make_policy
from streaming_vla.engine.options import CacheOptions
from streaming_vla.policies.chunk import ChunkAsStream
from streaming_vla.policies.contract import FlowQuery, PlannedActions, PolicyObservation, Prefilled, run_slices
from streaming_vla.policies.registry import load_policy
from streaming_vla.policies.remote.options import RemoteOptions

Serve = Callable[..., Served]
FULL = CacheOptions(cache_policy="full", cache_capacity=64)
PICTURES = np.zeros((2, 16, 16, 3), np.uint8)


class Robot:
    """A robot's session of the remote policy."""

    def __init__(self, policy: ChunkAsStream) -> None:
        self._policy = policy
        self.begin()

    def begin(self) -> None:
        """Begin an episode."""
        self._cache = SessionCache(self._policy.spec.cache, make_policy("full", sinks=0, recent=0, capacity=64))

    def chunk(self, state: float, planned: PlannedActions | None = None) -> np.ndarray:
        """Return the rows for a state."""
        seen = PolicyObservation(PICTURES, np.array([state, 0.0], np.float32), "open", planned=lambda: planned)
        with torch.inference_mode():
            left: Prefilled = run_slices(self._policy.prefill(seen, self._cache.view()))
            self._cache.append(left.keys, left.values)
            view: CacheView = self._cache.view()
            context = run_slices(self._policy.complete(seen, view, left.context))
            rows = range(self._policy.spec.trained_horizon)
            return np.stack([self._policy.flow_step(FlowQuery(view, np.zeros(2), row, context)) for row in rows])


def connected(served: Served, key_file: Path | None = None) -> ChunkAsStream:
    """Return the policy that the server computes."""
    policy = load_policy(f"openpi://{served.address}", remote=RemoteOptions(key_file=key_file))
    assert isinstance(policy, ChunkAsStream)
    return policy


def test_it_is_the_policy_with_its_history_and_its_key(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    policy = connected(serve(Summing(), key="secret", cache=FULL), tmp_path / "key")
    spec = policy.spec
    assert (spec.name, spec.cameras, spec.layout, spec.chunk) == (SPEC.name, SPEC.cameras, SPEC.layout, True)
    robot = Robot(policy)
    assert [robot.chunk(state)[0, 0] for state in (1.0, 2.0)] == [1.0, 3.0]
    robot.begin()
    assert robot.chunk(4.0).tolist() == [[4.0, 0.5]] * 4, "nothing of the old episode"


def test_actions_ahead_reach_the_policy(serve: Serve) -> None:
    behind = Guided()
    robot = Robot(connected(serve(ChunkAsStream(behind))))
    planned = np.array([[0.5, 0.25], [0.6, 0.75]])
    robot.chunk(1.0)
    assert robot.chunk(1.0, PlannedActions(planned, 1))[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    none, guide = behind.guides
    assert none is None and guide is not None
    assert guide.target[:2].tolist() == planned.tolist() and guide.weight[0] == 1.0
