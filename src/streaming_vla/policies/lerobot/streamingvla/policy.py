"""StreamingVLA behind the contract of a flow policy: action flow matching (one token a step, no noise)."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kv_cache.cache import CacheView
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, PolicySpec, Prefilled
from streaming_vla.policies.layout import Vector
from streaming_vla.policies.lerobot.denoising import padded
from streaming_vla.policies.lerobot.pi import Pi
from streaming_vla.policies.lerobot.pictures import as_tensor, letterbox
from streaming_vla.policies.lerobot.prefix import extend
from streaming_vla.policies.lerobot.streamingvla.norm_stats import Scale
from streaming_vla.policies.lerobot.streamingvla.predictor import Predictor, change
from streaming_vla.policies.lerobot.text import Tokenizer
from streaming_vla.policies.lerobot.vla_policy import VlaContext

HORIZON = 10  # actions of a context, and steps of its flow
PADDED = 32  # columns of the flow's state
PUSHED = 6  # dimensions of the actions that the predictor reads: all but the gripper
TYPICAL_CHANGE = 4.43  # length of the predicted change above which the release looks again


class StreamingVLAContext(NamedTuple):
    """What a prefill leaves.

    Args:
        read: what the steps read of the view, made once.
        executed: [A], raw sum of the episode's actions up to the observation.
    """

    read: VlaContext
    executed: Vector


class StreamingVLAPolicy:
    """Runs the network one slice at a time against a compressed cache. Call it from one thread.

    Its network does not read the robot's state. What it is fed as the state is the sum of all actions of the episode
    that were executed before the picture [A], raw, the gripper's too, from zeros: the flow begins there.

    Args:
        spec: what it is fed and what it gives.
        network: pi0.5's, for a suffix of one token.
        scale: of the actions.
        tokenizer: of its text.
        device: of the network.
        predictor: of `look_ahead` and of the base camera's tokens after pending actions; None: there is none.
    """

    def __init__(
        self,
        spec: PolicySpec,
        network: Pi,
        scale: Scale,
        tokenizer: Tokenizer,
        device: torch.device,
        predictor: Predictor | None = None,
    ) -> None:
        self.spec, self.network, self.predictor = spec, network, predictor
        self._scale, self._tokenize, self._device = scale, tokenizer, device

    def words(self, instruction: str) -> tuple[int, ...]:
        """Return the tokens of an instruction: in one line, and a new line of its own."""
        text = instruction.strip().replace("_", " ").replace("\n", " ")
        return self._tokenize.followed_by(text, "\n")

    @torch.inference_mode()
    def prefill(self, observation: PolicyObservation, view: CacheView) -> Generator[None, None, Prefilled]:
        """Encode camera by camera, look ahead, then run layer by layer; a slice ends at every yield."""
        size, pictures = self.spec.image_size, []
        for picture in observation.images:
            fitted = letterbox(as_tensor(picture, self._device), size, size, centred=True)
            pictures.append(self.network.picture(fitted * 2.0 - 1.0))
            yield
        seen = pictures[0] if self.predictor is not None else None
        if self.predictor is not None and observation.pending is not None:
            pictures[0] = pictures[0] + change(self.predictor, pictures[0], self._pushed(observation.pending))
            yield
        nothing = torch.zeros(0, device=self._device)
        tokens = torch.tensor(self.words(observation.instruction), device=self._device)
        embedded, sees = self.network.prefix(pictures, tokens, nothing)
        keys, values = yield from extend(self.network.text, embedded, view, sees, self.network.rope_base)
        state = np.asarray(observation.state, dtype=np.float32)
        context = StreamingVLAContext(VlaContext(embedded.shape[1], nothing, state), state.astype(np.float64))
        return Prefilled(keys, values, seen, context)

    @torch.inference_mode()
    def flow_step(self, query: FlowQuery) -> Vector:
        """Return action `query.index`, [A], clipped to the layout (see FlowPolicy).

        Raises:
            ValueError: the index is outside of the horizon.
        """
        if not 0 <= query.index < HORIZON:
            raise ValueError(f"flow step {query.index} is outside of the trained horizon 0 .. {HORIZON - 1}")
        context: StreamingVLAContext = query.context
        scale = self._scale
        # the state and each action since are normalised on their own, so the shift counts once for each
        state = scale.slope * (context.executed + query.position) + (1 + query.index) * scale.shift
        flow = padded(torch.from_numpy(state.astype(np.float32)).to(self._device), PADDED).unsqueeze(0)
        prepared = context.read.prepared(self.network, query.view)
        velocity = self.network.velocity(flow, query.index / HORIZON, prepared)[0, : len(state)]
        action: Vector = (velocity.double().cpu().numpy() / HORIZON - scale.shift) / scale.slope
        return self.spec.layout.clip(action)

    @torch.inference_mode()
    def look_ahead(self, seen: Tensor, pending: Vector) -> float:
        """Return how long the predicted change of the base camera's tokens is, in units of TYPICAL_CHANGE."""
        assert self.predictor is not None, "only a prefill with a predictor leaves something seen"
        moved = change(self.predictor, seen, self._pushed(pending)).float()
        return float(torch.linalg.vector_norm(moved)) / TYPICAL_CHANGE

    def _pushed(self, pending: Vector) -> Tensor:
        return torch.from_numpy(np.asarray(pending, dtype=np.float32)[:PUSHED]).to(self._device)
