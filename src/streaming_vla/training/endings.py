"""Other endings for recorded memory episodes: the same choice, made for every answer.

A few hundred episodes are learned by heart: each way to wait came with one answer. With other endings the cue of one
episode goes in front of the choice of another, so that nothing but the cue tells where to go.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from streaming_vla.sim.memory_episode import expert_move
from streaming_vla.sim.memory_rules import begin_memory
from streaming_vla.sim.memory_scene import Point
from streaming_vla.sim.metaworld import METRES_PER_UNIT
from streaming_vla.training.windows import Track

SETTLED_STEPS = 40  # into the wait: before, the way to the marker tells where the hand has started
DECISIONS = 2  # observations of a choice that are used: later ones show a hand that is on its way to the recorded goal
_FOLLOWS = 0.3  # share of the difference to the commanded velocity that the hand makes up in a step, fitted


def endings(
    task: str, seed: int, track: Track, state: npt.NDArray[np.float32], first: int
) -> list[tuple[Track, Point]]:
    """Return the track of a recorded episode for every answer, right from frame `first` on, and the goal of each.

    The expert's windows are rolled out with a hand that follows its commands with a lag; against recorded windows they
    are off by 0.05 on average.

    Args:
        state: [F, state_size], hand x, y, z first.
        first: frame at which the choice begins.

    Raises:
        ValueError: the task has no memory.
    """
    episode = begin_memory(task, seed)
    if episode is None:
        raise ValueError(f"task '{task}' has no other endings: nothing in it is remembered")
    told = []
    for goal in episode.goals:
        window = track.window.copy()
        for frame in range(first, len(window)):
            hand = state[frame, :3].astype(np.float64)
            velocity = METRES_PER_UNIT * track.previous[frame, :3].astype(np.float64)
            for index in range(window.shape[1]):
                move = expert_move(hand, goal.position)
                window[frame, index, :3] = move
                velocity += _FOLLOWS * (METRES_PER_UNIT * move - velocity)
                hand += velocity
        answer = track.answer.copy()
        for step in range(int(track.step[first]), len(answer)):
            answer[step, :3] = expert_move(track.path[step, :3].astype(np.float64), goal.position)
        told.append((dataclasses.replace(track, window=window, answer=answer), goal.position))
    return told
