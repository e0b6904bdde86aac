"""Node `observer`: answers each observe request with one set of encoded pictures and the robot's state."""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial
from typing import Any

import cv2
from rclpy.time import Time
from sensor_msgs import msg as sensor_msgs
from streaming_vla_interfaces import msg as wire

from streaming_vla.images.decode import COMPRESSED, IMAGE, POINTS
from streaming_vla.machines.events import Episode, ObserveRequest, Snapshot
from streaming_vla.machines.observer import Observer
from streaming_vla.machines.observer_options import ObserverOptions
from streaming_vla.options.texts import cut
from streaming_vla.ros import messages
from streaming_vla.ros.base import BEST_EFFORT, reliable
from streaming_vla.ros.images import camera_options, check_message, encode_message
from streaming_vla.ros.machine import MachineNode
from streaming_vla.ros.robot_state import listen_to_robot_state
from streaming_vla.ros.spin import run

MESSAGES = {
    IMAGE: sensor_msgs.Image,
    COMPRESSED: sensor_msgs.CompressedImage,
    POINTS: sensor_msgs.PointCloud2,
}
SILENT_S = 3.0
GRACE_S = 15.0  # a driver that begins beside this node may need so long for its first picture: no line in the log
ROBOT_STATE = "robot state"  # beside the cameras' names


class ObserverNode(MachineNode[ObserverOptions, Observer]):
    """Keeps the newest picture of every camera; never decides when to observe."""

    def __init__(self) -> None:
        super().__init__("observer", ObserverOptions)
        self._heard_s: dict[str, float] = {}
        self._sent = 0
        self._pictures: Counter[str] = Counter()  # that each camera has sent

    def configure(self) -> None:
        """Subscribe to the cameras, the state and the requests."""
        options = self.options
        cv2.setNumThreads(1)
        self._publisher = self.create_publisher(wire.Observation, "observation", reliable(4))
        self.listen_to_episode()
        kinds = options.of_cameras(options.camera_types)
        for camera, topic in options.of_cameras(options.camera_topics).items():
            kind = kinds[camera]
            heard, taken = partial(self._heard, camera, kind), partial(self._on_picture, camera)
            self.listen(MESSAGES[kind], topic, heard, taken, BEST_EFFORT)
        listen_to_robot_state(self, options, partial(self.dispatch, Observer.on_state), self._state_heard)
        self.listen(wire.ObserveRequest, "observe_request", messages.request_from, self._on_request, reliable(10))

    def make(self) -> Observer:
        """Begin with no picture."""
        return Observer(self.options)

    def activate(self) -> None:
        """Begin: nobody counts as silent yet."""
        super().activate()
        self._active_s = self._requested_s = self.now()
        self._heard_s = dict.fromkeys((*self.options.cameras, ROBOT_STATE), self._active_s)
        self._early: ObserveRequest | None = None
        # an observation that is encoded late is old when it is acted on
        self.raise_priority(self.options.realtime_priority)

    def on_episode(self, episode: Episode) -> None:
        """Drop the pictures of the episode before."""
        self.dispatch(Observer.on_episode, episode)
        early, self._early = self._early, None
        if early is not None:
            self._on_request(early)

    def report(self) -> tuple[str, dict[str, object]]:
        """Name the cameras that do not send, with the picture topics that exist."""
        now = self.now()
        topics = self.options.of_cameras(self.options.camera_topics)
        topics[ROBOT_STATE] = self.options.robot_state_topic
        silent = [name for name, heard_s in self._heard_s.items() if now - heard_s > SILENT_S]
        problem = "; ".join(self._silence(name, self.resolve_topic_name(topics[name])) for name in silent)
        if problem:
            types = self.get_topic_names_and_types()
            sending = [name for name, kinds in types if MESSAGES.keys() & set(kinds) and self._is_sent(name)]
            problem += f"; picture topics with a publisher: {cut(', '.join(sending)) or 'none'}"
            if now > self._active_s + GRACE_S or any(self._heard_s[name] > self._active_s for name in silent):
                self.get_logger().warning(problem, throttle_duration_sec=10.0)
        pictures = {f"pictures.{camera}": self._pictures[camera] for camera in self.options.cameras}
        return problem, {"observations": self._sent, **pictures, **self.machine.counters.as_dict()}

    def _silence(self, name: str, topic: str) -> str:
        state = name == ROBOT_STATE
        kind = self.options.robot_state_type if state else self.options.of_cameras(self.options.camera_types)[name]
        sent = {publisher.topic_type for publisher in self.get_publishers_info_by_topic(topic)}
        if not sent or kind in sent:
            return f"'{name}' sends nothing on '{topic}'"
        parameter = "robot_state_type" if state else "camera_types"
        return f"'{name}' sends {', '.join(sorted(sent))} on '{topic}', expected {kind}: set {parameter}"

    def _is_sent(self, topic: str) -> bool:
        return bool(self.count_publishers(topic))

    def _heard(self, camera: str, kind: str, message: Any) -> Any:
        self._heard_s[camera] = self.now()  # what is refused was sent all the same
        self._pictures[camera] += 1
        return check_message(message, kind)

    def _state_heard(self) -> None:
        self._heard_s[ROBOT_STATE] = self.now()

    def _on_picture(self, camera: str, message: Any) -> None:
        self.dispatch(Observer.on_frame, camera, message, messages.nanoseconds_from(message.header.stamp))

    def _on_request(self, request: ObserveRequest) -> None:
        if self.episode is None or request.episode > self.episode.number:
            if self._early is not None:
                self.refusals["early_request_superseded"] += 1
            self._early = request  # the message of its episode is still on the way: topics keep no common order
        else:
            self._requested_s = self.now()
            self.dispatch(Observer.on_request, request)

    def _encode(self, snapshot: Snapshot) -> dict[str, bytes] | None:
        """Return the JPEG of each camera; None when one is damaged, which only whole decoding tells."""
        options = camera_options(self.options)
        pictures = {}
        for name, message in snapshot.frames.items():
            try:
                pictures[name] = encode_message(message, options[name])
            except ValueError as error:
                self.get_logger().warning(
                    f"picture of camera '{name}' dropped: {cut(str(error))}", throttle_duration_sec=1.0
                )
                self.dispatch(Observer.on_damaged, snapshot, name)
                return None
        return pictures

    def execute(self, snapshots: list[Snapshot]) -> None:
        """Encode and publish each snapshot."""
        for snapshot in snapshots:
            pictures = self._encode(snapshot)
            if pictures is None:
                continue
            stamp = Time(nanoseconds=snapshot.stamp_ns).to_msg()
            observation = messages.observation_to(snapshot.request, self.session, stamp, pictures, snapshot.state)
            observation.instruction = snapshot.instruction
            observation.camera_skew_s = snapshot.skew_s
            done_s = self.now()  # publishing counts as transport
            self._publisher.publish(observation)
            self._sent += 1
            self.span("observe", self._requested_s, done_s, snapshot.request.episode, snapshot.request.sequence)


def main() -> None:
    """Entry point of the process."""
    sys.exit(run(ObserverNode))


if __name__ == "__main__":
    main()
