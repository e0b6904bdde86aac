"""The chunk head of the compact network as a policy of its own: what its stream is compared with, on the same eyes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kv_cache.cache import CacheView
from streaming_vla.policies.compact.experts import batch_of
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.policies.contract import PolicyObservation, PolicySpec, Prefilled, Slices
from streaming_vla.policies.guide import Guide
from streaming_vla.policies.layout import Vector

Prefill = Callable[[PolicyObservation, CacheView], Slices[Prefilled]]


@dataclass(frozen=True)
class ChunkBegin:
    """When the first action of a chunk begins: what a prefill leaves for its denoising.

    Args:
        state: [state_size] of the robot, in its units.
        pending: [A], sum of the actions that will be executed between `state` and that moment, and the newest target of
            absolute dimensions; None: none, a target is where the robot is.
        age: of the picture by then, control periods.
    """

    state: npt.NDArray[np.float32]
    pending: Vector | None = None
    age: int = 0


class ChunkHead:
    """Denoises chunks of `chunk_horizon` actions (see ChunkPolicy) that begin with their pictures.

    Args:
        spec: of the policy that it belongs to.
        prefill: of that policy.
    """

    def __init__(self, model: CompactModel, spec: PolicySpec, prefill: Prefill) -> None:
        self._model = model
        self.spec = replace(spec, trained_horizon=model.config.chunk_horizon)
        self._prefill = prefill

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
        """Prefill as the policy does; leaves a ChunkBegin."""
        prefilled = yield from self._prefill(observation, view)
        return prefilled._replace(context=ChunkBegin(observation.state))

    def denoise(
        self, view: CacheView, context: ChunkBegin, steps: int, guide: Guide | None, random: np.random.Generator
    ) -> Slices[Vector]:
        """Return the chunk [H, A] after `steps` Euler steps from noise (see ChunkPolicy)."""
        layout = self.spec.layout
        noise = random.standard_normal((self.spec.trained_horizon, layout.size))
        chunk = torch.from_numpy(noise.astype(np.float32)).unsqueeze(0).unsqueeze(0)
        batch, first = batch_of([view]), torch.tensor([view.next_position])
        exact = guide is not None and guide.exact
        state = as_tensor(context.state).view(1, 1, -1)
        before = self._model.stands(state) if context.pending is None else as_tensor(context.pending).view(1, 1, -1)
        now = self._model.moment(state, before, torch.tensor([[context.age]]))
        if guide is not None:
            target = self._model.chunk_told(as_tensor(guide.target), before[0, 0])
            guide = replace(guide, target=target.double().numpy())
        for step in range(steps):
            if step:
                yield None
            time = step / steps
            with torch.inference_mode(not exact), torch.set_grad_enabled(exact):
                noisy = chunk.detach().clone().requires_grad_() if exact else chunk
                velocity = self._model.chunk(noisy, torch.full((1, 1), time), now, batch, first, mask=None)
                if guide is not None:
                    velocity = velocity + _guidance(noisy, velocity, time, guide)
                chunk = (noisy + velocity / steps).detach()
        return layout.clip(self._model.chunk_meant(chunk, before)[0, 0].double().numpy())


def as_tensor(values: object) -> Tensor:
    """Return numbers as the network takes them."""
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def _guidance(noisy: Tensor, velocity: Tensor, time: float, guide: Guide) -> Tensor:
    """Return what real-time chunking adds to the velocity [1, 1, H, A] (see Guide)."""
    actions = noisy + (1.0 - time) * velocity
    target = torch.from_numpy(np.asarray(guide.target, dtype=np.float32))
    weight = torch.from_numpy(np.asarray(guide.weight, dtype=np.float32)).unsqueeze(-1)
    pull = ((target - actions) * weight).detach()
    if guide.exact:
        (pull,) = torch.autograd.grad(actions, noisy, pull)
    return (guide.gain(time) * pull).detach()
