"""A dry run against a person: what the policy would have told the robot, and what somebody who moved it told it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.bags.reader import Bag
from streaming_vla.commands.action_reader import TYPES, ActionReader, own_dimensions
from streaming_vla.commands.sent_actions import PLAYING
from streaming_vla.machines.executor_options import PREVIEW
from streaming_vla.parameters.nodes import SuiteOptions
from streaming_vla.parameters.sections import full_namespace
from streaming_vla.workbench.export.options import action_options
from streaming_vla.workbench.report.statistics import summarise

COMMAND, GRIPPER, STATE = "command", "gripper_command", "execution_state"
NS = 1e-9
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shadow:
    """Both of N steps, in action units.

    Args:
        names: of the A dimensions.
        times: of the steps, seconds since the first command of the dry run, [N].
        policy: what the dry run said, [N, A].
        person: what the robot was told, [N, A].
    """

    names: tuple[str, ...]
    times: npt.NDArray[np.float64]
    policy: Matrix
    person: Matrix

    @property
    def error(self) -> Matrix:
        """Dry run minus person, [N, A]."""
        difference: Matrix = self.policy - self.person
        return difference

    def curves(self) -> dict[str, dict[str, list[list[float]]]]:
        """Return the curves of each dimension for the report."""
        sources = {"person": self.person, "dry run": self.policy, "error": self.error}
        return {
            name: {
                key: [[float(time), float(value)] for time, value in zip(self.times, values[:, place], strict=True)]
                for key, values in sources.items()
            }
            for place, name in enumerate(self.names)
        }


def summarise_shadows(shadows: Sequence[Shadow]) -> dict[str, Any]:
    """Return |dry run - person| of all recordings by dimension (action units), empty where there is none."""
    if not shadows:
        return {}
    errors = np.abs(np.concatenate([shadow.error for shadow in shadows]))
    by_dimension = {name: asdict(summarise(errors[:, place])) for place, name in enumerate(shadows[0].names)}
    return {"steps": len(errors), "by_dimension": by_dimension}


def read_shadow(bag: Bag, suite: SuiteOptions, namespace: str, action_topic: str, problems: list[str]) -> Shadow | None:
    """Return what a bag tells of a dry run, None where it tells of none.

    Args:
        action_topic: what the person told the robot.
        problems: gets a sentence where there was a dry run and it cannot be compared.
    """
    preview = _full(COMMAND + PREVIEW, namespace)
    if preview not in bag.topics:
        return None
    person = _full(action_topic, namespace)
    if person not in bag.topics or not bag.topics[person].count:
        problems.append(
            f"{bag.path} has a dry run on {preview}, but nobody commanded the robot on {person}: name the topic of the "
            "person's commands with --action-topic"
        )
        return None
    try:
        return _Comparison(bag, suite, namespace, preview, person).shadow()
    except ValueError as error:
        problems.append(f"{bag.path}: the dry run is not compared with the person: {error}")
        return None


class _Comparison:
    """Reads both commands side by side; every command of the dry run that plays an action is a step."""

    def __init__(self, bag: Bag, suite: SuiteOptions, namespace: str, preview: str, person: str) -> None:
        self._bag, self._preview = bag, preview
        self._state = _full(STATE, namespace)
        self._options = action_options(suite, suite.generator.control_period_s)
        self._policy = self._reader(preview, _full(GRIPPER + PREVIEW, namespace))
        self._person = self._reader(person, _full(GRIPPER, namespace))

    def _reader(self, topic: str, rest: str) -> ActionReader:
        kind = self._bag.topics[topic].type
        if kind not in TYPES:
            raise ValueError(f"{topic} is of type {kind}, expected one of {', '.join(TYPES)}")
        whole = own_dimensions(self._options, (kind,)).all()
        return ActionReader(self._options, {topic: kind}, None if whole else rest)

    def shadow(self) -> Shadow:
        wanted = dict.fromkeys([*self._policy.topics, *self._person.topics, self._state])
        times, policy, person = [], [], []
        mode, told_s = PLAYING[0], None
        for raw in self._bag.messages([name for name in wanted if name in self._bag.topics]):
            time_s, message = raw.time_ns * NS, self._bag.decode(raw)
            if raw.topic == self._state:
                mode = message.mode
                continue
            for reader in (self._policy, self._person):
                if raw.topic in reader.topics:
                    reader.take(raw.topic, message, time_s)
            if raw.topic != self._preview or mode not in PLAYING:
                continue
            if self._policy.known() and self._person.known():
                both = self._policy.action(time_s), self._person.action(time_s)
                if both[0] is not None and both[1] is not None and told_s is not None:
                    times.append(time_s)
                    policy.append(both[0])
                    person.append(both[1])
                self._policy.begin(time_s)
                self._person.begin(time_s)
                told_s = time_s
        if not times:
            raise ValueError("they never commanded at the same time")
        return Shadow(self._options.names, np.array(times) - times[0], np.array(policy), np.array(person))


def _full(name: str, namespace: str) -> str:
    return name if name.startswith("/") else f"{full_namespace(namespace).rstrip('/')}/{name}"
