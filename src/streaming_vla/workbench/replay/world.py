"""The world of a replay: pictures become JPEG as in the observer, and every prefill leaves what it has seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np

from streaming_vla.engine.engine import Engine
from streaming_vla.engine.values import ContextReport, EncodedObservation, Reply
from streaming_vla.images.encode import PictureOptions, encode_message
from streaming_vla.machines.events import Command, ContextReady, Snapshot
from streaming_vla.machines.executor import Executor
from streaming_vla.machines.monitor import Monitor
from streaming_vla.machines.observer import Observer
from streaming_vla.policies.layout import Vector
from streaming_vla.workbench.replay.recording import Recording
from streaming_vla.workbench.report.records import CacheAt, EpisodeRecord
from streaming_vla.workbench.virtual.clock import Clock
from streaming_vla.workbench.virtual.network import Network
from streaming_vla.workbench.virtual.world import SESSION, ActionSource, World


class _Bag:
    """The robot of a replay: what it does is in the bag, whatever it is told."""

    def look(self) -> dict[str, Any]:
        return {}

    def state(self) -> Vector:
        return np.zeros(0)

    def command(self, command: Command) -> None:
        pass

    def advance(self, now: float) -> bool:
        return False


class ReplayWorld(World):
    """A world of a bag's pictures, (kind, message) until they are encoded.

    Args:
        pictures: how the messages of each camera become JPEG.
        refuse: told the camera and the reason of a picture that cannot be decoded.
        recording: to go by.

    Attributes:
        observed: digest of what was prefilled, by sequence; of the episode that `keep` named.
    """

    def __init__(
        self,
        machines: tuple[Observer, Monitor, ActionSource, Executor],
        engine: Engine,
        network: Network,
        clock: Clock,
        record: EpisodeRecord,
        pictures: Mapping[str, PictureOptions],
        refuse: Callable[[str, ValueError], None],
        recording: Recording,
    ) -> None:
        super().__init__(machines, engine, _Bag(), network, clock, record)
        self.robot_alive = False  # pictures and signs of life come from the bag alone
        self._pictures, self._refuse, self._recording = pictures, refuse, recording
        self.keep(None)

    def keep(self, episode: int | None) -> None:
        """Keep what is prefilled for `episode` from now on, None: nothing; a prefill may outlive its episode."""
        self._kept = episode
        self._sent: dict[int, EncodedObservation] = {}
        self.observed: dict[int, str] = {}

    def encode(self, snapshot: Snapshot) -> EncodedObservation | str:
        """Return the snapshot with its frames as JPEG, or the camera of one that cannot be decoded and is refused."""
        frames: dict[str, bytes] = {}
        for name, (kind, message) in snapshot.frames.items():
            try:
                frames[name] = encode_message(message, replace(self._pictures[name], kind=kind))  # of the bag's kind
            except ValueError as error:
                self._refuse(name, error)
                return name
        observation = super().encode(replace(snapshot, frames=frames))
        assert isinstance(observation, EncodedObservation), "every frame is encoded"
        if observation.episode == self._kept:
            self._sent[observation.sequence] = observation
        return observation

    def context_of(self, report: ContextReport) -> ContextReady:
        """Return what the robot was told, where that is recorded."""
        context = super().context_of(report)
        recorded_s = self._recording.times.flow_step_s.get(report.sequence)
        return context if recorded_s is None else replace(context, flow_step_s=recorded_s)

    def on_reply(self, reply: Reply) -> None:
        """Keep what was prefilled, and carry the reply."""
        report = reply.value
        if isinstance(report, ContextReport) and report.episode == self._kept:
            observation, session = self._sent.pop(report.sequence), self.engine.sessions.find(SESSION)
            held = tuple(number for number, _ in session.cache.kept_chunks())
            self.observed[report.sequence] = digest(observation.images, observation.state)
            self.record.pictures[report.sequence] = observation.images[0]
            self.record.cache.append(CacheAt.of(report.stats, self.now, report.sequence, held))
        super().on_reply(reply)


def digest(pictures: Iterable[bytes], state: Any) -> str:
    """Return a name of an observation: equal for equal pictures and states, as the wire carries them."""
    found = sha256()
    for data in pictures:
        found.update(data)
    found.update(np.asarray(state, dtype=np.float32).tobytes())
    return found.hexdigest()
