"""The model of a replay: pictures become JPEG as in the observer, and every prefill leaves what it has seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np

from streaming_vla.evaluation.virtual_policy import SESSION, PolicyService
from streaming_vla.inference.options import EngineOptions
from streaming_vla.inference.sessions import Sessions
from streaming_vla.pictures.encode import PictureOptions, encode_message
from streaming_vla.policy.contract import StreamingPolicy
from streaming_vla.policy.layout import Vector
from streaming_vla.runtime.events import ContextReady, Snapshot


class ReplayService(PolicyService):
    """A service whose frames are (kind, message) of a bag.

    Attributes:
        observed: digest of what was prefilled, by sequence.
        cache: time and statistics of the KV cache after each prefill.
    """

    def __init__(self, policy: StreamingPolicy, options: EngineOptions, pictures: Mapping[str, PictureOptions]) -> None:
        super().__init__(policy, recent=0, seed=0)
        self._sessions = Sessions(policy.spec, options)
        self._pictures = pictures
        self.clock: Callable[[], float] = lambda: 0.0
        self.observed: dict[int, str] = {}
        self.cache: list[tuple[float, Any]] = []

    def prefill(self, snapshot: Snapshot, shift: Vector | None, pending: Vector | None = None) -> ContextReady | None:
        """Encode and prefill; None when a picture cannot be decoded or the observation is outdated."""
        try:
            frames = {
                name: encode_message(message, replace(self._pictures[name], kind=kind))  # of the bag, whatever is set
                for name, (kind, message) in snapshot.frames.items()
            }
        except ValueError:
            return None
        context = super().prefill(replace(snapshot, frames=frames), shift, pending)
        if context is not None:
            self.observed[snapshot.request.sequence] = digest(frames.values(), snapshot.state)
            self.cache.append((self.clock(), self._sessions.find(SESSION).cache.stats()))
        return context


def digest(pictures: Iterable[bytes], state: Any) -> str:
    """Return a name of an observation: equal for equal pictures and states, as the wire carries them."""
    found = sha256()
    for data in pictures:
        found.update(data)
    found.update(np.asarray(state, dtype=np.float32).tobytes())
    return found.hexdigest()
