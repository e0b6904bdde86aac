"""One node as a child process: its output, its last sentence and its end; and how often a crashed one is respawned."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from streaming_vla.bringup.graph import GraphNode

STOP_TIMEOUT_S = 5.0
OUTPUT_END_S = 2.0  # of a process that has ended; a busy machine may be late with the last line
ANSWER_S = 0.5  # for a process that lives on to say why it refuses
TAIL_LINES = 50
_LOG_PREFIX = re.compile(r"^\[(?P<level>[A-Z]+)\] \[[\d.]+\] \[[^\]]*\]: ")


class NodeProcess:
    """A node that runs in a process of its own, from creation on.

    Args:
        node: which one.
        ros_arguments: what follows `--ros-args`.
        output: gets every line that the process prints, from another thread.
        environment: variables beside those of this process.
    """

    def __init__(
        self,
        node: GraphNode,
        ros_arguments: Sequence[str],
        output: Callable[[str], None],
        environment: Mapping[str, str],
    ) -> None:
        self.node = node
        self._output = output
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.popen = subprocess.Popen(
            [*_ending_with_parent(), sys.executable, "-m", node.module, "--ros-args", *ros_arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            # A Ctrl-C in the terminal reaches the starter only, which then stops the nodes in reverse order.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"output of {node.name}", daemon=True)
        self._reader.start()

    @property
    def ended(self) -> bool:
        """Whether the process is no longer running."""
        return self.popen.poll() is not None

    def last_sentence(self) -> str:
        """Return what the process has said about its trouble: its last error, else how it ended."""
        self._reader.join(OUTPUT_END_S if self.ended else ANSWER_S)
        lines = [line for line in self._tail if line.strip()]
        errors = [line for line in lines if (match := _LOG_PREFIX.match(line)) and match["level"] in ("ERROR", "FATAL")]
        code = self.popen.poll()
        if code is not None and code > 0 and lines:
            sentence = lines[-1]
        elif code is None and errors:
            sentence = errors[-1]
        else:
            sentence = "is not answering" if code is None else f"ended {_how(code)}"
        sentence = _LOG_PREFIX.sub("", sentence).strip()
        return sentence if f"'{self.node.name}'" in sentence else f"node '{self.node.name}': {sentence}"

    def stop(self) -> None:
        """Ask the process to end, and make it after `STOP_TIMEOUT_S`."""
        if not self.ended:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._output(f"did not end within {STOP_TIMEOUT_S:g} s of SIGTERM and is killed")
                self.popen.kill()
        self.popen.wait()
        self._reader.join(OUTPUT_END_S)

    def kill(self) -> None:
        """End a process that hangs: it would not hear that it is asked to."""
        self.popen.kill()
        self.stop()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        with self.popen.stdout as stream:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip()
                self._tail.append(line)
                self._output(line)


@dataclass
class RespawnPolicy:
    """Delay before a crashed process is started again: it doubles, until too many crashes give up.

    Args:
        first_delay_s: after the first crash.
        longest_delay_s: the delay never gets longer.
        limit: crashes within `window_s` that are still respawned.
        window_s: crashes longer ago are forgotten, seconds.
    """

    first_delay_s: float = 0.2
    longest_delay_s: float = 5.0
    limit: int = 5
    window_s: float = 120.0
    _crashes_s: deque[float] = field(default_factory=deque, init=False)

    def delay_s(self, now: float) -> float | None:
        """Count a crash at `now` (monotonic seconds); return the delay, or None to give up."""
        while self._crashes_s and now - self._crashes_s[0] > self.window_s:
            self._crashes_s.popleft()
        self._crashes_s.append(now)
        count = len(self._crashes_s)
        if count > self.limit:
            return None
        return float(min(self.longest_delay_s, self.first_delay_s * 2 ** (count - 1)))


def _how(code: int) -> str:
    if code >= 0:
        return f"with exit code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"


def _ending_with_parent() -> list[str]:
    # When the starter is killed outright the nodes get SIGTERM, so the robot is stopped all the same.
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []
