"""Which joints the numbers of state and action are: by their names, in the policy's order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from streaming_vla.bringup.new_robot.asking import Ask, choose
from streaming_vla.bringup.new_robot.facts import ArrayTopic, JointTopic, PolicyFacts, RobotFacts, UnclearError

SO_ARM = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
"""LeRobot's order of the joints of SO-100 and SO-101."""
PLACEHOLDER = re.compile(r"(action|state|motor|joint|dim|a|s)?_?\d+")


@dataclass(frozen=True)
class StateChoice:
    """Where the state comes from.

    Args:
        topic: of it.
        joints: whose positions it is, in the policy's order; empty: the topic's numbers are the state.
        action_joints: joint of each action dimension; empty: not known.
        guessed: no names say it.
    """

    topic: JointTopic | ArrayTopic
    joints: tuple[str, ...]
    action_joints: tuple[str, ...]
    why: str
    guessed: bool


def choose_state(
    policy: PolicyFacts, robot: RobotFacts, said: Sequence[str], topic: str | None, ask: Ask | None
) -> StateChoice:
    """Return where the state comes from, and the joint of each action.

    Args:
        said: joints in the policy's order, as the user has said them; empty: nothing is said.
        topic: of the state, as the user has said it; None: nothing is said.
        ask: see `choose`.

    Raises:
        UnclearError: what is said is not there, or it is not clear which joint is which number.
    """
    size, actions = policy.spec.state_size, policy.spec.layout.size
    if (array := _array(policy, robot, said, topic)) is not None:
        return StateChoice(array, (), (), f"it has the {size} numbers of the policy's state", topic is None)
    heard = _joint_topic(policy, robot, topic)
    if said:
        joints = _said(said, size, heard)
        return StateChoice(heard, joints, _of_actions(policy, joints), "as --joints says", False)
    names = policy.state_names or policy.action_names
    if len(names) == size and (found := match(names, heard.joints)) is not None:
        why = f"{policy.source or 'the policy'} has these names"
        return StateChoice(heard, found, _of_actions(policy, found), why, False)
    if size == actions == len(SO_ARM) and set(SO_ARM) <= set(heard.joints):
        why = "an SO-100 or SO-101: LeRobot's order of its joints"
        return StateChoice(heard, SO_ARM, SO_ARM, why, True)
    example = ",".join(heard.joints[:size])
    question = (
        f"In which order does the policy have the joints {', '.join(heard.joints)} of {heard.name}? It knows {size} "
        f"numbers{_called(names)}."
    )
    answer = choose(question, (), f"--joints {example}, or give the data set with --data", ask)
    joints = _said([name.strip() for name in answer.split(",")], size, heard)
    return StateChoice(heard, joints, _of_actions(policy, joints), "as it was answered", False)


def match(names: Sequence[str], joints: Sequence[str]) -> tuple[str, ...] | None:
    """Return the joint of each name; None where one has none, or two have the same."""
    by_name: dict[str, list[str]] = {}
    for joint in joints:
        by_name.setdefault(plain(joint), []).append(joint)
    found = [by_name.get(plain(name), []) for name in names]
    if any(len(each) != 1 for each in found) or len({each[0] for each in found}) != len(names):
        return None
    return tuple(each[0] for each in found)


def plain(name: str) -> str:
    """Return a joint's name without what data sets and drivers add to it (`shoulder_pan.pos`, `main_elbow_joint`)."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    kept = [word for word in words if word not in ("pos", "position", "joint", "main")]
    return "_".join(kept or words)


def is_gripper(name: str) -> bool:
    """True for what opens and closes."""
    return any(word in name.lower() for word in ("gripper", "finger", "jaw", "grasp"))


def _array(policy: PolicyFacts, robot: RobotFacts, said: Sequence[str], topic: str | None) -> ArrayTopic | None:
    """Return the topic of numbers that is the state; JointState is preferred where nobody says otherwise."""
    size = policy.spec.state_size
    named = next((each for each in robot.arrays if topic and each.name == robot.absolute(topic)), None)
    if named is not None:
        if named.size != size:
            raise UnclearError(f"--state-topic {topic} has {named.size} numbers, the policy's state has {size}")
        return named
    fits = [each for each in robot.arrays if each.size == size and each.name.endswith("/robot_state")]
    enough = any(len(each.joints) >= size for each in robot.joints)
    return fits[0] if fits and not (topic or said or enough) else None


def _joint_topic(policy: PolicyFacts, robot: RobotFacts, topic: str | None) -> JointTopic:
    there = ", ".join(f"{each.name} ({len(each.joints)} joints)" for each in robot.joints)
    if topic is not None:
        found = next((each for each in robot.joints if each.name == robot.absolute(topic)), None)
        if found is None:
            raise UnclearError(f"--state-topic {topic}: no state comes there; topics of joints are {there or 'none'}")
        return found
    size = policy.spec.state_size
    fits = [each for each in robot.joints if len(each.joints) >= size]
    if not fits:
        raise UnclearError(
            f"no topic tells the {size} numbers of the policy's state; topics of joints are {there or 'none'}: start "
            "the robot's drivers, or name the topic with --state-topic"
        )
    return min(fits, key=lambda each: (each.name != robot.absolute("joint_states"), len(each.name), each.name))


def _said(joints: Sequence[str], size: int, heard: JointTopic) -> tuple[str, ...]:
    missing = [name for name in joints if name not in heard.joints]
    if missing or len(joints) != size or len(set(joints)) != size:
        wrong = f"{', '.join(missing)} is not among them" if missing else f"{len(joints)} names, expected {size}"
        raise UnclearError(f"the joints of {heard.name} are {', '.join(heard.joints)}; {wrong}: give --joints anew")
    return tuple(joints)


def _of_actions(policy: PolicyFacts, joints: tuple[str, ...]) -> tuple[str, ...]:
    """Return the joint of each action dimension; empty where it is not known."""
    count = policy.spec.layout.size
    if len(policy.action_names) == count and (found := match(policy.action_names, joints)) is not None:
        return found
    return joints if count == len(joints) else ()


def _called(names: Sequence[str]) -> str:
    if not names or all(PLACEHOLDER.fullmatch(name.lower()) for name in names):
        return ""
    return f", which are called {', '.join(names)}"
