"""Makes a stream of a chunk policy: the chunk is denoised with its observation, and a flow step reads its row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from kv_cache.cache import CacheView
from streaming_vla.policies.contract import (
    ChunkPolicy,
    FlowQuery,
    Matrix,
    PlannedActions,
    PolicyObservation,
    Prefilled,
    Slices,
    WarmingPolicy,
    reported_figures,
)
from streaming_vla.policies.guide import Guide
from streaming_vla.policies.layout import Vector
from streaming_vla.policies.rtc import guide_towards


@dataclass(frozen=True)
class ChunkOptions:
    """How a chunk is denoised.

    Args:
        steps: Euler steps from noise to actions; 0: as the policy says.
        execution_horizon: actions of a chunk that are meant to be executed; 0: as the policy says.
        guided: real-time chunking: the chunk is pulled towards the actions that are planned already.
        beta: largest gain of that guidance.
        exact: through the true Jacobian, or the identity for it.
        seed: of the noise.
    """

    steps: int = 0
    execution_horizon: int = 0
    guided: bool = True
    beta: float = 5.0
    exact: bool = False
    seed: int = 0


class _Chunk(NamedTuple):
    """What is kept of a context: what the policy's prefill left, and the chunk [H, A], clipped to the layout."""

    own: Any
    rows: Matrix


class ChunkAsStream:
    """A chunk policy behind the contract of a flow policy.

    Row i of a chunk belongs to the i-th action from its picture on, so a context that takes over late begins with the
    row that fits: its `trained_delay` is 0.

    Args:
        policy: of chunks.
        options: how they are denoised.

    Raises:
        ValueError: the policy's chunks have fewer rows than are to be executed.
    """

    def __init__(self, policy: ChunkPolicy, options: ChunkOptions | None = None) -> None:
        self.policy = policy
        self.options = options or ChunkOptions()
        self.spec = replace(
            policy.spec,
            chunk=True,
            trained_delay=0,
            execution_horizon=self.options.execution_horizon or policy.spec.execution_horizon,
            denoise_steps=self.options.steps or policy.spec.denoise_steps,
        )
        self._random = np.random.default_rng(self.options.seed)

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
        """Prefill as the policy does."""
        return self.policy.prefill(observation, view)

    def complete(self, observation: PolicyObservation, view: CacheView, context: Any) -> Slices[Any]:
        """Denoise the chunk (see CompletingPolicy).

        Raises:
            ValueError: the policy returns no chunk [H, A] of finite numbers.
        """
        guide = self._guide(observation.planned())
        steps = self.spec.denoise_steps
        rows = yield from self.policy.denoise(view, context, steps, guide, self._random)
        return _Chunk(context, self._checked(rows))

    def flow_step(self, query: FlowQuery) -> Vector:
        """Return row `query.index` of the chunk."""
        row: Vector = query.context.rows[query.index]
        return row

    def plan(self, view: CacheView, context: Any) -> Vector:
        """Return the chunk."""
        rows: Vector = context.rows
        return rows

    def figures(self) -> dict[str, object]:
        """Return what the policy says about itself in the diagnostics."""
        return reported_figures(self.policy)

    def warm_up(self, tokens: int) -> None:
        """Let the policy do what it has to do before the first motion."""
        if isinstance(self.policy, WarmingPolicy):
            self.policy.warm_up(tokens)

    def look_ahead(self, seen: Tensor, pending: Vector) -> float:
        """Never asked: the prefill leaves nothing seen."""
        raise ValueError(f"policy {self.spec.name} has no look-ahead predictor")

    def _guide(self, planned: PlannedActions | None) -> Guide | None:
        if planned is None or not self.options.guided:
            return None
        return guide_towards(
            planned.actions, planned.delay, self.spec.trained_horizon, self.options.beta, self.options.exact
        )

    def _checked(self, rows: object) -> Matrix:
        chunk = np.asarray(rows, dtype=np.float64)
        expected = (self.spec.trained_horizon, self.spec.layout.size)
        if chunk.shape != expected:
            raise ValueError(f"its chunk has shape {chunk.shape}, expected {expected}: horizon and action dimensions")
        if not np.isfinite(chunk).all():
            bad = np.flatnonzero(~np.isfinite(chunk).all(axis=1))
            raise ValueError(f"its chunk is not finite in row {bad[0]}")
        return self.spec.layout.clip(chunk)
