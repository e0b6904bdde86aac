"""Tasks that need memory, on Meta-World's reach scene: what they ask, in words.

What happens in them is in `memory_episode.py`, how it looks in `memory_scene.py`.
"""

from __future__ import annotations

from streaming_vla.sim.task import Task

MEMORY_TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "cued-reach",
            (
                "follow the white marker then go to the goal of the lamp's first colour",
                "remember the colour of the lamp and later go to that goal",
                "go to the goal with the colour that the lamp showed first",
                "follow the marker and then pick the goal that matches the lamp",
                "keep the colour of the lamp in mind and reach the goal that matches it",
                "later move to the goal of the same colour as the lamp",
                "when the goals appear go to the one that matches the lamp",
                "remember what colour the lamp showed and move the hand to that goal",
            ),
            (
                "remember the lamp and when the goals appear pick the colour that it showed",
                "follow the marker and later reach the goal that matches the lamp's colour",
            ),
            scene="reach",
        ),
        Task(
            "count",
            (
                "count the blinks of the lamp: one green two blue three yellow",
                "follow the marker then go to green after one blink blue after two yellow after three",
                "count how often the lamp blinks and go to the goal of that number",
                "remember how many times the lamp blinks and pick the goal of that count",
                "go to the goal that stands for the number of blinks",
                "when the goals appear move to the one for the number of blinks",
                "count the blinks and later reach the goal for that number",
                "keep the number of blinks in mind and then go to that goal",
            ),
            (
                "count how many times the lamp blinks and later go to the goal of that number",
                "remember the number of blinks and when the goals appear move to that one",
            ),
            scene="reach",
        ),
        Task(
            "return",
            (
                "follow the marker and then return the hand to the place where it started",
                "go back to where the hand was first",
                "remember the place where the hand started and later go back there",
                "when the goals appear go back to the one where the hand was first",
                "follow the white marker then bring the hand back to its first place",
                "return to the start after the marker is gone",
                "keep the start in mind and move the hand back there later",
                "bring the hand back to where it started when the marker is gone",
            ),
            (
                "follow the marker and later bring the hand back to the start",
                "remember where the hand was first and go back there when the marker is gone",
            ),
            scene="reach",
        ),
    )
}
