"""SmolVLA, pi0 and pi0.5 behind the contract of a chunk policy."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kv_cache.cache import CacheView
from streaming_vla.policies.contract import PolicyObservation, PolicySpec, Prefilled
from streaming_vla.policies.guide import Guide
from streaming_vla.policies.lerobot.compiled import CompiledExpert
from streaming_vla.policies.lerobot.denoising import Pull, denoise, padded
from streaming_vla.policies.lerobot.layers import DecoderLayer
from streaming_vla.policies.lerobot.pictures import as_tensor, letterbox
from streaming_vla.policies.lerobot.prefix import extend
from streaming_vla.policies.lerobot.processors import Postprocessor, Preprocessor
from streaming_vla.policies.lerobot.sample import Sample
from streaming_vla.policies.lerobot.weights import Names

LOGGER = logging.getLogger(__name__)
SAID = 300  # characters of what a compiler says, which is pages
Matrix = npt.NDArray[np.float64]


class VlaNetwork(Protocol):
    """What SmolVLA's and pi's networks have in common; see there."""

    rope_base: float
    expert_width: int
    compiled: CompiledExpert | None

    @property
    def text(self) -> Sequence[DecoderLayer]:
        """Layers of the text tower."""

    def picture(self, pixels: Tensor) -> Tensor:
        """Return the tokens of a picture."""

    def prefix(self, pictures: Sequence[Tensor], tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return an observation as the text tower reads it, and who sees whom."""

    def prepare(self, view: CacheView, own: int, state: Tensor) -> Any:
        """Return what the steps of a flow read of a view."""

    def velocity(self, noisy: Tensor, time: float, context: Any, added: Tensor | None = None) -> Tensor:
        """Return noise minus actions."""


@dataclass(frozen=True)
class PolicySizes:
    """What a policy is told beside its network.

    Args:
        height, width: of its pictures.
        centred: of the letterbox.
        state, action: padded sizes.
        horizon: rows H of a chunk.
        device: of the network.
        compiled: the steps of a flow are to be compiled by `warm_up`.
    """

    height: int
    width: int
    centred: bool
    state: int
    action: int
    horizon: int
    device: torch.device
    compiled: bool = False


class VlaContext:
    """What a prefill leaves for the denoising of its chunk.

    Args:
        own: tokens of the observation.
        state: [padded], normalised.
        raw_state: [S], as the robot said it.
    """

    def __init__(self, own: int, state: Tensor, raw_state: npt.NDArray[np.float32]) -> None:
        self.own, self.state, self.raw_state = own, state, raw_state
        self._prepared: tuple[CacheView, Any] | None = None

    def prepared(self, network: VlaNetwork, view: CacheView) -> Any:
        """Return what the network reads of the view in every step, made once for as long as the view is the same."""
        if self._prepared is None or self._prepared[0] is not view:
            self._prepared = view, network.prepare(view, self.own, self.state)
        return self._prepared[1]


