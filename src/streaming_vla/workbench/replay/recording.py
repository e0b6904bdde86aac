"""A recorded episode to go by: how long what took then takes now.

As long as the replay asks for the same thing within a control period of when it was asked for, it has it when it was
there. What was asked for at another time takes as long as it took then, and what never was as long as the profile
says. So a replay with the recorded parameters meets the recorded latencies and waits one by one, and one with others
departs from the recording where its decisions do.
"""

from __future__ import annotations

from streaming_vla.workbench.replay.recorded_reception import Reception
from streaming_vla.workbench.replay.recorded_times import RecordedEpisode
from streaming_vla.workbench.virtual.clock import Clock


class Recording:
    """Nothing to go by until `follow` gives an episode.

    Args:
        clock: of the replay.
        period_s: an action lasts so long, seconds.

    Attributes:
        times: of the episode; empty without one.
        reception: what the observer had received when; None without one.
    """

    def __init__(self, clock: Clock, period_s: float) -> None:
        self._clock, self._period_s = clock, period_s
        self.follow(None, 0.0)

    def follow(self, times: RecordedEpisode | None, ahead_s: float) -> None:
        """Go by another episode; `ahead_s` leads from the virtual clock to the recorder's."""
        self.times = times or RecordedEpisode()
        self.reception = Reception(self.times, ahead_s) if times is not None else None
        self.caused = {receiver: self.times.caused(receiver) for receiver in ("generator", "monitor")}
        self._ahead_s = ahead_s

    def left_s(self, begin_s: float, end_s: float, asked_s: float | None = None) -> float:
        """Return in how many seconds what took from `begin_s` to `end_s` is done, when it is begun now.

        Args:
            begin_s, end_s: recorder's clock.
            asked_s: it could have been begun since then; None: since `begin_s`.
        """
        now_s = self._clock.now + self._ahead_s
        earliest_s = (begin_s if asked_s is None else min(asked_s, begin_s)) - self._period_s
        same = earliest_s <= now_s <= begin_s + self._period_s
        return max(0.0, end_s - (now_s if same else begin_s))
