"""SmolVLA or pi0.5 with a flow head, behind the contract of a flow policy: one token a step gives one action."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kv_cache.cache import CacheView
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, PolicySpec, Prefilled
from streaming_vla.policies.layout import Vector
from streaming_vla.policies.lerobot.denoising import padded
from streaming_vla.policies.lerobot.flow_head.fresh_body import FreshBody
from streaming_vla.policies.lerobot.flow_head.units import FlowUnits
from streaming_vla.policies.lerobot.normalisation import Values
from streaming_vla.policies.lerobot.vla_policy import VlaContext, VlaPolicy


@dataclass
class FlowContext:
    """What a prefill leaves.

    Args:
        read: what the steps read of the view.
        begun: where the newest flow of it took over: its step, where the robot was told to be, and where it was [A].
    """

    read: VlaContext
    begun: tuple[int, Vector, Vector] | None = None


class FlowHeadPolicy:
    """Runs the network one slice at a time against a compressed cache. Call it from one thread.

    Args:
        read: the policy that reads observations; its network is made for one token a step.
        fresh: its flow head's own tensors.
        units: of its actions.
    """

    def __init__(self, read: VlaPolicy, fresh: FreshBody, units: FlowUnits) -> None:
        self.policy, self.fresh, self.units = read, fresh, units

    @property
    def spec(self) -> PolicySpec:
        """What it is fed and what it gives."""
        return self.policy.spec

    def warm_up(self, tokens: int) -> None:
        """Compile the steps where that was asked for (see VlaPolicy)."""
        self.policy.warm_up(tokens)

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Generator[None, None, Prefilled]:
        """Encode camera by camera, then run layer by layer; a slice ends at every yield (see FlowPolicy)."""
        left = yield from self.policy.prefill(observation, view)
        return left._replace(context=FlowContext(left.context))

    @torch.inference_mode()
    def flow_step(self, query: FlowQuery) -> Vector:
        """Return action `query.index`, [A], clipped to the layout (see FlowPolicy).

        Raises:
            ValueError: the index is outside of the horizon.
        """
        spec, context, units = self.spec, query.context, self.units
        if not 0 <= query.index < spec.trained_horizon:
            raise ValueError(
                f"flow step {query.index} is outside of the trained horizon 0 .. {spec.trained_horizon - 1}"
            )
        state = np.asarray(context.read.raw_state if query.state is None else query.state, dtype=np.float32)
        begun = self._begun(query, state)
        position = begun if query.index == query.first else query.position
        pending = np.zeros(spec.layout.size) if query.pending is None else query.pending
        sizes, horizon = self.policy.sizes, spec.trained_horizon
        told = self._tensor(units.lacking(position, pending, state))
        seen = self._tensor(self.policy.before.state.normalise(state))
        age = torch.tensor(query.index / horizon, device=sizes.device)
        added = self.fresh(seen, told, age).unsqueeze(0)
        moved = padded(self._tensor(units.moved(position, begun)), sizes.action).unsqueeze(0)
        time = (query.index - query.first) / horizon
        prepared = context.read.prepared(self.policy.network, query.view)
        step = self.policy.network.velocity(moved, time, prepared, added)[0, : spec.layout.size]
        return spec.layout.clip(units.action(position, step.double().cpu().numpy()))

    def look_ahead(self, seen: Tensor, pending: Vector) -> float:
        """Never asked: the prefill leaves nothing seen."""
        raise ValueError(f"policy {self.spec.name} has no look-ahead predictor")

    def _begun(self, query: FlowQuery, state: npt.NDArray[np.float32]) -> Vector:
        """Return where the flow took over, [A]; its first step finds out whether anything was sent before."""
        told = query.begun
        if told is None:
            told = np.where(self.units.absolute, query.position, 0.0)
        context: FlowContext = query.context
        if query.index == query.first:
            context.begun = query.first, told, self.units.begins(told, state)
        known = context.begun
        if known is not None and known[0] == query.first and np.array_equal(known[1], told):
            return known[2]
        return told

    def _tensor(self, values: Values) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(self.policy.sizes.device)
