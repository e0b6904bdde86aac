"""Node `recorder`: stores what is published in the robot's namespace as a rosbag2 folder, without decoding it.

Topics are found as they appear. A thread of its own compresses and writes, so that neither a slow disk nor fsync
delays a subscription; when it falls behind by more than `queue_mb`, messages are dropped and counted. When the disk
takes nothing more, the node says so and ends: a recording that goes on without being one helps nobody.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from streaming_vla.bags.compressing import ENDING, compress
from streaming_vla.bags.recorder_options import MB, RecorderOptions
from streaming_vla.bags.topics import Topic
from streaming_vla.bags.writer import BagWriter
from streaming_vla.bags.writing_thread import WritingThread
from streaming_vla.images.decode import IMAGE
from streaming_vla.ros.base import StartError, SuiteNode
from streaming_vla.ros.spin import run
from streaming_vla.ros.type_texts import full_text

SHARED_TOPICS = ("/diagnostics", "/rosout", "/tf", "/tf_static", "/clock")  # of every namespace
DISCOVERY_PERIOD_S = 0.5
DEPTH = 100  # of a subscription: what may wait while another message is taken

Qos = tuple[ReliabilityPolicy, DurabilityPolicy]


@dataclass
class _Listening:
    """A topic that is recorded.

    Args:
        topic: as its publishers describe it.
        subscriptions: one for each quality of service that is needed.
        seen: source time and hash of the newest messages, where two subscriptions may get the same one.
    """

    topic: Topic
    subscriptions: dict[Qos, Any] = field(default_factory=dict)
    seen: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=2 * DEPTH))


class RecorderNode(SuiteNode[RecorderOptions]):
    """Records from activation to deactivation, each time into a new folder."""

    follows_clock = False  # topics appear whatever clock is published
    takes_raw = True

    def __init__(self) -> None:
        super().__init__("recorder", RecorderOptions)
        self._listening: dict[tuple[str, str], _Listening] = {}  # by name and type
        self._refused: set[tuple[str, str]] = set()
        self._thread: WritingThread | None = None
        self._due_s: float | None = None

    def activate(self) -> None:
        """Make the folder and begin to listen."""
        name = self.options.bag_name or datetime.now().strftime("%Y%m%d_%H%M%S")
        folder = Path(self.options.bag_folder) / name
        try:
            writer = BagWriter(folder, self.options)
        except FileExistsError as error:
            raise ValueError(f"bag '{folder}' exists already: choose another bag_name, or remove it") from error
        except OSError as error:
            raise ValueError(f"bag '{folder}' cannot be made: {error.strerror}; choose another bag_folder") from error
        quality = self.options.jpeg_quality
        prepare = partial(compress, quality=quality) if quality else None
        self._thread = WritingThread(writer, round(self.options.queue_mb * MB), prepare)
        self._due_s = time.monotonic()
        self.get_logger().info(f"recording to {folder}")

    def deactivate(self) -> None:
        """Stop listening, write what waits and end the bag."""
        self._due_s = None
        for listening in self._listening.values():
            for subscription in listening.subscriptions.values():
                self.destroy_subscription(subscription)
        self._listening.clear()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.close()
            self.get_logger().info(f"recorded {thread.written} messages to {thread.writer.folder}")
            if problem := _problem(thread):
                self.get_logger().error(f"{problem}; {thread.dropped.total()} messages are missing")

    def deadline(self) -> float | None:
        """When topics are looked for again."""
        return self._due_s

    def tick(self) -> None:
        """Look for topics that have appeared, and for publishers that need another quality of service.

        Raises:
            StartError: the disk takes nothing more.
        """
        self._due_s = time.monotonic() + DISCOVERY_PERIOD_S
        if self._thread is not None and self._thread.failure:
            raise StartError(self._thread.failure)
        found = dict(self.get_topic_names_and_types())
        for name, kinds in found.items():
            if self._wanted(name):
                for kind in kinds:
                    publishers = [each for each in self.get_publishers_info_by_topic(name) if each.topic_type == kind]
                    twin = f"{name}/{ENDING}" if self.options.jpeg_quality and kind == IMAGE else ""
                    if publishers and not (twin in found and self._wanted(twin)):  # the robot compresses by itself
                        self._listen(name, kind, publishers)

    def report(self) -> tuple[str, dict[str, object]]:
        """Tell how much was recorded, and what could not be."""
        if self._thread is None:
            return "", {}
        thread = self._thread
        figures: dict[str, object] = {"topics": len(self._listening), "messages": thread.taken, **thread.dropped}
        return _problem(thread), figures

    def _wanted(self, name: str) -> bool:
        inside = name in SHARED_TOPICS or name.startswith(self.session.rstrip("/") + "/")
        hidden = any(part.startswith("_") for part in name.split("/"))
        return inside and not hidden and self.options.chosen(name)

    def _listen(self, name: str, kind: str, publishers: list[Any]) -> None:
        if (name, kind) in self._refused:
            return
        known = self._listening.get((name, kind))
        needed = _needed(publishers)
        if known is not None and known.subscriptions.keys() == needed:
            return
        try:
            message_type, text = _type(kind), full_text(kind)
        except LookupError as error:
            self._refused.add((name, kind))
            self.refuse("unknown_type", f"topic '{name}' is not recorded: {error}")
            return
        if known is None:
            assert self._thread is not None, "topics are looked for while the node is active"
            profiles = yaml.safe_dump([_profile(each.qos_profile) for each in publishers], sort_keys=False)
            digest = str(publishers[0].topic_type_hash)
            known = _Listening(
                Topic(name, kind, definition=text, definition_format="ros2msg", qos=profiles, type_hash=digest)
            )
            self._listening[name, kind] = known
            if not (self.options.jpeg_quality and kind == IMAGE):
                self._thread.add_topic(known.topic)
        for reliability, durability in needed - known.subscriptions.keys():
            known.subscriptions[reliability, durability] = self.create_subscription(
                message_type,
                name,
                partial(self._take, known),
                QoSProfile(depth=DEPTH, reliability=reliability, durability=durability),
                event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),  # the other one hears the rest
                raw=True,
            )
        for qos in known.subscriptions.keys() - needed:
            self.destroy_subscription(known.subscriptions.pop(qos))

    def _take(self, listening: _Listening, data: bytes, info: Any) -> None:
        if self._thread is None:
            return
        source_ns = info["source_timestamp"]
        latched = any(durability == DurabilityPolicy.TRANSIENT_LOCAL for _, durability in listening.subscriptions)
        if source_ns and latched:  # a second subscription may get it as well
            key = source_ns, hash(data)
            if key in listening.seen:
                return
            listening.seen.append(key)
        simulated = self.get_clock().ros_time_is_active
        received_ns = info["received_timestamp"]
        log_ns = received_ns if received_ns > 0 and not simulated else self.get_clock().now().nanoseconds
        self._thread.take(listening.topic, data, log_ns, source_ns or log_ns)


def _problem(thread: WritingThread) -> str:
    """Return why messages are not in the bag; empty when all of them are."""
    if thread.failure:
        return thread.failure
    late = thread.dropped["queue_full"]
    return f"the disk is too slow: {late} messages dropped; compress or record fewer topics" if late else ""


def _needed(publishers: list[Any]) -> set[Qos]:
    """Return the qualities of service that get every message of every publisher.

    A subscription that asks for what was latched hears nothing of volatile publishers, so both may be needed.
    """
    latched = [each for each in publishers if each.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL]
    needed = set()
    for group, durability in ((latched, DurabilityPolicy.TRANSIENT_LOCAL), (publishers, DurabilityPolicy.VOLATILE)):
        if group and (durability == DurabilityPolicy.TRANSIENT_LOCAL or len(latched) < len(publishers)):
            reliable = all(each.qos_profile.reliability == ReliabilityPolicy.RELIABLE for each in group)
            needed.add((ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT, durability))
    return needed


def _profile(qos: QoSProfile) -> dict[str, object]:
    """Return a profile as rosbag2 writes it (metadata version 9)."""

    def duration(value: Any) -> dict[str, int]:
        seconds, nanoseconds = divmod(value.nanoseconds, 1_000_000_000)
        return {"sec": seconds, "nsec": nanoseconds}

    history = qos.history if qos.history != HistoryPolicy.UNKNOWN else HistoryPolicy.KEEP_LAST
    return {
        "history": history.name.lower(),
        "depth": qos.depth or DEPTH,
        "reliability": qos.reliability.name.lower(),
        "durability": qos.durability.name.lower(),
        "deadline": duration(qos.deadline),
        "lifespan": duration(qos.lifespan),
        "liveliness": qos.liveliness.name.lower(),
        "liveliness_lease_duration": duration(qos.liveliness_lease_duration),
        "avoid_ros_namespace_conventions": qos.avoid_ros_namespace_conventions,
    }


def _type(kind: str) -> type:
    """Return the class of a message type; LookupError when its package is not installed."""
    package, _, name = kind.split("/")
    try:
        found: type = getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"type {kind} cannot be imported: source the workspace that has {package}") from error
    return found


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the process; `arguments` are those of a ROS node, the program's name first."""
    sys.exit(run(RecorderNode, arguments))


if __name__ == "__main__":
    main()
