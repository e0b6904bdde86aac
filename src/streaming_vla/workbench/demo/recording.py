"""Listens to a running suite and keeps what it says as the plain records of evaluation/."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image
from streaming_vla_interfaces import msg as wire

from streaming_vla.machines.events import Reason
from streaming_vla.ros import messages
from streaming_vla.ros.base import BEST_EFFORT, SPANS, reliable
from streaming_vla.workbench.report.records import (
    CacheAt,
    ContextAt,
    EpisodeRecord,
    Frame,
    ObservationAt,
    RequestAt,
    Span,
    StateAt,
)

T = TypeVar("T")
Counts = dict[str, dict[str, int]]  # per node

FRAME_PERIOD_S = 0.2  # film strips need no more
OF_EPISODE = {"queue_depth", "executed", "hand_overs", "lead_actions"}  # figures that may fall: no counters
KINDS = ("states", "requests", "observations", "pictures", "contexts", "cache", "spans")


def seconds(stamp: Time) -> float:
    """Return a stamp in seconds of the clock that made it."""
    return float(stamp.sec) + 1e-9 * float(stamp.nanosec)


class Recorder:
    """Keeps every message of the episodes until `fill` takes those of one.

    Args:
        node: that listens; its namespace is the robot's.
        cameras: whose pictures are kept, five a second; none are asked for when empty.
    """

    def __init__(self, node: Node, cameras: tuple[str, ...] = ()) -> None:
        self._node = node
        self._kept: dict[int, dict[str, list[Any]]] = defaultdict(lambda: {kind: [] for kind in KINDS})
        self._pictures: dict[str, list[tuple[float, bytes]]] = {camera: [] for camera in cameras}
        self.figures: Counts = {}  # newest whole numbers of each node's diagnostics
        self.heard_s: dict[str, float] = {}  # when each node's diagnostics came
        self._listen(wire.ExecutionState, "execution_state", "states", _state, reliable(200))
        self._listen(wire.ObserveRequest, "observe_request", "requests", _request, reliable(10))
        self._listen(wire.Observation, "observation", "observations", self._observed, reliable(10))
        self._listen(wire.Context, "context", "contexts", _context, reliable(10))
        self._listen(wire.KvCacheStats, "kv_cache_stats", "cache", _cache, reliable(10))
        self._listen(wire.StageSpan, "spans", "spans", _span, SPANS)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, reliable(50))
        for camera in cameras:
            # raw: most pictures are thrown away, so they are not worth decoding while the episode runs
            node.create_subscription(
                Image, f"camera/{camera}/image", self._picture_keeper(camera), BEST_EFFORT, raw=True
            )

    def now_s(self) -> float:
        """Return seconds of the clock that stamps are made with."""
        return float(self._node.get_clock().now().nanoseconds) * 1e-9

    def forget(self) -> None:
        """Drop everything that was kept."""
        self._kept.clear()
        for pictures in self._pictures.values():
            pictures.clear()

    def states(self, episode: int) -> list[StateAt]:
        """Return the executor's states of `episode` so far."""
        return self._kept[episode]["states"]

    def fill(self, record: EpisodeRecord) -> None:
        """Move what was kept of `record.number` into it, in the order of time, up to its end; drop the rest."""
        kept = self._kept[record.number]
        record.states = sorted((at for at in kept["states"] if at.time_s <= record.end_s), key=lambda at: at.time_s)
        record.requests = [at for at in kept["requests"] if at.time_s <= record.end_s]
        record.contexts = [at for at in kept["contexts"] if at.time_s <= record.end_s]
        record.cache = [at for at in kept["cache"] if at.time_s <= record.end_s]
        record.observations, record.pictures = kept["observations"], dict(kept["pictures"])
        record.spans = sorted((at for at in kept["spans"] if at.begin_s <= record.end_s), key=lambda at: at.begin_s)
        for camera, pictures in self._pictures.items():
            record.frames += [
                Frame(time_s, camera, _picture(data)) for time_s, data in pictures if time_s >= record.begin_s
            ]
        self.forget()

    def _listen(self, message_type: type, topic: str, kind: str, convert: Callable[[Any], Any], qos: Any) -> None:
        def receive(message: Any) -> None:
            self._kept[message.episode][kind].append(convert(message))

        self._node.create_subscription(message_type, topic, receive, qos)

    def _observed(self, message: wire.Observation) -> ObservationAt:
        if message.images:
            self._kept[message.episode]["pictures"].append((message.sequence, bytes(message.images[0].data)))
        return _observation(message)

    def _picture_keeper(self, camera: str) -> Callable[[bytes], None]:
        kept = self._pictures[camera]

        def receive(data: bytes) -> None:
            now_s = self.now_s()
            if not kept or now_s - kept[-1][0] >= FRAME_PERIOD_S:
                kept.append((now_s, data))

        return receive

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        for status in array.status:
            name = status.name.rsplit("/", 1)[-1]
            self.figures[name] = {
                pair.key: int(pair.value)
                for pair in status.values
                if pair.value.isdigit() and pair.key not in OF_EPISODE
            }
            self.heard_s[name] = seconds(array.header.stamp)


def counted(before: Counts, after: Counts) -> Counts:
    """Return by how much each count grew, nodes and counts that did not grow left out."""
    grown: Counts = {}
    for node, figures in after.items():
        old = before.get(node, {})
        changes = {key: value - old.get(key, 0) for key, value in figures.items() if value > old.get(key, 0)}
        if changes:
            grown[node] = changes
    return grown


def _state(message: wire.ExecutionState) -> StateAt:
    return StateAt(seconds(message.header.stamp), messages.execution_state_from(message))


def _request(message: wire.ObserveRequest) -> RequestAt:
    return RequestAt(seconds(message.header.stamp), message.sequence, Reason(message.reason))


def _observation(message: wire.Observation) -> ObservationAt:
    size = sum(len(image.data) for image in message.images)
    return ObservationAt(
        seconds(message.header.stamp), message.sequence, Reason(message.reason), size, message.camera_skew_s
    )


def _context(message: wire.Context) -> ContextAt:
    return ContextAt(
        seconds(message.header.stamp), message.sequence, message.tokens, message.prefill_s, message.queued_s
    )


def _cache(message: wire.KvCacheStats) -> CacheAt:
    return CacheAt.of(message, seconds(message.header.stamp), message.sequence)


def _span(message: wire.StageSpan) -> Span:
    return Span(
        message.node, message.stage, seconds(message.begin), seconds(message.end), message.sequence, message.index
    )


def _picture(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the pixels of a serialised rgb8 picture, [H, W, 3]."""
    image = deserialize_message(data, Image)
    return np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)
