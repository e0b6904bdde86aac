"""The compact network behind the contract of a streaming policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kv_cache.cache import CacheView
from streaming_vla.policies.compact.chunk_head import ChunkHead, as_tensor
from streaming_vla.policies.compact.experts import LayerCache, Moment, batch_of, refuse_bias
from streaming_vla.policies.compact.language import Tokenizer
from streaming_vla.policies.compact.layers import Layer, attend, rotated
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.policies.compact.vision import CameraEncoder
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, PolicySpec, Prefilled, Slices
from streaming_vla.policies.layout import Vector


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
        chunks: its chunk head, a policy of chunks.
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
            trained_delay=0,  # a step is for the moment so far behind its picture, so a late context skips what is over
        )
        self.chunks = ChunkHead(self.model, self.spec, self.prefill)

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
                moved = seen + self.predictor(seen, as_tensor(observation.pending))
                tokens = torch.cat((moved.unsqueeze(0), tokens[:, count:]), dim=1)
        keys, values = yield from self.extend(tokens, view)
        return Prefilled(keys, values, seen, observation.state)

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
        refuse_bias(view)
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
        before, *asked = self._asked(queries)
        answers = self.model.meant(self.model.flow(*asked)[:, 0], before)
        return [self._layout.clip(action.double().numpy()) for action in answers]

    @property
    def doubts(self) -> bool:
        """Whether `doubt` has been trained."""
        return bool(self.model.flow.doubts)

    @torch.inference_mode()
    def doubt(self, query: FlowQuery) -> float:
        """Return how much a picture of now is expected to better the action of `query` (see DoubtingPolicy)."""
        return float(self.model.flow.judge(*self._asked([query])[1:])[1])

    def _asked(self, queries: Sequence[FlowQuery]) -> tuple[Tensor, Moment, LayerCache, Tensor, None]:
        """Return the targets before [B, A] and what the flow expert is asked."""
        horizon = self.model.config.trained_horizon
        for query in queries:
            if not 0 <= query.index < horizon:
                raise ValueError(f"flow step {query.index} is outside the trained horizon 0 .. {horizon - 1}")
        known = [query.context if query.state is None else query.state for query in queries]
        if any(state is None for state in known):
            raise ValueError("a flow step needs the robot's state, or what the prefill left")
        nothing = np.zeros(self._layout.size)
        sums = [nothing if query.pending is None else query.pending for query in queries]
        before = as_tensor(np.where(self._layout.absolute, [query.position for query in queries], sums))
        age = torch.tensor([[query.index] for query in queries])
        moment = self.model.moment(as_tensor(known).unsqueeze(1), before.unsqueeze(1), age)
        places = torch.tensor([queries[0].view.next_position])
        return before, moment, batch_of([query.view for query in queries]), places, None

    @torch.inference_mode()
    def plan(self, view: CacheView, context: object = None) -> Vector:
        """Return all actions of a context in two passes (see PlanningPolicy).

        The second pass is told the actions of the first as pending.
        """
        model, horizon = self.model, self.model.config.trained_horizon
        age = torch.arange(horizon)
        places = torch.tensor([view.next_position] * horizon)
        state = as_tensor(context).expand(horizon, -1)
        stands = model.stands(state)
        before, answers = stands, np.zeros((horizon, self._layout.size))
        for _ in range(2):
            moment = Moment(*(part.unsqueeze(0) for part in model.moment(state, before, age)))
            told = model.flow(moment, batch_of([view]), places, None)[0]
            answers = self._layout.clip(model.meant(told, before).double().numpy())
            moves = torch.where(model.followed, as_tensor(answers) - before, as_tensor(answers))
            before = stands + moves.cumsum(dim=0) - moves
        return answers

    @torch.inference_mode()
    def look_ahead(self, seen: Tensor, pending: Vector) -> float:
        """Return what the predictor says (see FlowPolicy); an observation without one leaves nothing `seen`."""
        assert self.predictor is not None, "only a prefill with a predictor leaves something seen"
        return float(self.predictor.saliency(seen, as_tensor(pending)))
