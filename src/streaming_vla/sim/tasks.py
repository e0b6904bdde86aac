"""The MT10 tasks of Meta-World with instructions in our own words.

Meta-World (arXiv 1910.10897, package `metaworld`) defines the tasks; the wording here is ours.
"""

from __future__ import annotations

from collections.abc import Iterable

from streaming_vla.sim.memory_tasks import MEMORY_TASKS
from streaming_vla.sim.task import Task

HELD_OUT_SEED = 10_000  # seeds from here on are for evaluation only: no demonstration has one

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "reach",
            (
                "move the hand to the red marker",
                "reach the red point",
                "bring the gripper to the red target",
                "go to the red dot",
                "move the arm until the hand is at the red spot",
                "reach for the red target",
                "take the hand to the red point",
                "guide the gripper to the red dot",
            ),
            (
                "bring the hand to the red spot",
                "move the gripper to the red target",
            ),
        ),
        Task(
            "push",
            (
                "push the puck to the green marker",
                "slide the puck onto the green target",
                "shove the puck across to the green point",
                "push the puck until it lies on the green dot",
                "move the puck over the table to the green spot",
                "push the puck along to the green target",
                "slide the puck over to the green marker",
                "use the hand to push the puck onto the green point",
            ),
            (
                "slide the puck to the green dot",
                "push the puck across the table to the green target",
            ),
        ),
        Task(
            "pick-place",
            (
                "pick up the puck and bring it to the blue marker",
                "grasp the puck and hold it at the blue target",
                "lift the puck to the blue point",
                "take the puck to the blue dot",
                "pick the puck up and place it at the blue spot",
                "grab the puck and lift it to the blue target",
                "carry the puck to the blue marker",
                "hold the puck up at the blue point",
            ),
            (
                "grab the puck and carry it to the blue dot",
                "lift the puck up to the blue marker",
            ),
        ),
        Task(
            "door-open",
            (
                "open the door",
                "pull the door open by its handle",
                "swing the safe door open",
                "grab the handle and open the door",
                "pull the door handle until the door is open",
                "open the safe",
                "get the door open",
                "use the handle to swing the door open",
            ),
            (
                "pull the safe door open",
                "grab the door handle and pull it open",
            ),
        ),
        Task(
            "drawer-open",
            (
                "open the drawer",
                "pull the drawer out",
                "take the drawer handle and pull it open",
                "slide the drawer open",
                "get the drawer open",
                "pull out the drawer by its handle",
                "grab the handle of the drawer and pull",
                "open up the drawer",
            ),
            (
                "grab the drawer handle and slide the drawer open",
                "pull the drawer open",
            ),
        ),
        Task(
            "drawer-close",
            (
                "close the drawer",
                "push the drawer in",
                "shut the drawer",
                "slide the drawer closed",
                "get the drawer closed",
                "push the drawer shut",
                "push the drawer back in until it is closed",
                "move the drawer in",
            ),
            (
                "slide the drawer shut",
                "push the drawer closed",
            ),
        ),
        Task(
            "button-press-topdown",
            (
                "press the button from above",
                "push the red button down",
                "press down on the button",
                "come from the top and press the button",
                "hit the button from the top",
                "push the button down from above",
                "press the red button",
                "move down onto the button and press it",
            ),
            (
                "come from above and push the button",
                "press the red button down from the top",
            ),
        ),
        Task(
            "window-open",
            (
                "open the window",
                "slide the window open",
                "push the window handle to open it",
                "move the window to the open side",
                "get the window open",
                "use the handle to slide the window open",
                "push the window open",
                "open up the window by its handle",
            ),
            (
                "push the handle and open the window",
                "move the window open",
            ),
        ),
        Task(
            "window-close",
            (
                "close the window",
                "slide the window shut",
                "push the window handle to close it",
                "move the window to the closed side",
                "get the window closed",
                "use the handle to slide the window shut",
                "push the window closed",
                "shut the window by its handle",
            ),
            (
                "push the handle and close the window",
                "slide the window closed",
            ),
        ),
        Task(
            "peg-insert-side",
            (
                "put the peg into the hole in the side of the box",
                "insert the peg sideways into the box",
                "pick up the peg and plug it into the hole",
                "slide the peg into the side hole",
                "grab the peg and insert it into the box",
                "place the peg in the hole of the box",
                "take the peg and push it into the hole",
                "plug the peg into the side of the box",
            ),
            (
                "grab the peg and slide it into the hole of the box",
                "insert the peg into the side hole",
            ),
        ),
    )
}


_SAME_SCENE = ({"drawer-open", "drawer-close"}, {"window-open", "window-close"})


def get_task(name: str) -> Task:
    """Return the task called `name` (with or without the `-v3` of Meta-World), of MT10 or one that needs memory.

    Raises:
        ValueError: the name is unknown; the message lists the names that exist.
    """
    known = TASKS | MEMORY_TASKS
    task = known.get(name.removesuffix("-v3"))
    if task is None:
        raise ValueError(f"unknown task '{name}': choose one of {', '.join(known)}")
    return task


def unrelated(task: str, names: Iterable[str]) -> list[str]:
    """Return those of `names` whose instructions cannot be followed in the scene of `task`."""
    return [name for name in names if name != task and {name, task} not in _SAME_SCENE]


def select_tasks(names: str) -> list[str]:
    """Return the tasks of "mt10", "memory", "all" or of names with commas between.

    Raises:
        ValueError: a name is unknown.
    """
    groups = {"mt10": list(TASKS), "memory": list(MEMORY_TASKS), "all": [*TASKS, *MEMORY_TASKS]}
    return groups.get(names) or [get_task(name.strip()).name for name in names.split(",")]
