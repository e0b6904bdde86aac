"""The MT10 tasks of Meta-World with instructions in our own words.

Meta-World (arXiv 1910.10897, package `metaworld`) defines the tasks; the wording here is ours.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One task: its short name and the instructions that mean it (the first is the default)."""

    name: str
    instructions: tuple[str, ...]

    @property
    def environment(self) -> str:
        """Name of the Meta-World environment."""
        return f"{self.name}-v3"


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
            ),
        ),
        Task(
            "push",
            (
                "push the puck to the green marker",
                "slide the puck onto the green target",
                "shove the puck across to the green point",
                "push the puck until it lies on the green dot",
            ),
        ),
        Task(
            "pick-place",
            (
                "pick up the puck and bring it to the blue marker",
                "grasp the puck and hold it at the blue target",
                "lift the puck to the blue point",
                "take the puck to the blue dot",
            ),
        ),
        Task(
            "door-open",
            (
                "open the door",
                "pull the door open by its handle",
                "swing the safe door open",
                "grab the handle and open the door",
            ),
        ),
        Task(
            "drawer-open",
            (
                "open the drawer",
                "pull the drawer out",
                "take the drawer handle and pull it open",
                "slide the drawer open",
            ),
        ),
        Task(
            "drawer-close",
            (
                "close the drawer",
                "push the drawer in",
                "shut the drawer",
                "slide the drawer closed",
            ),
        ),
        Task(
            "button-press-topdown",
            (
                "press the button from above",
                "push the red button down",
                "press down on the button",
                "come from the top and press the button",
            ),
        ),
        Task(
            "window-open",
            (
                "open the window",
                "slide the window open",
                "push the window handle to open it",
                "move the window to the open side",
            ),
        ),
        Task(
            "window-close",
            (
                "close the window",
                "slide the window shut",
                "push the window handle to close it",
                "move the window to the closed side",
            ),
        ),
        Task(
            "peg-insert-side",
            (
                "put the peg into the hole in the side of the box",
                "insert the peg sideways into the box",
                "pick up the peg and plug it into the hole",
                "slide the peg into the side hole",
            ),
        ),
    )
}


def get_task(name: str) -> Task:
    """Return the task called `name` (with or without the `-v3` of Meta-World).

    Raises:
        ValueError: the name is unknown; the message lists the names that exist.
    """
    task = TASKS.get(name.removesuffix("-v3"))
    if task is None:
        raise ValueError(f"unknown task '{name}': choose one of {', '.join(TASKS)}")
    return task