class VlaPolicy:
    """Runs a network one slice at a time against a compressed cache. Call it from one thread.

    Args:
        spec: what it is fed and what it gives.
        network: SmolVLA's or pi's.
        sizes: of pictures, state and chunk.
        before, after: processors of the checkpoint.
        features: picture feature of each of the spec's cameras, in their order.
        names: of the network's tensors in the checkpoint.
    """

    def __init__(
        self,
        spec: PolicySpec,
        network: VlaNetwork,
        sizes: PolicySizes,
        before: Preprocessor,
        after: Postprocessor,
        features: Mapping[str, str],
        names: Names,
    ) -> None:
        self.spec, self.network, self.sizes = spec, network, sizes
        self.before, self.after = before, after
        self.features, self.names = features, names

    def warm_up(self, tokens: int) -> None:
        """Compile the steps for views of up to `tokens` tokens, where that was asked for, and run one (see contract).

        Where the compiler fails, the policy goes on without, and says so in the log.
        """
        if not self.sizes.compiled:
            return
        begun_s, self.network.compiled = time.monotonic(), CompiledExpert(tokens)
        try:
            self._one_step()
        except Exception as error:  # of whatever compiler there is
            self.network.compiled = None
            LOGGER.warning(
                "model_compile: torch.compile fails, policy %s runs without it: %s",
                self.spec.name,
                " ".join(f"{type(error).__name__} {error}".split())[:SAID],
            )
        else:
            LOGGER.info("The steps of policy %s are compiled in %.1f s", self.spec.name, time.monotonic() - begun_s)

    @torch.inference_mode()
    def _one_step(self) -> None:
        sizes, cache = self.sizes, self.spec.cache
        nothing = torch.zeros(cache.layers, cache.kv_heads, 1, cache.head_dim, dtype=cache.dtype, device=sizes.device)
        state = torch.zeros(sizes.state, device=sizes.device)
        prepared = self.network.prepare(CacheView(nothing, nothing, 1), 1, state)
        self.network.velocity(torch.zeros(sizes.horizon, sizes.action, device=sizes.device), 1.0, prepared)

    def sample(self, observation: PolicyObservation) -> Sample:
        """Return an observation as the checkpoint's processor makes it."""
        pictures = {
            feature: as_tensor(picture, self.sizes.device)
            for feature, picture in zip(self.features.values(), observation.images, strict=True)
        }
        state = np.asarray(observation.state, dtype=np.float32)
        return self.before(Sample(pictures, state, observation.instruction, state))

    def pixels(self, picture: Tensor) -> Tensor:
        """Return a picture [1, 3, h, w] from 0 to 1 as the vision tower reads it, from -1 to 1."""
        sizes = self.sizes
        return letterbox(picture, sizes.height, sizes.width, sizes.centred) * 2.0 - 1.0

    @torch.inference_mode()
    def prefill(self, observation: PolicyObservation, view: CacheView) -> Generator[None, None, Prefilled]:
        """Encode camera by camera, then run layer by layer; a slice ends at every yield (see ChunkPolicy)."""
        sample = self.sample(observation)
        pictures = []
        for picture in sample.pictures.values():
            pictures.append(self.network.picture(self.pixels(picture)))
            yield
        state = padded(torch.from_numpy(sample.state).to(self.sizes.device), self.sizes.state)
        tokens = torch.tensor(sample.tokens, device=self.sizes.device)
        embedded, sees = self.network.prefix(pictures, tokens, state)
        keys, values = yield from extend(self.network.text, embedded, view, sees, self.network.rope_base)
        context = VlaContext(embedded.shape[1], state, sample.raw_state)
        return Prefilled(keys, values, None, context)

    @torch.inference_mode()
    def denoise(
        self, view: CacheView, context: VlaContext, steps: int, guide: Guide | None, random: np.random.Generator
    ) -> Generator[None, None, Matrix]:
        """Return the chunk [H, A] in action units (see ChunkPolicy); yields behind each step.

        Raises:
            ValueError: the guide asks for the true Jacobian, or is no chunk's.
        """
        sizes = self.sizes
        prepared = context.prepared(self.network, view)
        pull = self._pull(guide, context) if guide is not None else None
        noise = random.standard_normal((sizes.horizon, sizes.action), dtype=np.float32)
        chunk = yield from denoise(
            lambda noisy, time: self.network.velocity(noisy, time, prepared),
            torch.from_numpy(noise).to(sizes.device),
            steps,
            pull,
        )
        rows = chunk[:, : self.spec.layout.size].cpu().numpy()
        return self.after.actions(rows, context.raw_state)

    def _pull(self, guide: Guide, context: VlaContext) -> Pull:
        sizes, expected = self.sizes, (self.sizes.horizon, self.spec.layout.size)
        if guide.exact:
            raise ValueError(
                f"policy {self.spec.name}: it is guided with the identity for the Jacobian, as LeRobot does; make the "
                "guide with exact=False"
            )
        if guide.target.shape != expected:
            raise ValueError(f"policy {self.spec.name}: the guide has shape {guide.target.shape}, expected {expected}")
        counting = np.where(guide.weight[:, None] > 0.0, guide.target, 0.0)  # the other rows may hold anything
        target = self.after.normalised(counting, context.raw_state).astype(np.float32)
        weight = torch.from_numpy(guide.weight.astype(np.float32)).unsqueeze(1)
        return Pull(
            padded(torch.from_numpy(target), sizes.action).to(sizes.device), weight.to(sizes.device), guide.gain
        )
