"""Commands of every type back into actions, and the state of several drivers: through a whole export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import floats
from robots import (
    ACTION,
    ACTIONS,
    ARRAY,
    EXECUTION,
    JOINTS,
    POSE,
    POSE_STAMPED,
    STATE_JOINTS,
    T0,
    TRAJECTORY,
    TWIST,
    TWIST_STAMPED,
    Message,
    commands,
    export,
    header,
    in_time,
    joints,
    make,
    options,
    pictures,
    playing,
    pose,
    read,
    sent,
    states,
    trajectory,
    twist,
    twist_stamped,
    write,
)

from streaming_vla.bags.errors import BagError
from streaming_vla.commands.action_reader import ActionOptions, ActionReader
from streaming_vla.commands.merged_state import MergedState
from streaming_vla.datasets.dataset import Dataset

REST = "/gripper_command"
ABSOLUTE: dict[str, dict[str, Any]] = {"generator": {}}
CHANGES = {"generator": {"action_absolute": (False, False, True)}}


def run(folder: Path, said: list[Message], changes: dict[str, dict[str, Any]] | None = None, **given: Any) -> Any:
    """Export a robot with these commands; return state, action and what was told."""
    done = export(write(folder / "bag", in_time(pictures(2.0), states(2.0), said)), folder / "set",
                  options(changes, **given))  # fmt: skip
    state, action, _ = read(folder / "set")
    assert len(state) > 30 and done.episodes == 1
    return state, action, done.problems


def grips(value: Callable[[float], float] = lambda r: r) -> list[Message]:
    return commands(2.0, topic=REST, make_one=lambda r: floats([value(r)]))


def names(*order: int) -> list[str]:
    return [ACTIONS[place] for place in order]


POSITIONS = [
    (ARRAY, lambda r: floats([r, 10 + r, 5.0])),
    (JOINTS, lambda r: joints(ACTIONS, [r, 10 + r, 5.0])),
    (JOINTS, lambda r: joints(names(2, 0, 1), [5.0, r, 10 + r])),
    (JOINTS, lambda r: joints((), [r, 10 + r, 5.0])),
    (JOINTS, lambda r: joints((*ACTIONS, "other"), [r, 10 + r, 5.0, np.nan])),
    (TRAJECTORY, lambda r: trajectory(ACTIONS, [(0.05, [r, 10 + r, 5.0])])),
    (TRAJECTORY, lambda r: trajectory(ACTIONS, [(0.0, [r, 10 + r, 5.0])])),
    (TRAJECTORY, lambda r: trajectory(ACTIONS, [(3.0, [r, 10 + r, 5.0])])),
    (TRAJECTORY, lambda r: trajectory(names(1, 2, 0), [(0.05, [10 + r, 5.0, r]), (0.1, [99.0, 99.0, 99.0])])),
    (TRAJECTORY, lambda r: trajectory(ACTIONS, [(0.0, [r - 0.05, 0.0, 5.0]), (0.05, [r, 10 + r, 5.0])])),
    (TRAJECTORY, lambda r: trajectory(ACTIONS, [(0.05, [r, 10 + r, 5.0])], start_s=T0 + r)),
]


@pytest.mark.parametrize(("kind", "make_one"), POSITIONS)
def test_absolute_targets(tmp_path: Path, kind: str, make_one: Callable[[float], Any]) -> None:
    state, action, _ = run(tmp_path, commands(2.0, kind=kind, make_one=make_one))
    assert np.allclose(action[:, 1] - action[:, 0], 10, atol=1e-4) and np.allclose(action[:, 2], 5)
    assert np.allclose(np.diff(action[:, 0]), 0.05, atol=1e-3)
    assert (np.abs(action[:, 0] - state[:, 0] - 0.025) < 0.03).all()  # told within the step


@pytest.mark.parametrize(("kind", "make_one"), [each for each in POSITIONS if each[0] != ARRAY])
def test_changes_are_differences_of_targets(tmp_path: Path, kind: str, make_one: Callable[[float], Any]) -> None:
    _, action, _ = run(tmp_path, commands(2.0, kind=kind, make_one=make_one), CHANGES)
    assert np.allclose(action[:, :2], 0.05, atol=1e-4) and np.allclose(action[:, 2], 5)


def test_changes_of_an_array_are_changes(tmp_path: Path) -> None:
    _, action, _ = run(tmp_path, commands(2.0, make_one=lambda r: floats([0.25, -0.5, r])), CHANGES)
    assert np.allclose(action[:, :2], [0.25, -0.5]) and np.allclose(np.diff(action[:, 2]), 0.05, atol=1e-3)


@pytest.mark.parametrize(("kind", "one"), [(TWIST_STAMPED, twist_stamped), (TWIST, twist)])
def test_velocities(tmp_path: Path, kind: str, one: Callable[..., Any]) -> None:
    """A twist tells the dimensions that are changes, in order; the gripper has a topic of its own."""
    changes = {**CHANGES, "executor": {"scale": (0.5, 2.0, 10.0)}}
    said = in_time(commands(2.0, kind=kind, make_one=lambda r: one([0.1, r, 0.0])), grips())
    _, action, _ = run(tmp_path, said, changes)
    assert np.allclose(action[:, 0], 0.2) and np.allclose(np.diff(action[:, 1]), 0.025, atol=1e-3)
    assert np.allclose(action[:, 2] * 10, action[:, 1] * 2, atol=0.011)


def test_six_velocities(tmp_path: Path) -> None:
    six = ("x", "y", "z", "rx", "ry", "rz")
    layout = {"action_names": six, "action_absolute": (False,) * 6}
    said = commands(2.0, kind=TWIST_STAMPED, make_one=lambda r: twist_stamped([1, 2, 3], [4, 5, 6]))
    _, action, _ = run(tmp_path, said, {"generator": layout})
    assert (action == [1, 2, 3, 4, 5, 6]).all()


def test_scale_and_joint_names_are_the_executors(tmp_path: Path) -> None:
    changes = {"executor": {"scale": (2.0, -1.0, 0.5), "joint_names": ("j1", "j2", "")}}
    said = commands(2.0, kind=JOINTS, make_one=lambda r: joints(("j2", "j1"), [r, 10.0]))
    _, action, _ = run(tmp_path, in_time(said, grips(lambda r: 3.0)), changes)
    assert np.allclose(action[:, 0], 5) and np.allclose(action[:, 2], 6)
    assert np.allclose(np.diff(action[:, 1]), -0.05, atol=1e-3)


def test_two_controllers_have_a_topic_each(tmp_path: Path) -> None:
    """The arm's must go on coming; the gripper's holds until it says something else."""
    arm = commands(2.0, kind=TRAJECTORY, topic="/arm",
                   make_one=lambda r: trajectory(names(0, 1), [(0.05, [r, 10 + r])]))  # fmt: skip
    grip = [("/grip", TRAJECTORY, trajectory(["grip"], [(0.2, [level])]), at_s)
            for level, at_s in ((1.0, 0.0), (7.0, 1.0))]  # fmt: skip
    _, action, _ = run(tmp_path, in_time(arm, grip), action_topics=("arm", "grip"))
    assert set(action[:, 2].tolist()) == {1.0, 7.0} and np.allclose(np.diff(action[:, 0]), 0.05, atol=1e-3)


def test_a_long_trajectory_is_followed(tmp_path: Path) -> None:
    """One command for two seconds: at every step the point that is due a period later."""
    points = [(at_s, [at_s, 10 + at_s, np.sin(at_s)]) for at_s in np.arange(1, 21) / 10]
    said = [("/command", TRAJECTORY, trajectory(ACTIONS, points), 0.0)]
    _, action, _ = run(tmp_path, said)
    due = 0.05 * (1 + np.arange(len(action)))
    course = np.interp(due, *np.array([(at_s, positions[0]) for at_s, positions in points]).T)
    offset = int(np.argmin([np.abs(course[k : k + 20] - action[:20, 0]).sum() for k in range(4)]))
    count = min(len(action), len(course) - offset)
    np.testing.assert_allclose(action[:count, 0], course[offset : offset + count], atol=1e-5)
    assert np.allclose(action[:, 1] - action[:, 0], 10, atol=1e-4)


# what the suite sends itself


def test_own_actions_are_those_that_were_played(tmp_path: Path) -> None:
    """Sent in chunks ahead; the executor's state says when each one begins. Two of each are never played."""
    said: list[Message] = []
    for step in range(40):
        context, index = divmod(step, 8)
        if index == 0:
            said += [("/action", ACTION, sent(context, place, [8 * context + place, 0.0, 1.0]), step / 20)
                     for place in range(10)]  # fmt: skip
        said.append(("/execution_state", EXECUTION, playing(context, index), step / 20 + 0.012))
    _, action, told = run(tmp_path, said, action_topics=("action",))
    assert np.allclose(np.diff(action[:, 0]), 1) and not told


