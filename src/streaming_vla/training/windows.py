"""What an observation learns: what the expert does later on, where the robot is by then, and the chunk that follows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Track:
    """The motion of one episode of S steps, of which F were recorded with their pictures.

    step [F] of each frame, executed [S, A] at every step, window [F, H, A] (the expert's own from the frame on) and
    previous [F, A] of each frame; path [S, state_size], the robot's state before every step, and answer [S, A], what
    the expert would do there. until [F] is the last step that a frame's picture says anything of: in a memory task
    nobody can know when a wait ends.
    """

    step: npt.NDArray[np.int32]
    executed: Floats
    window: Floats
    previous: Floats
    path: Floats
    answer: Floats
    until: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Queries:
    """Moments behind a picture, D of them.

    age [D], steps since the picture; state [D, state_size] of the robot then; answer [D, A], the expert's action there.
    """

    age: npt.NDArray[np.int64]
    state: Floats
    answer: Floats


def draw_queries(track: Track, frame: int, draws: int, horizon: int, random: np.random.Generator) -> Queries:
    """Draw what the flow learns of the observation at `frame`: ages 0 to `horizon` - 1, as far as the episode goes."""
    begin = int(track.step[frame])
    last = min(int(track.until[frame]), begin + horizon - 1)
    age = random.integers(0, last - begin + 1, draws)
    return Queries(age, track.path[begin + age], track.answer[begin + age])


def phases(step: npt.NDArray[np.int32], waiting: npt.NDArray[np.bool_], steps: int) -> npt.NDArray[np.int64]:
    """Return the last step of each frame's phase (cue, wait, choice), [F]; without a wait, that of the episode."""
    until = np.full(len(step), steps - 1, dtype=np.int64)
    if waiting.any():
        wait = np.flatnonzero(waiting)
        until[wait] = step[wait[-1]]
        until[: wait[0]] = step[max(0, wait[0] - 1)]
    return until
