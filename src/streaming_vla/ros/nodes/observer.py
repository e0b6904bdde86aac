"""Node `observer`: answers each observe request with one set of encoded pictures and the robot's state."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import cv2
from rclpy.time import Time
from sensor_msgs import msg as sensor_msgs
from streaming_vla_interfaces import msg as wire

from streaming_vla.images.decode import COMPRESSED, IMAGE, POINTS
from streaming_vla.machines.events import Episode, ObserveRequest, Snapshot
from streaming_vla.machines.observer import Observer, ObserverOptions
from streaming_vla.parameters.spec import Value
from streaming_vla.ros import messages
from streaming_vla.ros.base import BEST_EFFORT, SuiteNode, reliable
from streaming_vla.ros.images import camera_options, check_message, encode_message
from streaming_vla.ros.robot_state import listen_to_robot_state
from streaming_vla.ros.spin import run

MESSAGES = {
    IMAGE: sensor_msgs.Image,
    COMPRESSED: sensor_msgs.CompressedImage,
    POINTS: sensor_msgs.PointCloud2,
}
SILENT_S = 3.0
ROBOT_STATE = "robot state"  # beside the cameras' names


class ObserverNode(SuiteNode):
    """Keeps the newest picture of every camera; never decides when to observe."""

    def __init__(self) -> None:
        super().__init__("observer")
        self._machine: Observer | None = None
        self._heard_s: dict[str, float] = {}
        self._sent = 0

    def configure(self) -> None:
        """Subscribe to the cameras, the state and the requests."""
        cameras, topics = self.value("cameras"), self.value("camera_topics")
        if len(cameras) != len(topics):
            raise ValueError(f"camera_topics has {len(topics)} topics, expected one for each of {', '.join(cameras)}")
        self._options(self.values())
        options = camera_options(self.values())
        cv2.setNumThreads(1)
        self._publisher = self.create_publisher(wire.Observation, "observation", reliable(4))
        self.listen_to_episode()
        for camera, topic in zip(cameras, topics, strict=True):
            kind = options[camera].kind
            heard, taken = partial(self._heard, camera, kind), partial(self._on_picture, camera)
            self.listen(MESSAGES[kind], topic, heard, taken, BEST_EFFORT)
        listen_to_robot_state(self, self._on_state, self._state_heard)
        self.listen(wire.ObserveRequest, "observe_request", messages.request_from, self._on_request, reliable(10))

    def activate(self) -> None:
        """Begin with no picture."""
        self._machine = Observer(self._options(self.values()))
        self._heard_s = dict.fromkeys((*self.value("cameras"), ROBOT_STATE), time.monotonic())
        self._requested_s = time.monotonic()
        self._early: ObserveRequest | None = None

    def deactivate(self) -> None:
        """Forget every picture."""
        self._machine = None

    def update(self, values: Mapping[str, Value]) -> None:
        """Take new time limits at once."""
        options = self._options(values)
        if self._machine is not None:
            self._machine.update(options)

    def on_episode(self, episode: Episode) -> None:
        """Drop the pictures of the episode before."""
        if self._machine is None:
            return
        self._publish(self._machine.on_episode(episode, time.monotonic()))
        early, self._early = self._early, None
        if early is not None:
            self._on_request(early)

    def deadline(self) -> float | None:
        """When the waiting request gives up."""
        return self._machine.deadline() if self._machine is not None else None

    def tick(self) -> None:
        """Give up requests that waited too long."""
        if self._machine is not None:
            self._publish(self._machine.poll(time.monotonic()))

    def report(self) -> tuple[str, dict[str, object]]:
        """Name the cameras that do not send, with the picture topics that exist."""
        now = time.monotonic()
        topics = dict(zip(self.value("cameras"), self.value("camera_topics"), strict=True))
        topics[ROBOT_STATE] = self.value("robot_state_topic")
        silent = [name for name, heard_s in self._heard_s.items() if now - heard_s > SILENT_S]
        problem = "; ".join(self._silence(name, self.resolve_topic_name(topics[name])) for name in silent)
        if problem:
            types = self.get_topic_names_and_types()
            sending = [name for name, kinds in types if MESSAGES.keys() & set(kinds) and self._is_sent(name)]
            problem += f"; picture topics with a publisher: {', '.join(sending) or 'none'}"
            self.get_logger().warning(problem, throttle_duration_sec=10.0)
        counters = self._machine.counters.as_dict() if self._machine is not None else {}
        return problem, {"observations": self._sent, **counters}

    def _silence(self, name: str, topic: str) -> str:
        state = name == ROBOT_STATE
        kind = self.value("robot_state_type") if state else camera_options(self.values())[name].kind
        sent = {publisher.topic_type for publisher in self.get_publishers_info_by_topic(topic)}
        if not sent or kind in sent:
            return f"'{name}' sends nothing on '{topic}'"
        parameter = "robot_state_type" if state else "camera_types"
        return f"'{name}' sends {', '.join(sorted(sent))} on '{topic}', expected {kind}: set {parameter}"

    def _is_sent(self, topic: str) -> bool:
        return bool(self.count_publishers(topic))

    def _options(self, values: Mapping[str, Any]) -> ObserverOptions:
        return ObserverOptions(
            cameras=values["cameras"],
            max_skew_s=values["max_skew_s"],
            max_frame_age_s=values["max_frame_age_s"],
            frame_timeout_s=values["frame_timeout_s"],
        )

    def _heard(self, camera: str, kind: str, message: Any) -> Any:
        self._heard_s[camera] = time.monotonic()  # what is refused was sent all the same
        return check_message(message, kind)

    def _state_heard(self) -> None:
        self._heard_s[ROBOT_STATE] = time.monotonic()

    def _on_picture(self, camera: str, message: Any) -> None:
        if self._machine is not None:
            stamp_ns = messages.nanoseconds_from(message.header.stamp)
            self._publish(self._machine.on_frame(camera, message, stamp_ns, time.monotonic()))

    def _on_state(self, values: Any) -> None:
        if self._machine is not None:
            self._publish(self._machine.on_state(values, time.monotonic()))

    def _on_request(self, request: ObserveRequest) -> None:
        if self.episode is None or request.episode > self.episode.number:
            if self._early is not None:
                self.refusals["early_request_superseded"] += 1
            self._early = request  # the message of its episode is still on the way: topics keep no common order
        elif self._machine is not None:
            self._requested_s = time.monotonic()
            self._publish(self._machine.on_request(request, self._requested_s))

    def _encode(self, snapshot: Snapshot) -> dict[str, bytes] | None:
        """Return the JPEG of each camera; None when one is damaged, which only whole decoding tells."""
        options = camera_options(self.values())
        pictures = {}
        for name, message in snapshot.frames.items():
            try:
                pictures[name] = encode_message(message, options[name])
            except ValueError as error:
                self.get_logger().warning(f"picture of camera '{name}' dropped: {error}", throttle_duration_sec=1.0)
                if self._machine is not None:
                    self._publish(self._machine.on_damaged(snapshot, name, time.monotonic()))
                return None
        return pictures

    def _publish(self, snapshots: list[Snapshot]) -> None:
        for snapshot in snapshots:
            pictures = self._encode(snapshot)
            if pictures is None:
                continue
            stamp = Time(nanoseconds=snapshot.stamp_ns).to_msg()
            observation = messages.observation_to(snapshot.request, self.session, stamp, pictures, snapshot.state)
            observation.instruction = snapshot.instruction
            observation.camera_skew_s = snapshot.skew_s
            done_s = time.monotonic()  # publishing counts as transport
            self._publisher.publish(observation)
            self._sent += 1
            self.span("observe", self._requested_s, done_s, snapshot.request.episode, snapshot.request.sequence)


def main() -> None:
    """Entry point of the process."""
    sys.exit(run(ObserverNode))


if __name__ == "__main__":
    main()
