"""A witness of the machine's stalls: what a process that only sleeps has seen of them."""

from __future__ import annotations

import threading
import time

NAP_S = 0.01


class StallWitness:
    """Sleeps in short naps and remembers those that took longer: then nothing on the machine ran in time.

    A check of times subtracts what the witness has seen at the same moment. It does not excuse a node that is late
    while others run.
    """

    def __init__(self) -> None:
        self._naps: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stall witness", daemon=True)
        self._thread.start()

    def stalled_s(self, begin_s: float, end_s: float) -> float:
        """Return how long nothing ran between two times of `time.time`."""
        overlaps = (min(end, end_s) - max(begin, begin_s) for begin, end in self._naps)
        return sum(overlap for overlap in overlaps if overlap > 0.0)

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        before_s = time.time()
        while not self._stop.wait(NAP_S):
            now_s = time.time()
            if now_s - before_s > 2 * NAP_S:
                self._naps.append((before_s + NAP_S, now_s))
            before_s = now_s
