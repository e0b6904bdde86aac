"""Where commands go, and as what: by the topics that somebody listens to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streaming_vla.bringup.new_robot.asking import Ask, choose
from streaming_vla.bringup.new_robot.facts import CommandTopic, PolicyFacts, RobotFacts, UnclearError
from streaming_vla.commands.action_reader import TRAJECTORY, TWIST_STAMPED
from streaming_vla.options.shared import ARRAY, JOINTS

TYPES = {TRAJECTORY: "trajectory", JOINTS: "joints", ARRAY: "array", TWIST_STAMPED: "twist"}
"""The executor's `command_type` by the message type that a robot takes."""
OF_JOINTS = ("trajectory", "joints")


@dataclass(frozen=True)
class CommandChoice:
    """What the executor sends.

    Args:
        kind: its `command_type`.
        topic: that the robot listens to; None: nobody listens yet.
    """

    kind: str
    topic: str | None
    why: str
    guessed: bool


def choose_command(
    policy: PolicyFacts, joints: Sequence[str], robot: RobotFacts, said: str | None, ask: Ask | None
) -> CommandChoice:
    """Return where commands go.

    Args:
        joints: of each action dimension; empty: not known.
        said: topic, as the user has said it; None: nothing is said.
        ask: see `choose`.

    Raises:
        UnclearError: nobody listens to what is said, or several topics would do.
    """
    if said is not None:
        found = next((each for each in robot.commands if each.name == robot.absolute(said)), None)
        if found is None:
            there = ", ".join(f"{each.name} ({each.kind})" for each in robot.commands)
            raise UnclearError(f"--command {said}: nobody listens there; topics with a listener are {there or 'none'}")
        return CommandChoice(TYPES[found.kind], found.name, "as --command says", False)
    fits = [each for each in robot.commands if _fits(each, policy, joints)]
    own = [each for each in fits if each.name == robot.absolute("command")]
    trajectories = [each for each in fits if each.kind == TRAJECTORY]
    for some in (own, trajectories, fits):
        if len(some) == 1:
            return CommandChoice(
                TYPES[some[0].kind], some[0].name, f"somebody listens to {some[0].name}", some is not own
            )
    if fits:
        names = [each.name for each in fits]
        name = choose("Which topic takes the robot's commands?", names, f"--command {names[0]}", ask)
        chosen = fits[names.index(name)]
        return CommandChoice(TYPES[chosen.kind], chosen.name, "as it was answered", False)
    if joints:
        return CommandChoice("trajectory", None, "nobody listens to commands yet, and its joints are known", True)
    return CommandChoice("array", None, "nobody listens to commands yet", True)


def _fits(topic: CommandTopic, policy: PolicyFacts, joints: Sequence[str]) -> bool:
    """True where the executor can say the policy's actions in messages of such a topic."""
    kind, absolute = TYPES[topic.kind], policy.spec.layout.absolute
    if kind == "twist":
        return 1 <= sum(not each for each in absolute) <= 6
    return kind not in OF_JOINTS or bool(joints)
