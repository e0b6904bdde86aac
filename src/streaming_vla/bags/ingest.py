"""From a bag to what the observer is told: pictures, robot states, and what the suite itself said, in order of time.

Topics are found by the names of the live suite's parameter file. Pictures stay messages until somebody needs their
pixels: most of them are never looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.bags.compressing import ENDING
from streaming_vla.bags.errors import BagError, MissingTopic, NoCamera, WrongType, printable
from streaming_vla.bags.others import ADDED_LATER, COMMAND_TYPE, OTHER_TYPES, command_values
from streaming_vla.bags.reader import Bag
from streaming_vla.bags.topics import RawMessage, Topic
from streaming_vla.commands.finite import finite
from streaming_vla.commands.robot_state import TYPES as STATE_TYPES
from streaming_vla.commands.robot_state import StateReader
from streaming_vla.commands.units import Units
from streaming_vla.images.decode import TYPES as PICTURE_TYPES
from streaming_vla.images.decode import check_message

NS = 1e-9


@dataclass(frozen=True)
class IngestOptions:
    """Which topics are used, by the names of the parameter file.

    Args:
        camera_topics: picture topic of each camera, in the policy's order of cameras; where the bag has it not, the
            same topic with `/compressed` at its end, as image_transport and `record --jpeg` name it.
        state_topic: topic of the robot's state.
        others: topics of `OTHER_TYPES` that are handed over where the bag has them.
        joints: names of the joints whose positions are the state, in order, see StateReader; for JointState.
        namespace: of the robot in the bag.
        state_size: numbers of the state; None takes any.
        action_topic: command of the robot, handed over where the bag has it; empty for none.
        nameless_joints: names of the positions of a JointState that has none, see StateReader.
        state_units: scale and offset of the state, see commands.units.Units.
    """

    camera_topics: Mapping[str, str]
    state_topic: str
    others: tuple[str, ...] = ()
    joints: tuple[str, ...] = ()
    namespace: str = "/"
    state_size: int | None = None
    action_topic: str = ""
    nameless_joints: tuple[str, ...] = ()
    state_units: tuple[tuple[float, ...], tuple[float, ...]] = ((1.0,), (0.0,))


@dataclass(frozen=True)
class Frame:
    """A picture message; `time_s` is when it was received, `stamp_s` when it was taken, on the camera's clock."""

    time_s: float
    camera: str
    message: Any
    kind: str
    stamp_s: float


@dataclass(frozen=True)
class State:
    """The robot's state [state_size]."""

    time_s: float
    values: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Commanded:
    """What the robot was told, [A]; None for a message that cannot be used: what it was told is not known."""

    time_s: float
    values: npt.NDArray[np.float64] | None


@dataclass(frozen=True)
class Said:
    """A message of another topic, decoded; `topic` is the name in the options."""

    time_s: float
    topic: str
    message: Any


