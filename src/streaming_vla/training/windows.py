"""The window of actions that an observation learns, and the sums that a flow could start from there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streaming_vla.training.plan import Source

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Branches:
    """What was recorded with counterfactual actions, F frames; NaN where a frame has none.

    pending [F, A] is their sum, previous [F, A] the last of them, window [F, H, A] the expert's answer.
    """

    pending: Floats
    previous: Floats
    window: Floats


@dataclass(frozen=True)
class Track:
    """The actions of one episode.

    step [F] of each frame, executed [S, A] at every step, window [F, H, A] and previous [F, A] of each frame.
    """

    step: npt.NDArray[np.int32]
    executed: Floats
    window: Floats
    previous: Floats
    branches: Branches | None = None


@dataclass(frozen=True)
class Window:
    """What an observation learns.

    actions [H, A]; previous [A], the action before them; pending [A] and since_start [A], the sums of the actions from
    the picture and from the episode's start to the first of them. prompt [H, A], the actions from the picture on: what
    a chunk learns, which stands for the policies of others.
    """

    actions: Floats
    prompt: Floats
    previous: Floats
    pending: Floats
    since_start: Floats


def draw_window(track: Track, frame: int, source: Source, random: np.random.Generator) -> Window:
    """Draw what the observation at `frame` learns: late or counterfactual as often as the source says."""
    begin, prompt = int(track.step[frame]), track.window[frame]
    before = track.executed[:begin].sum(axis=0)
    branches = track.branches
    if branches is not None and random.random() < source.counterfactual and np.isfinite(branches.pending[frame, 0]):
        pending = branches.pending[frame]
        return Window(branches.window[frame], prompt, branches.previous[frame], pending, before + pending)
    last = begin + random.integers(source.delay[0], source.delay[1] + 1)
    # windows exist at frames only
    later = int(np.searchsorted(track.step, last, side="right")) - 1
    pending = track.executed[begin : int(track.step[later])].sum(axis=0)
    return Window(track.window[later], prompt, track.previous[later], pending, before + pending)
