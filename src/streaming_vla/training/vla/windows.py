"""What follows a picture: the path that targets and summed changes take, moments of its flow, and chunks.

Times are in steps of an episode of N actions. Action i begins at step i, where the robot has state i; the path at step
i is where the robot was told to be before action i. Behind the end it stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streaming_vla.policies.lerobot.flow_head.sidecar import NO_JOINT
from streaming_vla.policies.lerobot.flow_head.units import FlowUnits
from streaming_vla.training.vla.plan import FlowDraws

Floats = npt.NDArray[np.float64]
EARLIEST = 0.001  # of the flow's time


@dataclass(frozen=True)
class Path:
    """An episode.

    Args:
        told: [N + 1, A], newest target of absolute dimensions, sum of the changes of the others.
        state: [N, S].
    """

    told: Floats
    state: Floats

    @classmethod
    def of(
        cls,
        action: npt.NDArray[np.float32],
        state: npt.NDArray[np.float32],
        absolute: npt.NDArray[np.bool_],
        joints: npt.NDArray[np.int64],
    ) -> Path:
        """Return the path of the actions [N, A] and states [N, S] of an episode.

        Before the first target the robot was told to be where it is, as far as its joints are known.
        """
        actions, states = action.astype(np.float64), state.astype(np.float64)
        stands = np.where(joints == NO_JOINT, actions[0], states[0, joints])
        summed = np.concatenate((np.zeros((1, len(absolute))), actions.cumsum(axis=0)))
        targets = np.concatenate((stands[None], actions))
        return cls(np.where(absolute, targets, summed), states)

    def at(self, step: float) -> Floats:
        """Return the path at a step, between two of them on a straight line, [A]."""
        return _between(self.told, step)

    def change(self, step: int) -> Floats:
        """Return what the action of a step changes, [A]."""
        last = len(self.told) - 1
        changed: Floats = self.told[min(step + 1, last)] - self.told[min(step, last)]
        return changed

    def state_at(self, step: float) -> Floats:
        """Return the robot's state at a step, [S]."""
        return _between(self.state, step)

    def restarted(self, step: int, units: FlowUnits) -> Path:
        """Return the path of a robot that is told at a step to be where its joints are."""
        last = len(self.state) - 1
        told = self.told.copy()
        told[step] = units.stands(told[step], self.state[min(step, last)])
        return Path(told, self.state)

    def chunk(self, step: int, horizon: int, absolute: npt.NDArray[np.bool_]) -> Floats:
        """Return the actions from a step on, [H, A]."""
        last = len(self.told) - 1
        ends = self.told[np.minimum(step + 1 + np.arange(horizon), last)]
        begins = self.told[np.minimum(step + np.arange(horizon), last)]
        return np.where(absolute, ends, ends - begins)


def _between(rows: Floats, step: float) -> Floats:
    low = min(max(step, 0.0), len(rows) - 1.0)
    first = int(low)
    second = min(first + 1, len(rows) - 1)
    found: Floats = rows[first] + (low - first) * (rows[second] - rows[first])
    return found


class Moment(NamedTuple):
    """A moment of a flow.

    Args:
        begun: actions behind the picture at which its context takes over, h.
        time: of the flow since then, 0 to 1 over a horizon, t.
        late: how old the robot's state is, actions.
        noise: [A], standard normal.
        restarted: the flow begins where the joints are, see FlowDraws.
    """

    begun: int
    time: float
    late: int
    noise: Floats
    restarted: bool = False


class Answer(NamedTuple):
    """What the network is given at a moment, and what it should answer; scaled, but for the state.

    moved [A], the flow's state; time of the flow; state [S]; lacking [A], see FlowUnits; age, a share of the horizon;
    step [A].
    """

    moved: Floats
    time: float
    state: Floats
    lacking: Floats
    age: float
    step: Floats


def draw_moment(left: int, actions: int, horizon: int, options: FlowDraws, random: np.random.Generator) -> Moment:
    """Return a random moment of the flow of a picture behind which `left` actions of its episode lie."""
    begun = int(random.integers(0, min(options.delay, left - 1) + 1))
    share = (EARLIEST + (1.0 - EARLIEST) * random.beta(options.shape, 1.0)) * (horizon - begun) / horizon
    late = int(random.integers(0, options.lateness + 1))
    return Moment(begun, share, late, random.standard_normal(actions), random.random() < options.restarts)


def answer_at(path: Path, picture: int, moment: Moment, horizon: int, options: FlowDraws, units: FlowUnits) -> Answer:
    """Return what the flow is at a moment behind the picture of step `picture`.

    The flow's state lies n = noise e^(-stability t) from its path, and its velocity (which is H times an action) is
    that of the path less stability n; the network answers one step of it, a Hth.
    """
    passed, begin = moment.time * horizon, picture + moment.begun
    now = begin + passed
    if moment.restarted:
        path = path.restarted(begin, units)
    away = options.noise * np.exp(-options.stability * moment.time) * moment.noise
    state_step = max(0.0, now - moment.late)
    position = path.at(now) + away * units.scale
    state = path.state_at(state_step)
    step = path.change(int(now)) / units.scale - options.stability / horizon * away
    return Answer(
        moved=units.moved(position, path.at(begin)),
        time=moment.time,
        state=state,
        lacking=units.lacking(position, position - path.at(state_step), state),
        age=(moment.begun + passed) / horizon,
        step=step,
    )
