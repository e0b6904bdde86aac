"""ACT behind the contract of a chunk policy: one forward pass gives the chunk."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kv_cache.cache import CacheView
from streaming_vla.policies.contract import PolicyObservation, PolicySpec, Prefilled
from streaming_vla.policies.guide import Guide
from streaming_vla.policies.lerobot.act import ACT
from streaming_vla.policies.lerobot.pictures import as_tensor, letterbox, without_letterbox
from streaming_vla.policies.lerobot.processors import Postprocessor, Preprocessor
from streaming_vla.policies.lerobot.sample import Sample

Matrix = npt.NDArray[np.float64]


class ACTContext(NamedTuple):
    """What a prefill leaves: the normalised chunk [H, A], and the state as the robot said it."""

    chunk: npt.NDArray[np.float32]
    raw_state: npt.NDArray[np.float32]


class ACTPolicy:
    """Runs the network one slice at a time. Call it from one thread.

    It keeps no history: an observation adds one empty token to the cache, and what is in a view is not read.

    Args:
        spec: what it is fed and what it gives; pictures are letterboxed, the policy cuts the padding off again.
        network: ACT's.
        before, after: processors of the checkpoint.
        shapes: height and width of each picture feature, in the order of the spec's cameras.
        device: of the network.
    """

    def __init__(
        self,
        spec: PolicySpec,
        network: ACT,
        before: Preprocessor,
        after: Postprocessor,
        shapes: Mapping[str, tuple[int, ...]],
        device: torch.device,
    ) -> None:
        self.spec, self.network, self.before, self.after = spec, network, before, after
        self._shapes, self._device = shapes, device

    def sample(self, observation: PolicyObservation) -> Sample:
        """Return an observation as the checkpoint's processor makes it."""
        pictures = {}
        for (feature, (height, width)), picture in zip(self._shapes.items(), observation.images, strict=True):
            seen = as_tensor(without_letterbox(picture, height, width), self._device)
            pictures[feature] = letterbox(seen, height, width, centred=True)  # nothing to do where sizes are right
        state = np.asarray(observation.state, dtype=np.float32)
        return self.before(Sample(pictures, state, observation.instruction, state))

    @torch.inference_mode()
    def prefill(self, observation: PolicyObservation, view: CacheView) -> Generator[None, None, Prefilled]:
        """Run the backbone camera by camera, then encoder and decoder; a slice ends at every yield."""
        network, sample = self.network, self.sample(observation)
        dtype = network.action_head.weight.dtype
        maps: list[Tensor] = []
        for picture in sample.pictures.values():
            maps.append(network.backbone(picture.to(dtype)))
            yield
        tokens, places = network.tokens(maps, torch.from_numpy(sample.state).to(self._device, dtype))
        seen = network.encode(tokens, places)
        yield
        chunk = network.action_head(network.decode(seen, places)[:, 0]).float().cpu().numpy()
        cache = self.spec.cache
        empty = torch.zeros(cache.layers, cache.kv_heads, 1, cache.head_dim, device=view.keys.device)
        return Prefilled(empty, empty, None, ACTContext(chunk, sample.raw_state))

    def denoise(
        self, view: CacheView, context: ACTContext, steps: int, guide: Guide | None, random: np.random.Generator
    ) -> Generator[None, None, Matrix]:
        """Return the chunk [H, A] in action units (see ChunkPolicy).

        It is there since the prefill, and no flow leads to it: steps, guide and noise change nothing.
        """
        yield
        return self.after.actions(context.chunk, context.raw_state)
