"""The compact network behind the contract of a streaming policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kv_cache.cache import CacheView
from streaming_vla.policies.compact.experts import LayerCache
from streaming_vla.policies.compact.language import Tokenizer
from streaming_vla.policies.compact.layers import Layer, attend, rotated
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.policies.compact.vision import CameraEncoder
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, PolicySpec, Prefilled, Slices
from streaming_vla.policies.guide import Guide
from streaming_vla.policies.layout import Vector

# Share of an action that is answered without the flow's state, which training hides now and then (Flow.hidden). The sum
# of the actions tells whether a motion has begun: a policy that only hesitates at first sees a small sum, takes it for
# a rest that was meant, and stays. Measured in benchmarks/policy.
BLIND = 0.5
TRAINED_DELAY = 4  # actions that the windows of every shipped training plan begin behind their picture, at most


class Predictor(Protocol):
    """Says how the base camera's tokens change when actions are executed (saliency.predictor.ChangePredictor)."""

    def __call__(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Return the change, [..., T, F], of tokens [..., T, F] by summed actions [..., A]."""

    def saliency(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Return the length of that change in units of a typical one, [...]."""


class CompactPolicy:
    """Runs a CompactModel one slice at a time against a compressed cache. Call it from one thread.

    What reads a view raises ValueError when the view has a bias: the network's attention adds none.

    Attributes:
        predictor: of `look_ahead` and of the tokens after pending actions; None: the policy has none.
    """

    def __init__(self, model: CompactModel, name: str, predictor: Predictor | None = None) -> None:
        config = model.config
        self.model = model.eval()
        self.predictor = predictor
        self._tokenize = Tokenizer(config.words, config.maximum_words)
        self._layout = config.layout
        self.spec = PolicySpec(
            name=name,
            cameras=config.cameras,
            image_size=config.image_size,
            state_size=config.state_size,
            layout=config.layout,
            execution_horizon=config.execution_horizon,
            trained_horizon=config.trained_horizon,
            tokens_per_observation=config.tokens_per_observation,
            cache=config.cache,
            trained_delay=TRAINED_DELAY,
        )

    @property
    def base_encoder(self) -> CameraEncoder:
        """The encoder of the first camera, whose tokens the predictor looks ahead from."""
        return next(iter(self.model.cameras))

    @torch.inference_mode()
    def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
        """Encode camera by camera, then run layer by layer; a slice ends at every yield (see FlowPolicy)."""
        tokens, seen = (yield from self.encode(observation)), None
        if self.predictor is not None:
            count = self.model.config.tokens_per_camera
            seen = tokens[0, :count]
            if observation.pending is not None:
                moved = seen + self.predictor(seen, _as_tensor(observation.pending))
                tokens = torch.cat((moved.unsqueeze(0), tokens[:, count:]), dim=1)
        keys, values = yield from self.extend(tokens, view)
        return Prefilled(keys, values, seen)

    @torch.inference_mode()
    def encode(self, observation: PolicyObservation) -> Slices[Tensor]:
        """Return the tokens of an observation alone, [1, tokens_per_observation, width]; yields between slices."""
        model = self.model
        pictures = torch.from_numpy(observation.images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
        parts = []
        for index, encoder in enumerate(model.cameras):
            parts.append(encoder(pictures[index : index + 1]))
            yield None
        parts.append(model.words(torch.tensor([self._tokenize(observation.instruction)])))
        parts.append(model.own_state(torch.from_numpy(observation.state).unsqueeze(0)))
        return torch.cat(parts, dim=1)

    @torch.inference_mode()
    def extend(self, tokens: Tensor, view: CacheView) -> Slices[tuple[Tensor, Tensor]]:
        """Run the tokens of an observation behind `view`; returns what `prefill` does."""
        _refuse_bias(view)
        model, base = self.model, self.model.config.rope_base
        positions = view.next_position + torch.arange(tokens.shape[1])
        new_keys, new_values = [], []
        for number, layer in enumerate(model.trunk_layers):
            keys_before, values_before = view.keys[number], view.values[number]
            queries, keys, values = layer.heads_of(tokens)
            new_keys.append(keys[0])
            new_values.append(values[0])
            if isinstance(layer, Layer):
                if view.observe_queries is not None:
                    view.observe_queries(number, queries[0])
                keys = torch.cat((keys_before.unsqueeze(0), rotated(keys, positions, base)), dim=2)
                values = torch.cat((values_before.unsqueeze(0), values), dim=2)
                tokens = layer.finish(tokens, attend(rotated(queries, positions, base), keys, values))
                yield None
        return torch.stack(new_keys), torch.stack(new_values)

    @torch.inference_mode()
    def flow_step(self, query: FlowQuery) -> Vector:
        """Return action `query.index` of the newest observation in its view (see FlowPolicy)."""
        return self.flow_steps([query])[0]

    @torch.inference_mode()
    def flow_steps(self, queries: Sequence[FlowQuery]) -> list[Vector]:
        """Return the action of each query, all in one pass (see BatchingPolicy)."""
        horizon = self.model.config.trained_horizon
        for query in queries:
            if not 0 <= query.index < horizon:
                raise ValueError(f"flow step {query.index} is outside the trained horizon 0 .. {horizon - 1}")
        # two tokens for each query: one sees the flow's state, the other does not
        state = torch.stack([_as_tensor(query.position) for query in queries]).unsqueeze(1).expand(-1, 2, -1)
        time = torch.tensor([[query.index / horizon] * 2 for query in queries])
        known = torch.tensor([True, False]).expand(len(queries), -1)
        places = torch.tensor([queries[0].view.next_position] * 2)
        answers = self.model.flow(state, time, _batch([query.view for query in queries]), places, None, known)
        actions = torch.lerp(answers[:, 0], answers[:, 1], BLIND)
        return [self._layout.clip(action.double().numpy()) for action in actions]

    @torch.inference_mode()
    def plan(self, view: CacheView, context: object = None) -> Vector:
        """Return all actions as the tokens without the flow's state give them, in one pass (see PlanningPolicy)."""
        horizon = self.model.config.trained_horizon
        time = torch.arange(horizon).unsqueeze(0) / horizon
        hidden = torch.zeros(1, horizon, dtype=torch.bool)
        nowhere = torch.zeros(1, horizon, self._layout.size)
        places = torch.tensor([view.next_position] * horizon)
        answers = self.model.flow(nowhere, time, _batch([view]), places, None, hidden)
        return self._layout.clip(answers[0].double().numpy())

    def denoise(
        self, view: CacheView, context: object, steps: int, guide: Guide | None, random: np.random.Generator
    ) -> Slices[Vector]:
        """Return the chunk [H, A] after `steps` Euler steps from noise (see ChunkPolicy)."""
        config = self.model.config
        noise = random.standard_normal((config.trained_horizon, self._layout.size))
        chunk = torch.from_numpy(noise.astype(np.float32)).unsqueeze(0).unsqueeze(0)
        batch, first = _batch([view]), torch.tensor([view.next_position])
        exact = guide is not None and guide.exact
        for step in range(steps):
            if step:
                yield None
            time = step / steps
            with torch.inference_mode(not exact), torch.set_grad_enabled(exact):
                noisy = chunk.detach().clone().requires_grad_() if exact else chunk
                velocity = self.model.chunk(noisy, torch.full((1, 1), time), batch, first, mask=None)
                if guide is not None:
                    velocity = velocity + _guidance(noisy, velocity, time, guide)
                chunk = (noisy + velocity / steps).detach()
        return self._layout.clip(chunk[0, 0].double().numpy())

    @torch.inference_mode()
    def look_ahead(self, seen: Tensor, pending: Vector) -> float:
        """Return what the predictor says (see FlowPolicy); an observation without one leaves nothing `seen`."""
        assert self.predictor is not None, "only a prefill with a predictor leaves something seen"
        return float(self.predictor.saliency(seen, _as_tensor(pending)))


def _as_tensor(values: Vector) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def _refuse_bias(view: CacheView) -> None:
    if view.bias is not None:
        raise ValueError("compact policy: its attention does not add log_count, make the cache policy without")


def _batch(views: Sequence[CacheView]) -> LayerCache:
    for view in views:
        _refuse_bias(view)
    if len(views) == 1:  # nothing to copy
        keys, values = views[0].keys.unsqueeze(1), views[0].values.unsqueeze(1)
    else:
        keys = torch.stack([view.keys for view in views], dim=1)
        values = torch.stack([view.values for view in views], dim=1)
    return list(zip(keys, values, strict=True))


def _guidance(noisy: Tensor, velocity: Tensor, time: float, guide: Guide) -> Tensor:
    """Return what real-time chunking adds to the velocity [1, 1, H, A] (see Guide)."""
    actions = noisy + (1.0 - time) * velocity
    target = torch.from_numpy(np.asarray(guide.target, dtype=np.float32))
    weight = torch.from_numpy(np.asarray(guide.weight, dtype=np.float32)).unsqueeze(-1)
    pull = ((target - actions) * weight).detach()
    if guide.exact:
        (pull,) = torch.autograd.grad(actions, noisy, pull)
    return (guide.gain(time) * pull).detach()
