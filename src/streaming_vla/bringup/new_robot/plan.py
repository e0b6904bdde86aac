"""Every value of a robot's parameter file, with where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streaming_vla.bringup.new_robot.cameras import CameraChoice
from streaming_vla.bringup.new_robot.choices import Choices
from streaming_vla.bringup.new_robot.facts import JointTopic, PolicyFacts, RobotFacts
from streaming_vla.bringup.new_robot.joints import StateChoice, is_gripper
from streaming_vla.bringup.new_robot.units import RADIANS, RANGE, UnitChoice
from streaming_vla.options.option import Value
from streaming_vla.options.shared import ARRAY, JOINTS
from streaming_vla.policies.registry import lerobot_folder

FULL_RANGE_S = 2.0  # a joint crosses the range of the training data in so long, at the speed that is guessed
LEAD_S = 0.2  # a target runs ahead of the measured joint by what it moves in so long
SMALLEST = 0.001  # of a limit


@dataclass(frozen=True)
class Entry:
    """A value of the file.

    Args:
        why: where it comes from.
        guessed: it has to be looked at.
    """

    name: str
    value: Value
    why: str
    guessed: bool = False


@dataclass(frozen=True)
class Plan:
    """What the file says.

    Args:
        sections: entries by section.
        pose: joints that stand outside of the training data, a sentence each.
    """

    sections: Mapping[str, tuple[Entry, ...]]
    pose: tuple[str, ...]


def make_plan(policy: PolicyFacts, robot: RobotFacts, choices: Choices) -> Plan:
    """Return the robot's parameters."""
    state, rate = choices.state, choices.rate
    period_s = round(1.0 / rate.fps, 6)
    sections = {
        "/**": (
            Entry("control_period_s", period_s, rate.why, rate.guessed),
            *_actions(policy, choices.units),
            *_state(robot, state, choices.units),
        ),
        "/**/observer": _observer(policy, robot, choices.cameras),
        "/**/inference": _inference(policy),
        "/**/executor": (*_robot_topics(robot, choices), *_executor(policy, choices, period_s)),
    }
    return Plan(sections, tuple(_pose(policy, state, choices.units)))


def _actions(policy: PolicyFacts, units: UnitChoice | None) -> list[Entry]:
    layout = policy.spec.layout
    of_lerobot = lerobot_folder(policy.model) is not None
    limits = "the statistics of the training data, a tenth of their range wider" if of_lerobot else "the policy's"
    unknown = _not_told(policy)
    low, high = (_at_the_robot(each, units) for each in (layout.low, layout.high))
    names = "the policy's"
    if policy.action_names and policy.action_names != layout.names:
        names += f"; in the data set they are {', '.join(policy.action_names)}"
    return [
        Entry("action_names", layout.names, names),
        Entry(
            "action_absolute",
            layout.absolute,
            "targets, as most of LeRobot's data sets have them" if all(layout.absolute) else "as the policy says",
            of_lerobot,
        ),
        Entry("action_low", _rounded(layout.low), f"{limits}{unknown}{low}", bool(unknown)),
        Entry("action_high", _rounded(layout.high), f"likewise{high}", bool(unknown)),
        Entry("action_initial", _rounded(layout.initial), "the policy's; an episode begins where the robot stands"),
    ]


def _not_told(policy: PolicyFacts) -> str:
    """Return which actions have limits that limit nothing, to end a comment with; empty where there are none."""
    names = [name for index, name in enumerate(policy.spec.layout.names) if policy.data_range(index) is None]
    return f"; no statistics tell the range of {', '.join(names)}: give the robot's" if names else ""


def _at_the_robot(values: Sequence[float], units: UnitChoice | None) -> str:
    if units is None or units.kind == RADIANS:
        return ""
    there = [value * scale + offset for value, scale, offset in zip(values, units.scale, units.offset, strict=True)]
    return f"; at the robot {', '.join(f'{value:.3g}' for value in there)}"


def _state(robot: RobotFacts, state: StateChoice, units: UnitChoice | None) -> list[Entry]:
    topic = robot.written(state.topic.name)
    if not state.joints:
        return [
            Entry("robot_state_topic", topic, state.why, state.guessed),
            Entry("robot_state_type", ARRAY, "what is published there"),
        ]
    found = [
        Entry("robot_state_topic", topic, "it tells enough joints"),
        Entry("robot_state_type", JOINTS, "what is published there"),
        Entry("robot_state_joints", state.joints, f"in the policy's order: {state.why}", state.guessed),
    ]
    if units is not None and units.kind != RADIANS:
        scale, offset = _of_state(state, units)
        found += [
            Entry(
                "robot_state_scale", _rounded(scale), f"the policy is in {_named(units)}: {units.why}", units.guessed
            ),
            Entry("robot_state_offset", _rounded(offset), "likewise", units.guessed),
        ]
    elif units is not None:
        found.append(Entry("robot_state_scale", (1.0,), f"radians (or metres): {units.why}", units.guessed))
    return found


