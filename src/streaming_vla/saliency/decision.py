"""When an observation may be taken early, and why: one small class per mode behind one interface.

These rules only choose moments. What must be sent (start, empty queue, longest silence, a context that is about to
end) is the monitor's business and never comes here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from streaming_vla.policies.layout import Vector

NO_SALIENCY = float("nan")


class Verdict(Enum):
    """What is to be done at a moment."""

    SEND = "send"
    SUPPRESS = "suppress"
    ASK = "ask"  # the policy has to say something first


@dataclass(frozen=True)
class Moment:
    """A moment at which an early observation makes sense.

    Args:
        context: sequence of the newest context.
        change: [A], actions executed between its picture and now, summed where they are changes; None when it is
            not known.
        summed: [A] bool, dimensions that are changes.
        saliency: what the policy says when it is asked; None when it has not been.
    """

    context: int
    change: Vector | None
    summed: npt.NDArray[np.bool_]
    saliency: float | None = None


@dataclass(frozen=True)
class Decision:
    """What to do, the reason code under which it is counted, and the saliency that decided, NaN without one."""

    verdict: Verdict
    reason: str
    saliency: float = NO_SALIENCY


class EarlyDecision(Protocol):
    """Decides about an early observation."""

    def begin(self) -> None:
        """Begin an episode: forget what the one before has left."""
        ...

    def decide(self, moment: Moment) -> Decision:
        """Return what to do now; the question comes again with the next action."""
        ...


class Never:
    """Observe only when nothing is left to execute (synchronous control)."""

    def begin(self) -> None:
        """Nothing is remembered."""

    def decide(self, moment: Moment) -> Decision:
        """Return suppress."""
        return Decision(Verdict.SUPPRESS, "off")


class Always:
    """Observe early every time."""

    def begin(self) -> None:
        """Nothing is remembered."""

    def decide(self, moment: Moment) -> Decision:
        """Return send."""
        return Decision(Verdict.SEND, "always")


class RandomRate:
    """Observe early for a random share of the contexts: what a saliency must beat at the same rate.

    Raises:
        ValueError: the rate is no share.
    """

    def __init__(self, rate: float, seed: int) -> None:
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"random_rate is {rate}, expected a share from 0 to 1")
        self._rate = rate
        self._random = np.random.default_rng(seed)
        self._context = -1
        self._send = False

    def begin(self) -> None:
        """Draw for its first context whatever its number; draws go on, or every episode would be like the first."""
        self._context = -1

    def decide(self, moment: Moment) -> Decision:
        """Draw once per context."""
        if moment.context != self._context:
            self._context = moment.context
            self._send = bool(self._random.random() < self._rate)
        return Decision(Verdict.SEND if self._send else Verdict.SUPPRESS, "random")


class Gate:
    """A threshold with hysteresis: what has risen to `threshold` stays high until it falls below `release`.

    Args:
        threshold: where it becomes high.
        release: share of the threshold, in (0, 1], at which it stays high.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(self, threshold: float, release: float) -> None:
        if not math.isfinite(threshold) or threshold < 0.0:
            raise ValueError(f"saliency_threshold is {threshold}, expected a number of at least 0")
        if not 0.0 < release <= 1.0:
            raise ValueError(f"saliency_release is {release}, expected a share of the threshold above 0 and up to 1")
        self._threshold, self._release = threshold, release
        self.high = False

    def rises(self, value: float) -> bool:
        """Take a value; return whether it counts as high."""
        self.high = value >= self._threshold * (self._release if self.high else 1.0)
        return self.high


class ActionNorm:
    """Observe when the arm has moved far since the last picture: no model, the distance is in action units."""

    def __init__(self, gate: Gate, when: str) -> None:
        self._gate, self._when = gate, when

    def begin(self) -> None:
        """Nothing is high."""
        self._gate.high = False

    def decide(self, moment: Moment) -> Decision:
        """Compare the length of the summed dimensions."""
        if moment.change is None:
            return Decision(Verdict.SEND, "unknown")
        return judged(float(np.linalg.norm(moment.change[moment.summed])), self._gate, self._when)


class Adaptive:
    """Observe when the policy's answer is high (or, `when` "calm", when it is not)."""

    def __init__(self, gate: Gate, when: str) -> None:
        self._gate, self._when = gate, when

    def begin(self) -> None:
        """Nothing is high."""
        self._gate.high = False

    def decide(self, moment: Moment) -> Decision:
        """Ask, then compare what is said."""
        if moment.change is None:
            return Decision(Verdict.SEND, "unknown")
        if moment.saliency is None:
            return Decision(Verdict.ASK, "asked")
        if math.isnan(moment.saliency):  # it has been asked and cannot say
            return Decision(Verdict.SEND, "unknown")
        return judged(moment.saliency, self._gate, self._when)


When = Literal["salient", "calm"]
WHEN = get_args(When)
# what mode adaptive asks the policy: how far it is going to move what is absolute (saliency.plan), or how much the
# actions since the picture have changed what the cameras see (saliency.predictor)
SaliencyOf = Literal["plan", "pictures", "doubt"]
SALIENCY_OF = get_args(SaliencyOf)


def judged(saliency: float, gate: Gate, when: str) -> Decision:
    """Return what follows from a saliency: `when` "salient" sends what is high, "calm" what is not.

    "salient" spends observations where something changes. "calm" is the rule of StreamingVLA (arXiv 2603.28565): an
    early picture is safe where the pending actions change little; else it waits until they are executed.
    """
    high = gate.rises(saliency)
    send = high if when == "salient" else not high
    return Decision(Verdict.SEND if send else Verdict.SUPPRESS, "salient" if high else "calm", saliency)
