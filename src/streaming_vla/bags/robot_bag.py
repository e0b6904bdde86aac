"""What an export reads of a bag: pictures, the state of several drivers, commands of any type, the instruction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from streaming_vla.bags.errors import BagError, MissingTopic, WrongType
from streaming_vla.bags.ingest import NS, Frame, Ingest, IngestOptions, Said, of_type
from streaming_vla.bags.others import OTHER_TYPES
from streaming_vla.bags.topics import RawMessage
from streaming_vla.commands.action_reader import TYPES as COMMAND_TYPES
from streaming_vla.commands.action_reader import ActionOptions, ActionReader, own_dimensions
from streaming_vla.commands.merged_state import TYPES as STATE_TYPES
from streaming_vla.commands.merged_state import MergedState
from streaming_vla.commands.sent_actions import ACTION
from streaming_vla.commands.units import Units
from streaming_vla.options.shared import ARRAY, JOINTS

EPISODE, INSTRUCTION, EXECUTION, GRIPPER = "episode", "instruction", "execution_state", "gripper_command"
SETTLED_S = 5.0  # so long joints are collected that nobody has named


@dataclass(frozen=True, kw_only=True)
class RobotOptions(IngestOptions):
    """Which topics an export uses, beside those of IngestOptions.

    Args:
        actions: what commands become.
        state_topics: the state is what they tell together; empty for `state_topic` alone.
        action_topics: the first is the one that must go on coming.
        instruction: of bags without an `episode` topic, in place of their `instruction` topic.
    """

    actions: ActionOptions
    state_topics: tuple[str, ...] = ()
    action_topics: tuple[str, ...] = ("command",)
    instruction: str = ""


@dataclass(frozen=True)
class Heard:
    """A message about the robot: its state, or a command; None where it cannot be read."""

    time_s: float
    topic: str
    message: Any | None
    command: bool


class RobotBag(Ingest):
    """Reads one bag for an export.

    State and commands are not put together here: they are taken when the reader of the events is there, so that a step
    does not see what came behind it.

    Attributes:
        state: of all drivers.
        commands: what the robot was told.

    Raises:
        MissingTopic: a topic is missing, or nothing says what the robot was asked to do.
        WrongType: a topic is of a type that nothing is read from.
        BagError: such commands cannot tell the action.
    """

    options: RobotOptions

    @property
    def topics(self) -> tuple[str, ...]:
        """Name in the bag of every topic that is read."""
        return tuple(dict.fromkeys([*self._cameras, *self._states, *self._others, *self.commands.topics]))

    def _open_state(self) -> None:
        names = self.options.state_topics or (self.options.state_topic,)
        self._states: dict[str, str] = {}
        for name in names:
            topic = self._find(name)
            if topic is None:
                there = ", ".join(each.name for each in self.bag.topics.values() if each.type in STATE_TYPES)
                raise MissingTopic(
                    f"{self.bag.path} has no topic {name}; topics that may hold the robot's state are "
                    f"{there or 'none'}: set the observer's robot_state_topic, or name it with --state-topic"
                )
            self._states[topic.name] = self._checked(topic, STATE_TYPES).type
        self.state = MergedState(
            self._states, self.options.joints, self.options.nameless_joints, Units(*self.options.state_units)
        )
        if not self.options.joints and JOINTS in self._states.values():
            self._settle()

    def _settle(self) -> None:
        """Learn which joints there are: of every driver that is heard in the first seconds."""
        begin_ns: int | None = None
        for raw in self.bag.messages([name for name, kind in self._states.items() if kind == JOINTS]):
            begin_ns = raw.time_ns if begin_ns is None else begin_ns
            if raw.time_ns - begin_ns > SETTLED_S / NS:
                break
            try:
                self.state.take(raw.topic, of_type(self.bag.type_of(raw), (JOINTS,), self.bag.decode(raw)), 0.0)
            except (BagError, ValueError):
                continue  # is told when it is read again
        self.state.settle()
        self.state.forget()

    def _open_commands(self) -> None:
        self.command_problem = None
        kinds: dict[str, str] = {}
        for name in self.options.action_topics:
            topic = self._find(name)
            if topic is None:
                there = ", ".join(f"{each.name} ({each.type})" for each in self.bag.topics.values()
                                  if each.type in COMMAND_TYPES)  # fmt: skip
                raise MissingTopic(
                    f"{self.bag.path} has no topic {name} for the actions; topics that may hold commands are "
                    f"{there or 'none'}: name one with --action-topic"
                )
            if topic.type not in COMMAND_TYPES:
                raise WrongType(
                    f"{self.bag.path}: topic {topic.name} is of type {topic.type}, but actions are read from "
                    f"{', '.join(COMMAND_TYPES)}: name another topic with --action-topic"
                )
            if topic.type == ACTION and (problem := self._version_problem(topic, name)):
                raise WrongType(f"{self.bag.path}: topic {topic.name}: {problem}")
            kinds[topic.name] = topic.type
        execution = self.other(EXECUTION)
        if ACTION in kinds.values() and execution is not None:
            kinds[execution] = self.bag.topics[execution].type
        elif ACTION in kinds.values():
            self.said["untimed"] = (
                f"{self.bag.path} has no {EXECUTION} topic, which tells when an action was played: they are taken one "
                "each period, in the order in which they came"
            )
        try:
            own = own_dimensions(self.options.actions, tuple(kinds.values()))
            rest = None if own.all() else self._find(GRIPPER)
            self.commands = ActionReader(self.options.actions, kinds, rest.name if rest is not None else None)
        except ValueError as error:
            raise BagError(f"{self.bag.path}: {error}") from error
        self._told = {name: kinds.get(name, ARRAY) for name in self.commands.topics}

    def check_instruction(self) -> None:
        """Raise MissingTopic where nothing says what the robot was asked to do."""
        if not (self.options.instruction or self.other(EPISODE) or self.other(INSTRUCTION)):
            raise MissingTopic(
                f"{self.bag.path} has neither an episode nor an instruction topic: say with --instruction what the "
                "robot was asked to do"
            )

    def heard(self) -> Iterator[Frame | Heard | Said]:
        """Yield everything in the order of time."""
        for raw in self.bag.messages(self.topics, self.retime):
            yield from self._one(raw)

    def _one(self, raw: RawMessage) -> Iterator[Frame | Heard | Said]:
        time_s, kind = raw.time_ns * NS, self.bag.type_of(raw)
        command = raw.topic in self._told
        try:
            message = self.bag.decode(raw)
            if command or raw.topic in self._states:
                expected = self._told[raw.topic] if command else self._states[raw.topic]
                yield Heard(time_s, raw.topic, of_type(kind, (expected,), message), command)
            elif raw.topic in self._others:
                name = self._others[raw.topic]
                yield Said(time_s, name, of_type(kind, (OTHER_TYPES[name],), message))
            else:
                yield from self._frames(raw, kind, message)
        except (BagError, ValueError) as error:
            self._count("undecodable" if isinstance(error, WrongType) else "malformed", raw.topic, error)
            if command:
                yield Heard(time_s, raw.topic, None, command)

    def refuse_heard(self, event: Heard, error: ValueError) -> None:
        """Count a message that turned out to mean nothing."""
        self._count("malformed", event.topic, error)

    def tell_left_out(self) -> None:
        """Say which joints were heard or told that are nobody's."""
        for what, names, fix in (
            ("state", self.state.left_out, "robot_state_joints"),
            ("actions", self.commands.left_out, "joint_names"),
        ):
            if names:
                self.said[f"left_out.{what}"] = (
                    f"{self.bag.path}: joint {', '.join(sorted(names))} is left out of the {what}: {fix} does not "
                    "name it"
                )