def _of_state(state: StateChoice, units: UnitChoice) -> tuple[list[float], list[float]]:
    """Return scale and offset of each number of the state: those of the same joint in the actions."""
    by_joint = dict(zip(state.action_joints, zip(units.scale, units.offset, strict=True), strict=True))
    pairs = [by_joint[joint] for joint in state.joints]
    return [scale for scale, _ in pairs], [offset for _, offset in pairs]


def _observer(policy: PolicyFacts, robot: RobotFacts, cameras: Sequence[CameraChoice]) -> tuple[Entry, ...]:
    why = "; ".join(f"{choice.camera}: {choice.why}{_size(choice)}" for choice in cameras)
    return (
        Entry("cameras", policy.spec.cameras, "the policy's"),
        Entry(
            "camera_topics",
            tuple(robot.written(choice.topic.name) for choice in cameras),
            why,
            any(choice.guessed for choice in cameras),
        ),
        Entry("camera_types", tuple(choice.topic.kind for choice in cameras), "what is published there"),
        Entry("image_size", policy.spec.image_size, "the policy's"),
        Entry("image_fit", policy.spec.image_fit, "the policy's"),
        Entry("image_pad_value", policy.spec.pad_value, "the policy's"),
    )


def _inference(policy: PolicyFacts) -> tuple[Entry, ...]:
    found = [Entry("model", policy.model, "as --model says")]
    found += [Entry(name, value, "as the command says") for name, value in policy.inference.items()]
    if policy.spec.chunk:
        why = "the policy was trained on one observation at a time"
        found.append(Entry("cache_policy", "newest", why, lerobot_folder(policy.model) is not None))
    return tuple(found)


def _robot_topics(robot: RobotFacts, choices: Choices) -> tuple[Entry, ...]:
    command, state = choices.command, choices.state
    found = []
    if command.topic is not None:
        found.append(Entry("command_topic", robot.written(command.topic), command.why, command.guessed))
    if state.joints:
        found.append(Entry("joint_states_topic", robot.written(state.topic.name), "it tells the state's joints"))
    return tuple(found)


def _executor(policy: PolicyFacts, choices: Choices, period_s: float) -> tuple[Entry, ...]:
    layout, state, units, command = policy.spec.layout, choices.state, choices.units, choices.command
    count, joints = layout.size, state.action_joints
    scale = units.scale if units else (1.0,) * count
    offsets = units.offset if units else (0.0,) * count
    offset = [each if absolute else 0.0 for each, absolute in zip(offsets, layout.absolute, strict=True)]
    ranges = [policy.data_range(index) or (layout.low[index], layout.high[index]) for index in range(count)]
    speeds = [max((high - low) / FULL_RANGE_S, SMALLEST) for low, high in ranges]
    jumps = [max(2.0 * speed * period_s, SMALLEST) for speed in speeds]
    leads = [max(LEAD_S * speed * abs(each), SMALLEST) for speed, each in zip(speeds, scale, strict=True)]
    names = joints or layout.names
    kept = tuple(is_gripper(name) and absolute for name, absolute in zip(names, layout.absolute, strict=True))
    speed, unknown = "the range of the training data", _not_told(policy)
    why, guessed = (f"the policy is in {_named(units)}: {units.why}", units.guessed) if units else ("no joints", True)
    found = [
        Entry("command_type", command.kind, command.why, command.guessed),
        Entry("scale", _rounded(scale), why, guessed),
        Entry("offset", _rounded(offset), "likewise", guessed),
        Entry("velocity_limit", _rounded(speeds), f"{speed} in {FULL_RANGE_S:g} s{unknown}", True),
        Entry("jump_limit", _rounded(jumps), "twice what velocity_limit allows in a period", True),
        Entry("maximum_lead", _rounded(leads), f"what velocity_limit allows in {LEAD_S:g} s", True),
        Entry("keep_when_stopped", kept, "what is called like a gripper keeps its last command", True),
    ]
    if joints:
        found.append(Entry("joint_names", joints, f"in the policy's order: {state.why}", state.guessed))
    return tuple(found)


def _pose(policy: PolicyFacts, state: StateChoice, units: UnitChoice | None) -> list[str]:
    """Return a sentence for every joint that stands outside of the training data: units or order may be wrong."""
    if units is None or not isinstance(state.topic, JointTopic):
        return []
    here = dict(zip(state.topic.joints, state.topic.positions, strict=True))
    found = []
    for index, joint in enumerate(state.action_joints):
        found_range = policy.data_range(index)
        if found_range is None:
            continue
        low, high = found_range
        value = (here[joint] - units.offset[index]) / units.scale[index]
        margin = 0.5 * (high - low)
        if policy.spec.layout.absolute[index] and not low - margin <= value <= high + margin:
            found.append(
                f"{joint} stands at {here[joint]:.3g} (robot), {value:.4g} for the policy, whose training data go from "
                f"{low:.4g} to {high:.4g}: are order and units right?"
            )
    return found


def _size(choice: CameraChoice) -> str:
    return f" ({choice.topic.size[0]}x{choice.topic.size[1]})" if choice.topic.size else ""


def _named(units: UnitChoice) -> str:
    return "-100 to 100 of each joint's range" if units.kind == RANGE else units.kind


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    """Return numbers as a person would write them: seven digits."""
    return tuple(float(f"{value:.7g}") for value in values)
