"""When a task is done, when it has gone wrong, and how it is said."""

from __future__ import annotations

import numpy as np
import pytest

from streaming_vla.sim.so101.scene import CUBE_HALF_M, CUBES
from streaming_vla.sim.so101.tasks import HELD_S, LIFTED_M, RULES, TASKS, Rule, Scene, get_task

TICK_S = 0.01
SQUARE = np.array((0.2, 0.1))


def scene(
    place: tuple[float, float, float] = (0.2, 0.0, CUBE_HALF_M),
    speed: float = 0.0,
    touched: tuple[str, ...] = (),
    held: tuple[str, ...] = (),
    other: tuple[float, float, float] = (0.3, 0.0, CUBE_HALF_M),
) -> Scene:
    cubes = {colour: np.array(other) for colour in CUBES} | {"green": np.array(place)}
    speeds = dict.fromkeys(CUBES, 0.0) | {"green": speed}
    return Scene("green", cubes, speeds, np.eye(3), SQUARE, frozenset(touched), frozenset(held))


def outcome(name: str, *scenes: Scene) -> tuple[bool, bool]:
    rule: Rule = RULES[name]()
    for here in scenes:
        rule.update(here, TICK_S)
    return rule.success, rule.failed


def test_touch() -> None:
    assert outcome("touch", scene()) == (False, False)
    assert outcome("touch", scene(touched=("green",))) == (True, False)
    assert outcome("touch", scene(touched=("red",))) == (False, True)
    assert outcome("touch", scene(touched=("red", "green"))) == (False, True)
    assert outcome("touch", scene(touched=("green",)), scene(touched=("red",))) == (True, False), "it stays done"
    assert outcome("touch", scene(touched=("red",)), scene(touched=("green",))) == (False, True), "it stays wrong"


def test_push() -> None:
    inside = (SQUARE[0] + 0.02, SQUARE[1] - 0.02, CUBE_HALF_M)
    assert outcome("push", scene()) == (False, False)
    assert outcome("push", scene(inside)) == (True, False)
    assert outcome("push", scene(inside, speed=0.1)) == (False, False), "it slides through"
    assert outcome("push", scene((*SQUARE, 0.06))) == (False, False), "it is above the square"
    assert outcome("push", scene((SQUARE[0] + 0.03, SQUARE[1], CUBE_HALF_M))) == (False, False), "an edge sticks out"


def test_pick() -> None:
    up = (0.2, 0.0, CUBE_HALF_M + LIFTED_M + 0.005)
    ticks = round(HELD_S / TICK_S)
    held = scene(up, held=("green",))
    assert outcome("pick", *[held] * (ticks - 2)) == (False, False)
    assert outcome("pick", *[held] * (ticks + 1)) == (True, False)
    half = [held] * (ticks // 2 + 2)
    assert outcome("pick", *half, scene(up), *half) == (False, False), "it was let go in between"
    assert outcome("pick", *[scene(held=("green",))] * (2 * ticks)) == (False, False), "it is on the table"
    assert outcome("pick", *[scene(up, held=("red",))] * (2 * ticks)) == (False, False)


@pytest.mark.parametrize("name", TASKS)
def test_a_cube_that_falls_off_the_table_ends_it(name: str) -> None:
    assert outcome(name, scene((0.7, 0.0, -0.3))) == (False, True)
    assert outcome(name, scene(other=(0.7, 0.0, -0.3))) == (False, True)


def test_every_task_has_a_rule_and_sentences_that_name_the_cube() -> None:
    assert set(RULES) == set(TASKS)
    said = set()
    for task in TASKS.values():
        variants = len(task.instructions) + len(task.held_out)
        said |= {task.sentence(variant).format(colour=colour) for colour in CUBES for variant in range(variants)}
        assert len(task.instructions) >= 8 and len(task.held_out) >= 2
    assert len(said) == 3 * 3 * 10, "a sentence means two things"
    assert all(sum(colour in sentence.split() for colour in CUBES) == 1 for sentence in said)


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown task 'fly': choose one of touch, push, pick"):
        get_task("fly")
    with pytest.raises(ValueError, match="task 'touch' has no instruction 10: choose 0 to 9"):
        get_task("touch").sentence(10)
