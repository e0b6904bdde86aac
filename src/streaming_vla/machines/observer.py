"""The observer's machine: keeps the newest frames and answers each request with one synchronised set.

- no request --on_request--> waiting --frames and state are there--> Snapshot
- Snapshot --a frame is damaged--> waiting, for the rest of its time
- waiting --frame_timeout_s--> request dropped, counted by what was missing
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.machines.counters import Counters
from streaming_vla.machines.episodes import CurrentEpisode, is_far_ahead
from streaming_vla.machines.events import Episode, ObserveRequest, Snapshot, Vector
from streaming_vla.machines.observer_options import ObserverOptions


@dataclass(frozen=True)
class _Frame:
    payload: Any
    stamp_ns: int
    received_s: float


class Observer:
    """Never decides when to observe: one request, at most one snapshot."""

    def __init__(self, options: ObserverOptions) -> None:
        self.counters = Counters()
        self._options = options
        self._episode = CurrentEpisode()
        self._frames: dict[str, _Frame] = {}
        self._state: tuple[Vector, float] | None = None  # values and reception
        self._request: ObserveRequest | None = None
        self._request_deadline_s = 0.0
        self._newest_sequence = -1

    def update(self, options: ObserverOptions) -> None:
        """Take new options at once; a request that waits keeps its time-out."""
        self._options = options
        self._frames = {name: frame for name, frame in self._frames.items() if name in options.cameras}

    def on_episode(self, episode: Episode, now: float) -> list[Snapshot]:
        """Begin or end an episode: what was seen before is forgotten; sent again, only the instruction changes."""
        if self._episode.renew(episode, self.counters):
            self._frames.clear()
            self._state = None
            self._request = None
            self._newest_sequence = -1
        return []

    def on_frame(self, camera: str, payload: Any, stamp_ns: int, now: float) -> list[Snapshot]:
        """Take a frame; `payload` is handed back as it is, `stamp_ns` is its capture stamp in nanoseconds."""
        if camera not in self._options.cameras:
            self.counters.count("unknown_camera")
            return []
        self._frames[camera] = _Frame(payload, stamp_ns, now)
        return self._answer(now)

    def on_state(self, values: npt.ArrayLike, now: float) -> list[Snapshot]:
        """Take the robot's state, [state_size], in the policy's order and units."""
        vector = np.array(values, dtype=np.float64)
        if vector.ndim != 1 or not np.isfinite(vector).all():
            self.counters.count("bad_robot_state")
            return []
        self._state = (vector, now)
        return self._answer(now)

    def on_request(self, request: ObserveRequest, now: float) -> list[Snapshot]:
        """Answer with a snapshot now or as soon as the frames are there; a newer request replaces one that waits."""
        if not self._episode.runs(request.episode):
            self.counters.count("request_other_episode")
            return []
        if is_far_ahead(request.sequence, self._newest_sequence):
            self.counters.count("request_far_ahead")
            return []
        if request.sequence <= self._newest_sequence:
            self.counters.count("request_repeated")
            return []
        if self._request is not None:
            self.counters.count("request_superseded")
        self._newest_sequence = request.sequence
        self._request = request
        self._request_deadline_s = now + self._options.frame_timeout_s
        return self._answer(now)

    def on_damaged(self, snapshot: Snapshot, camera: str, now: float) -> list[Snapshot]:
        """Drop a frame that turned out to be damaged when its snapshot was used; the request waits for the next one."""
        self.counters.count(f"damaged_frame.{camera}")
        frame = self._frames.get(camera)
        if frame is not None and frame.payload is snapshot.frames[camera]:
            del self._frames[camera]
        request = snapshot.request
        # nothing to wait for when a newer request has taken its place, or its episode is over
        if self._episode.runs(request.episode) and request.sequence == self._newest_sequence:
            self._request = request
        return self._answer(now)

    def poll(self, now: float) -> list[Snapshot]:
        """Drop a request whose time is over, counted by each thing that was missing."""
        if self._request is None or now < self._request_deadline_s:
            return []
        missing = self._missing(now)
        for name in missing:
            self.counters.count(f"frame_timeout.{name}")
        if not missing:
            self.counters.count("frame_timeout.skew")
        self._request = None
        return []

    def deadline(self) -> float | None:
        """Return when `poll` must be called next, or None."""
        return self._request_deadline_s if self._request is not None else None

    def _missing(self, now: float) -> list[str]:
        """Return the cameras (and `robot_state`) that have not been heard within max_frame_age_s."""
        heard = {name: frame.received_s for name, frame in self._frames.items()}
        names = [*self._options.cameras, "robot_state"]
        if self._state is not None:
            heard["robot_state"] = self._state[1]
        return [name for name in names if name not in heard or now - heard[name] > self._options.max_frame_age_s]

    def _answer(self, now: float) -> list[Snapshot]:
        request = self._request
        if request is None or self._state is None or self._missing(now):
            return []
        frames = {name: self._frames[name] for name in self._options.cameras}
        received = [frame.received_s for frame in frames.values()]
        skew_s = max(received) - min(received)
        if skew_s > self._options.max_skew_s:
            return []
        self._request = None
        return [
            Snapshot(
                request=request,
                frames={name: frame.payload for name, frame in frames.items()},
                stamp_ns=max(frame.stamp_ns for frame in frames.values()),
                skew_s=skew_s,
                state=self._state[0],
                instruction=self._episode.instruction,
            )
        ]
