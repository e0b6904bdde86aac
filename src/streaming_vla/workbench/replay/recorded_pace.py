"""The model of a recording: every piece of its work takes as long as it took when the bag was recorded."""

from __future__ import annotations

from streaming_vla.engine.generation import Generation
from streaming_vla.engine.jobs import Job, Work
from streaming_vla.engine.latency_profile import LatencyProfile
from streaming_vla.engine.pace import ProfilePace
from streaming_vla.engine.prefill import Prefill
from streaming_vla.workbench.replay.recording import Recording

CHUNK = -1  # index of the span that is the denoising of a whole chunk


class RecordedPace(ProfilePace):
    """What a recording says; of what it does not tell, what a profile says.

    Args:
        recording: to go by.
        profile: latencies.
        seed: of the profile's draws.
    """

    def __init__(self, recording: Recording, profile: LatencyProfile, seed: int) -> None:
        super().__init__(profile, seed)
        self._recording = recording

    @property
    def beside(self) -> bool:
        """What waited for what is in the recorded times already."""
        return True

    def slices_s(self, job: Job, now: float) -> list[float]:
        """See Pace."""
        times, left_s = self._recording.times, self._recording.left_s
        if isinstance(job, Prefill):
            sequence, chunk = job.observation.sequence, (job.observation.sequence, CHUNK)
            if job.work is Work.PREFILL and sequence in times.prefilled:
                return [left_s(*times.prefilled[sequence])]
            if job.work is Work.DENOISE and chunk in times.flow_steps:  # the first step takes the time of all
                return [left_s(*times.flow_steps[chunk]) if job.steps_denoised == 1 else 0.0]
        if isinstance(job, Generation) and job.newest in times.flow_steps:
            step = times.flow_steps[job.newest]
            return [left_s(*step, times.generated.get(job.newest, step)[0])]
        return super().slices_s(job, now)