@dataclass
class Ingest:
    """Reads one bag.

    Attributes:
        refused: messages that could not be used, by reason; the rest is handed over.
        said: one sentence for each reason.
        command_problem: why there are no commands; None when there are.

    Raises:
        NoCamera: the bag has no picture topic.
        MissingTopic: a topic of the options is not in the bag; the message names those that are.
        WrongType: a topic is of another type.
    """

    bag: Bag
    options: IngestOptions
    refused: Counter[str] = field(default_factory=Counter)
    said: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shown = {each.name for each in self.bag.descriptions if each.type in PICTURE_TYPES}
        pictures = [topic for topic in self.bag.topics.values() if topic.name in shown]
        if not pictures:
            there = ", ".join(f"{topic.name} ({topic.type})" for topic in self.bag.topics.values())
            raise NoCamera(f"{self.bag.path} has no picture topic; its topics are {there}: record the cameras as well")
        self._cameras: dict[str, list[str]] = {}  # by topic: several may show one
        for camera, name in self.options.camera_topics.items():
            topic = self._find(name)
            if topic is None or not topic.count:
                topic = self._find(f"{name}/{ENDING}") or topic
            if topic is None:
                names = ", ".join(f"{each.name} ({each.count})" for each in pictures)
                raise MissingTopic(
                    f"{self.bag.path} has no topic {name} for camera {camera}; its picture topics are {names}: set the "
                    "observer's camera_topics"
                )
            self._cameras.setdefault(self._checked(topic, PICTURE_TYPES).name, []).append(camera)
        self._open_state()
        self.retime: Callable[[RawMessage], RawMessage] | None = None  # see Bag.messages
        self._others: dict[str, str] = {}
        for name in self.options.others:
            found = self._find(name)
            if found is None:
                continue
            if found.type == OTHER_TYPES[name]:
                if problem := self._version_problem(found, name):
                    self.said[f"type.{found.name}"] = f"topic {found.name} is left out: {problem}"
                else:
                    self._others[found.name] = name
            elif name != self.options.action_topic:
                self.said[f"type.{found.name}"] = (
                    f"topic {found.name} is left out: it is of type {found.type}, the suite's is {OTHER_TYPES[name]}"
                )
        self._open_commands()

    @property
    def topics(self) -> tuple[str, ...]:
        """Name in the bag of every topic that is read."""
        commands = () if self._commands is None else (self._commands,)
        return (*self._cameras, self._state.name, *self._others, *commands)

    def _open_state(self) -> None:
        state = self._find(self.options.state_topic)
        if state is None:
            names = ", ".join(topic.name for topic in self.bag.topics.values() if topic.type in STATE_TYPES)
            raise MissingTopic(
                f"{self.bag.path} has no topic {self.options.state_topic}; topics that may hold the robot's state are "
                f"{names or 'none'}: set the observer's robot_state_topic"
            )
        self._state = self._checked(state, STATE_TYPES)
        self._values = StateReader(
            self._state.type,
            self.options.joints,
            self.options.state_size,
            Units(*self.options.state_units),
            self.options.nameless_joints,
        )

    def _open_commands(self) -> None:
        commands = self._find(self.options.action_topic)
        self.command_problem = self._command_problem(commands)
        self._commands = commands.name if commands is not None and self.command_problem is None else None

    def events(self) -> Iterator[Frame | State | Commanded | Said]:
        """Yield everything in the order of time; what cannot be used is counted and, but for a command, left out."""
        for message in self.bag.messages(self.topics, self.retime):
            try:
                yield from self._events(message)
            except (BagError, ValueError) as error:
                self._count("undecodable" if isinstance(error, WrongType) else "malformed", message.topic, error)
                if message.topic == self._commands:
                    yield Commanded(message.time_ns * NS, None)

    def refuse(self, camera: str, error: ValueError) -> None:
        """Count a picture that turned out not to be readable when it was needed."""
        topic = next(name for name, cameras in self._cameras.items() if camera in cameras)
        self._count("unreadable", topic, error)

    def refuse_said(self, event: Said, error: ValueError) -> None:
        """Count a message of the suite whose values turned out to mean nothing."""
        self._count("malformed", next(topic for topic, name in self._others.items() if name == event.topic), error)

    def _count(self, reason: str, topic: str, error: Exception) -> None:
        key = f"{reason}.{topic}"
        self.refused[key] += 1
        self.said.setdefault(key, printable(f"messages of {topic} are left out: {error}"))

    def other(self, name: str) -> str | None:
        """Return what the bag calls the topic `name` of `OTHER_TYPES`; None when it has none, or of another type."""
        topic = self._find(name)
        if topic is None or topic.type != OTHER_TYPES[name] or self._version_problem(topic, name):
            return None
        return topic.name

    def _version_problem(self, topic: Topic, name: str) -> str:
        """Return why the suite's own messages of the topic `name` cannot be used; empty when they can."""
        try:
            missing = [field for field in self.bag.missing(topic) if field not in ADDED_LATER.get(name, ())]
        except WrongType as error:
            return str(error)
        return f"its {topic.type} has no {', '.join(missing)}: another version of the suite wrote it" if missing else ""

    def _command_problem(self, topic: Topic | None) -> BagError | None:
        name = self.options.action_topic
        if topic is None:
            there = ", ".join(self.bag.topics)
            return MissingTopic(f"{self.bag.path} has no topic {name} for the actions; its topics are {there}")
        if topic.type != COMMAND_TYPE:
            return WrongType(
                f"{self.bag.path}: topic {topic.name} is of type {topic.type}, but actions are read from "
                f"{COMMAND_TYPE} only: record the actions, in action units, on such a topic and name it with "
                "--action-topic"
            )
        return None

    def _events(self, raw: RawMessage) -> Sequence[Frame | State | Commanded | Said]:
        """Return what a message tells, by its own type: a topic may have several."""
        time_s = raw.time_ns * NS
        kind = self.bag.type_of(raw)
        message = self.bag.decode(raw)
        if raw.topic in self._cameras:
            return self._frames(raw, kind, message)
        if raw.topic == self._state.name:
            return [State(time_s, finite(self._values(of_type(kind, (self._state.type,), message)), "the state"))]
        if raw.topic == self._commands:
            return [Commanded(time_s, command_values(of_type(kind, (COMMAND_TYPE,), message)))]
        name = self._others[raw.topic]
        return [Said(time_s, name, of_type(kind, (OTHER_TYPES[name],), message))]

    def _frames(self, raw: RawMessage, kind: str, message: Any) -> list[Frame]:
        """Return a picture for each camera that shows the topic."""
        stamp = of_type(kind, PICTURE_TYPES, message).header.stamp
        check_message(message, kind)
        taken_s = stamp.sec + stamp.nanosec * NS
        return [Frame(raw.time_ns * NS, camera, message, kind, taken_s) for camera in self._cameras[raw.topic]]

    def _find(self, name: str) -> Topic | None:
        space = "/" + self.options.namespace.strip("/")
        full = name if name.startswith("/") else f"{space.rstrip('/')}/{name}"
        return self.bag.topics.get(full)

    def _checked(self, topic: Topic, types: tuple[str, ...]) -> Topic:
        return self.bag.require(topic.name, types)


def of_type(kind: str, types: tuple[str, ...], message: Any) -> Any:
    """Return the message when it is of one of the types; WrongType when it is not."""
    if kind not in types:
        raise WrongType(f"one is of type {kind}, expected {' or '.join(types)}")
    return message
