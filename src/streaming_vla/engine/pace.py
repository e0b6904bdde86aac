"""How long the model's work takes where that is not left to this machine: what a latency profile says."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from streaming_vla.engine.jobs import Job, Work
from streaming_vla.engine.latency_profile import LatencyProfile

OF_A_FLOW_STEP = (Work.FLOW_STEP, Work.DENOISE, Work.PLAN)  # each is one pass of the expert


class Pace(Protocol):
    """Says how long slices take. Work that takes longer on this machine is not made faster."""

    @property
    def beside(self) -> bool:
        """True where a prefill does not share the hardware with other work."""

    def slices_s(self, job: Job, now: float) -> list[float]:
        """Return how long each slice of what `job` does next takes, seconds; drawn once for a prefill."""


class ProfilePace:
    """What a latency profile says. The same seed draws the same latencies.

    Args:
        profile: latencies.
        seed: of the draws; each kind of latency has its own stream.
    """

    def __init__(self, profile: LatencyProfile, seed: int = 0) -> None:
        self.profile = profile
        self._observe = np.random.default_rng((seed, 0))
        self._flow_step = np.random.default_rng((seed, 1))

    @property
    def beside(self) -> bool:
        """True where the profile gives a prefill no slices that others wait for."""
        return self.profile.prefill_slices == 0

    def slices_s(self, job: Job, now: float) -> list[float]:
        """See Pace."""
        times = self.profile.times(now)
        if job.work is Work.PREFILL:
            slices = max(1, self.profile.prefill_slices)
            return [times * self.profile.observe.draw_s(self._observe) / slices] * slices
        if job.work in OF_A_FLOW_STEP:
            return [times * self.profile.flow_step.draw_s(self._flow_step)]
        return [0.0]