def test_in_a_hold_changes_are_zero(tmp_path: Path) -> None:
    said = [("/action", ACTION, sent(0, step, [0.5, 0.5, 9.0]), 0.0) for step in range(20)]
    said += [("/execution_state", EXECUTION, playing(0, min(step, 19), 2 if step < 20 else 3), step / 20 + 0.012)
             for step in range(40)]  # fmt: skip
    _, action, _ = run(tmp_path, said, CHANGES, action_topics=("action",))
    assert (action[:, 2] == 9).all() and (action[:15, 0] == 0.5).all() and (action[-15:, 0] == 0).all()


def test_own_actions_without_the_executors_state(tmp_path: Path) -> None:
    """They come one each period, at times two at once, and are played one after the other; it is told."""
    late = np.random.default_rng(0).uniform(0.0, 0.06, 40)
    said = [("/action", ACTION, sent(step // 8, step % 8, [step, 0.0, 1.0]), step / 20 + late[step])
            for step in range(40)]  # fmt: skip
    _, action, told = run(tmp_path, in_time(said), action_topics=("action",))
    assert set(np.diff(action[:, 0]).tolist()) <= {0.0, 1.0, 2.0} and (np.diff(action[:, 0]) == 1).mean() > 0.6
    assert "has no execution_state topic, which tells when an action was played" in told[0]


def test_a_played_action_that_is_not_recorded_ends_the_episode(tmp_path: Path) -> None:
    said: list[Message] = []
    for step in range(40):
        if step != 20:
            said.append(("/action", ACTION, sent(0, step, [step, 0.0, 1.0]), step / 20))
        said.append(("/execution_state", EXECUTION, playing(0, step), step / 20 + 0.012))
    bag = write(tmp_path / "bag", in_time(pictures(2.0), states(2.0), said))
    done = export(bag, tmp_path / "set", options(action_topics=("action",)))
    assert done.episodes == 2 and "action 20 of context 0 was played, but is not recorded" in done.problems[0]
    assert read(tmp_path / "set", 0)[1][-1, 0] == 19 and read(tmp_path / "set", 1)[1][0, 0] > 20


# what cannot be used

REFUSED = [
    (JOINTS, lambda: joints(ACTIONS, [1.0, 2.0]), "2 positions for 3 joints"),
    (JOINTS, lambda: joints(("a", "a", "grip"), [1.0, 2.0, 3.0]), "a joint is named twice among a, a, grip"),
    (JOINTS, lambda: joints(ACTIONS, [1.0, np.nan, 3.0]), "the command is nan at place 1"),
    (ARRAY, lambda: floats([1.0]), "the command has 1 numbers, expected one for each of a, b, grip"),
    (TRAJECTORY, lambda: trajectory(ACTIONS, []), "3 joints and 0 points"),
    (TRAJECTORY, lambda: trajectory(ACTIONS, [(0.1, [1.0])]), "a point of the trajectory has no position for each"),
    (TRAJECTORY, lambda: trajectory(ACTIONS, [(0.1, [1.0, 2.0, np.inf])]), "the command is inf"),
    (TRAJECTORY, lambda: trajectory(ACTIONS, [(0.2, [1.0] * 3), (0.1, [1.0] * 3)]), "not in the order of time_from"),
    (TRAJECTORY, lambda: trajectory(ACTIONS, [(0.1, [1.0] * 3)], start_s=T0 + 500), "begins .* from when it was rec"),
]


@pytest.mark.parametrize(("kind", "bad", "sentence"), REFUSED)
def test_a_command_that_cannot_be_used_ends_the_episode(
    tmp_path: Path, kind: str, bad: Callable[[], Any], sentence: str
) -> None:
    good = next(make_one for each, make_one in POSITIONS if each == kind)
    said = commands(2.0, kind=kind, make_one=good)
    said[20] = (*said[20][:2], bad(), said[20][3])
    bag = write(tmp_path / "bag", in_time(pictures(2.0), states(2.0), said))
    done = export(bag, tmp_path / "set")
    assert done.episodes == 2
    (told,) = done.problems
    assert told.startswith("messages of /command are left out:") and __import__("re").search(sentence, told)
    assert read(tmp_path / "set", 0)[1][-1, 0] < 1.01 < read(tmp_path / "set", 1)[1][0, 0]


@pytest.mark.parametrize(
    ("kind", "one", "changes", "sentence"),
    [
        (TWIST_STAMPED, twist_stamped([1, 2, 3]), CHANGES, "does not tell grip: record gripper_command as well"),
        (TWIST_STAMPED, twist_stamped([1, 2, 3]), ABSOLUTE, "a twist tells 1 to 6 changes, the action has 0"),
        (JOINTS, joints(ACTIONS, [1.0, 2.0, 3.0]), {"executor": {"joint_names": ("j", "", "")}}, "not tell b, grip"),
    ],
)
def test_commands_that_do_not_tell_the_action_are_refused(
    tmp_path: Path, kind: str, one: Any, changes: dict[str, dict[str, Any]], sentence: str
) -> None:
    bag = write(tmp_path / "bag", in_time(pictures(1.0), states(1.0), [("/command", kind, one, 0.1)]))
    with pytest.raises(BagError, match=sentence):
        export(bag, tmp_path / "set", options(changes))


def test_a_twist_in_more_directions_than_the_action_has_is_refused() -> None:
    options = ActionOptions(("x", "g"), (False, True), ("x", ""), (1.0, 1.0), 0.05, (0.0,))
    reader = ActionReader(options, {"/command": TWIST}, REST)
    with pytest.raises(ValueError, match=r"angular y of the twist is 0.5, but 1 dimensions of the action are changes"):
        reader.take("/command", twist([1.0, 0.0, 0.0], [0.0, 0.5, 0.0]), 0.0)


def test_joints_that_nobody_has_are_told(tmp_path: Path) -> None:
    said = commands(2.0, kind=JOINTS, make_one=lambda r: joints((*ACTIONS, "tail"), [r, r, r, r]))
    observer = {"observer": {"robot_state_joints": STATE_JOINTS[:2]}}
    state, _, told = run(tmp_path, said, observer)
    assert state.shape[1] == 2
    assert "joint finger is left out of the state: robot_state_joints does not name it" in told[0]
    assert "joint tail is left out of the actions: joint_names does not name it" in told[1]


# the state


def drivers(gripper_until: float = 2.0) -> list[Message]:
    """Return the joint states of an arm and of a gripper that is half as fast, with another joint of no interest."""
    arm = [("/joint_states", JOINTS, joints(STATE_JOINTS[:2], [i / 100, 10 + i / 100]), i / 100) for i in range(200)]
    hand = [("/joint_states", JOINTS, joints(("finger", "thumb"), [5 + i / 50, 0.0]), i / 50 + 0.004)
            for i in range(int(50 * gripper_until))]  # fmt: skip
    return in_time(arm, hand)


EVERY = {"observer": {"robot_state_joints": ("",)}}


@pytest.mark.parametrize(("changes", "order"), [(None, STATE_JOINTS), (EVERY, (*STATE_JOINTS, "thumb"))])
def test_drivers_are_merged_by_name(tmp_path: Path, changes: Any, order: tuple[str, ...]) -> None:
    bag = write(tmp_path / "bag", in_time(pictures(2.0), drivers(), commands(2.0)))
    export(bag, tmp_path / "set", options(changes))
    with Dataset(tmp_path / "set") as data:
        assert data.facts.state_names == order
    state, _, _ = read(tmp_path / "set")
    assert np.allclose(state[:, 1] - state[:, 0], 10, atol=1e-5)
    assert (np.abs(state[:, 2] - state[:, 0] - 5) < 0.021).all() and (np.diff(state[:, 2]) > 0).all()


def test_a_driver_that_falls_silent_ends_the_episode(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", in_time(pictures(2.0), drivers(gripper_until=1.0), commands(2.0)))
    export(bag, tmp_path / "set")
    state, _, _ = read(tmp_path / "set")
    assert len(state) <= 20 and state[-1, 0] <= 1.0


def test_nameless_joints_are_named_by_a_parameter(tmp_path: Path) -> None:
    nameless = [("/joint_states", JOINTS, joints((), [i / 100, 10 + i / 100, 0.5]), i / 100) for i in range(200)]
    bag = write(tmp_path / "bag", in_time(pictures(2.0), nameless, commands(2.0)))
    with pytest.raises(BagError, match="gives no step: it has nothing of joint elbow"):
        export(bag, tmp_path / "set")
    for given in (STATE_JOINTS, ("elbow", "shoulder", "finger")):
        export(bag, tmp_path / given[0], options(state_names=given))
        state, _, _ = read(tmp_path / given[0])
        assert np.allclose(state[:, 1] - state[:, 0], 10 if given == STATE_JOINTS else -10, atol=1e-5)
    with pytest.raises(BagError, match="gives no step"):
        export(bag, tmp_path / "set", options(state_names=STATE_JOINTS[:2]))
    export(bag, tmp_path / "named", options({"observer": {"robot_state_nameless_joints": STATE_JOINTS}}))
    state, _, _ = read(tmp_path / "named")
    assert np.allclose(state[:, 1] - state[:, 0], 10, atol=1e-5)


@pytest.mark.parametrize("kind", [POSE_STAMPED, POSE])
def test_a_pose_is_a_state(tmp_path: Path, kind: str) -> None:
    def one(r: float) -> Any:
        return pose(r, 2.0, 3.0) if kind == POSE else make(POSE_STAMPED, header=header(), pose=pose(r, 2.0, 3.0))

    said = [("/tool", kind, one(i / 50), i / 50) for i in range(100)]
    bag = write(tmp_path / "bag", in_time(pictures(2.0), said, states(2.0), commands(2.0)))
    export(bag, tmp_path / "set", options(state_topics=("tool",)))
    with Dataset(tmp_path / "set") as data:
        assert data.facts.state_names == ("x", "y", "z", "qx", "qy", "qz", "qw")
        assert data.facts.state_units == ("m", "m", "m", "1", "1", "1", "1")
    assert np.allclose(read(tmp_path / "set")[0][:, 1:], [2, 3, 0, 0, 0, 1])
    export(bag, tmp_path / "both", options(state_topics=("joint_states", "tool")))
    with Dataset(tmp_path / "both") as data:
        assert data.facts.state_names == (*STATE_JOINTS, "x", "y", "z", "qx", "qy", "qz", "qw")


def test_an_array_is_a_state(tmp_path: Path) -> None:
    said = [("/robot_state", ARRAY, floats([i / 50, 7.0]), i / 50) for i in range(100)]
    bag = write(tmp_path / "bag", in_time(pictures(2.0), said, commands(2.0)))
    export(bag, tmp_path / "set", options(state_topics=("robot_state",)))
    with Dataset(tmp_path / "set") as data:
        assert data.facts.state_names == ("state_0", "state_1") and data.facts.state_units == ()


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (joints(("x", "y"), [1.0]), "1 positions for 2 joints"),
        (joints(("x", "x"), [1.0, 2.0]), "a joint is named twice"),
        (joints(("x", "y"), [1.0, np.inf]), "joint y at inf"),
        (
            joints((), [1.0, 2.0]),
            "2 positions without the names of their joints: give the names, in order",
        ),
    ],
)
def test_a_state_that_cannot_be_used_changes_nothing(message: Any, sentence: str) -> None:
    state = MergedState({"/joint_states": JOINTS}, ("x", "y"))
    state.take("/joint_states", joints(("y", "x"), [2.0, 1.0]), 0.0)
    with pytest.raises(ValueError, match=sentence):
        state.take("/joint_states", message, 1.0)
    values = state.values()
    assert values is not None and values.tolist() == [1.0, 2.0] and state.oldest_s() == 0.0


def test_the_state_of_a_data_set_is_in_the_units_of_the_policy(tmp_path: Path) -> None:
    units = {"robot_state_scale": (0.5,), "robot_state_offset": (1.0, 0.0, -1.0)}
    bag = write(tmp_path / "bag", in_time(pictures(2.0), states(2.0), commands(2.0)))
    export(bag, tmp_path / "own")
    export(bag, tmp_path / "set", options({"observer": {"robot_state_joints": STATE_JOINTS, **units}}))
    own, converted = read(tmp_path / "own")[0], read(tmp_path / "set")[0]
    assert np.allclose(converted, (own - [1.0, 0.0, -1.0]) / 0.5, atol=1e-5)
    with Dataset(tmp_path / "set") as data:
        assert data.facts.state_units == ()


def test_options_of_the_action_must_fit() -> None:
    with pytest.raises(ValueError, match="scale of b is 0"):
        ActionOptions(("a", "b"), (True, True), ("a", "b"), (1.0, 0.0), 0.05, (0.0,))
    with pytest.raises(ValueError, match="joints has 1 values, expected one for each of a, b"):
        ActionOptions(("a", "b"), (True, True), ("a",), (1.0, 1.0), 0.05, (0.0,))
