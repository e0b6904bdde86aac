"""What an observation learns: what the expert does later on, where the robot is by then, and the chunk that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

STATES = (0.4, 0.4, 0.2)  # share of moments with the newest state, with one that is late, with that of the picture


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

    @cached_property
    def executed_before(self) -> Floats:
        """Return the sum of the actions before every step and the last, [S + 1, A]."""
        return np.cumsum(np.pad(self.executed, ((1, 0), (0, 0))), axis=0, dtype=np.float32)

    @cached_property
    def action_before(self) -> Floats:
        """Return the action before every step, [S, A]; before the first that of the first frame."""
        return np.concatenate((self.previous[:1], self.executed[:-1]))


@dataclass(frozen=True)
class Moments:
    """Moments behind a picture, D of them, and what the expert does there.

    age [D], steps since the picture; state [D, state_size] of the robot then or some actions before; pending [D, A],
    the sum of these actions, or the newest target; answer [D, A]; chunk [H, A], that begins at the first of them;
    frame, recorded then.
    """

    age: npt.NDArray[np.int64]
    state: Floats
    pending: Floats
    answer: Floats
    chunk: Floats
    frame: int


def draw_moments(
    track: Track,
    frame: int,
    draws: int,
    horizon: int,
    late: int,
    random: np.random.Generator,
    absolute: Sequence[bool] = (False,),
) -> Moments:
    """Draw what is learned of the observation at `frame`: ages 0 to `horizon` - 1, as far as the episode goes.

    At the first of them a frame was recorded, so that its chunk is known: half of the time the picture's own.

    Args:
        late: most actions that the robot's state is behind; now and then it is that of the picture.
        absolute: dimensions, [A] or one for all, of which the newest target is told instead of a sum.
    """
    begin = int(track.step[frame])
    last = min(int(track.until[frame]), begin + horizon - 1)
    age = random.integers(0, last - begin + 1, draws)
    known = frame + np.arange(int(np.searchsorted(track.step[frame:], last, side="right")))
    later = int(known[random.integers(len(known))]) if random.random() < 0.5 else frame
    age[0] = track.step[later] - begin
    step = begin + age
    behind = random.choice([0, 1, 2], size=draws, p=STATES)
    seen = step - np.minimum(step, np.select([behind == 1, behind == 2], [random.integers(1, late + 1, draws), age], 0))
    total = track.executed_before
    pending = np.where(absolute, track.action_before[step], total[step] - total[seen])
    return Moments(age, track.path[seen], pending, track.answer[step], track.window[later], later)


def phases(step: npt.NDArray[np.int32], waiting: npt.NDArray[np.bool_], steps: int) -> npt.NDArray[np.int64]:
    """Return the last step of each frame's phase (cue, wait, choice), [F]; without a wait, that of the episode."""
    until = np.full(len(step), steps - 1, dtype=np.int64)
    if waiting.any():
        wait = np.flatnonzero(waiting)
        until[wait] = step[wait[-1]]
        until[: wait[0]] = step[max(0, wait[0] - 1)]
    return until
