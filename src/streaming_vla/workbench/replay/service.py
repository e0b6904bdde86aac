"""The model of a replay: pictures become JPEG as in the observer, and every prefill leaves what it has seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np

from streaming_vla.engine.options import CacheOptions
from streaming_vla.images.encode import PictureOptions, encode_message
from streaming_vla.machines.events import ContextReady, Snapshot
from streaming_vla.policies.contract import StreamingPolicy
from streaming_vla.policies.layout import Vector
from streaming_vla.workbench.report.records import CacheAt
from streaming_vla.workbench.virtual.hardware import Clock
from streaming_vla.workbench.virtual.service import SESSION, PolicyService


class ReplayService(PolicyService):
    """A service of a bag's pictures, (kind, message) until they are encoded.

    Args:
        pictures: how the messages of each camera become JPEG.
        clock: of the run.
        refuse: told the camera and the reason of a picture that cannot be decoded.

    Attributes:
        observed: digest of what was prefilled, by sequence; of the episode that `begin` named.
        pictures: JPEG of the first camera, likewise.
        cache: the KV cache after each prefill, likewise.
    """

    def __init__(
        self,
        policy: StreamingPolicy,
        cache: CacheOptions,
        pictures: Mapping[str, PictureOptions],
        clock: Clock,
        refuse: Callable[[str, ValueError], None],
    ) -> None:
        super().__init__(policy, cache, seed=0)
        self._pictures, self._clock, self._refuse = pictures, clock, refuse
        self.begin()

    def begin(self, episode: int | None = None) -> None:
        """Keep what is prefilled for `episode` from now on, None: nothing; a prefill may outlive its episode."""
        self._episode = episode
        self.observed: dict[int, str] = {}
        self.pictures: dict[int, bytes] = {}
        self.cache: list[CacheAt] = []

    def encode(self, snapshot: Snapshot) -> Snapshot | str:
        """Return the snapshot with its frames as JPEG, or the camera of one that cannot be decoded and is refused."""
        frames: dict[str, bytes] = {}
        for name, (kind, message) in snapshot.frames.items():
            try:
                frames[name] = encode_message(message, replace(self._pictures[name], kind=kind))  # of the bag's kind
            except ValueError as error:
                self._refuse(name, error)
                return name
        return replace(snapshot, frames=frames)

    def prefill(self, snapshot: Snapshot, shift: Vector | None, pending: Vector | None = None) -> ContextReady | None:
        """Prefill an encoded snapshot; None when it is outdated, or when the cache is full."""
        context = super().prefill(snapshot, shift, pending)
        if context is not None and context.episode == self._episode:
            cache = self._sessions.find(SESSION).cache
            held = tuple(number for number, _ in cache.kept_chunks())
            self.observed[context.sequence] = digest(snapshot.frames.values(), snapshot.state)
            self.pictures[context.sequence] = snapshot.frames[self._policy.spec.cameras[0]]
            self.cache.append(CacheAt.of(cache.stats(), self._clock.now, context.sequence, held))
        return context


def digest(pictures: Iterable[bytes], state: Any) -> str:
    """Return a name of an observation: equal for equal pictures and states, as the wire carries them."""
    found = sha256()
    for data in pictures:
        found.update(data)
    found.update(np.asarray(state, dtype=np.float32).tobytes())
    return found.hexdigest()
