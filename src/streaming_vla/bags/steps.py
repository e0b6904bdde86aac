"""Episodes cut from a bag at a fixed rate: pictures, state and action of every step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streaming_vla.bags.ingest import Commanded, Frame, Ingest, Said, State
from streaming_vla.images.decode import pixels_of
from streaming_vla.images.encode import square
from streaming_vla.images.encodings import Pixels

EPISODE = "episode"


@dataclass(frozen=True)
class StepOptions:
    """How episodes are cut.

    Args:
        period_s: time of a step.
        size: of the pictures, pixels.
        instruction: of bags without an `episode` topic, which are one episode each.
        rotations: degrees clockwise that turn a camera's pictures upright, by camera.
        longest_gap_s: an episode ends where a camera, the state or the action is silent for longer.
    """

    period_s: float
    size: int
    instruction: str = ""
    rotations: Mapping[str, int] = field(default_factory=dict)
    longest_gap_s: float = 0.5


@dataclass
class EpisodeSteps:
    """One episode of T steps.

    pictures: per camera T pictures [size, size, 3] uint8 BGR; state [T, S]; action [T, A], the newest command at the
    end of each step: what the robot was told after the step's pictures were taken.
    """

    instruction: str
    begin_s: float
    pictures: dict[str, list[Pixels]]
    state: list[npt.NDArray[np.float32]] = field(default_factory=list)
    action: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.action)


def episodes(ingest: Ingest, options: StepOptions) -> Iterator[EpisodeSteps]:
    """Yield the episodes of a bag, one in memory at a time.

    An episode ends at a command that cannot be used: the one before it is not what the robot did then.

    Raises:
        MissingTopic: the bag has no action topic.
        WrongType: its messages are no actions.
    """
    if ingest.command_problem is not None:
        raise ingest.command_problem
    cutter = _Cutter(ingest, options)
    for event in ingest.events():
        yield from cutter.take(event)
    yield from cutter.end()


class _Cutter:
    """Keeps the newest of everything and takes a step every period."""

    def __init__(self, ingest: Ingest, options: StepOptions) -> None:
        self._ingest, self._options = ingest, options
        self._cameras = tuple(ingest.options.camera_topics)
        self._told = ingest.other(EPISODE) is not None
        self._instruction: str | None = None if self._told else options.instruction
        self._number = 0
        self._frames: dict[str, Frame] = {}
        self._decoded: dict[str, tuple[Frame, Pixels]] = {}
        self._state: State | None = None
        self._action: tuple[float, npt.NDArray[np.float32]] | None = None
        self._due_s: float | None = None
        self._episode: EpisodeSteps | None = None
        self._seen: tuple[float, dict[str, Pixels], npt.NDArray[np.float32]] | None = (
            None  # begin of the step that runs
        )

    def take(self, event: Frame | State | Commanded | Said) -> Iterator[EpisodeSteps]:
        if self._due_s is not None and event.time_s < self._due_s - 2 * self._options.period_s:
            yield from self.end()  # the clock was set back
        while self._due_s is not None and event.time_s >= self._due_s:
            yield from self._step(self._due_s)
        if isinstance(event, Frame):
            self._frames[event.camera] = event
        elif isinstance(event, State):
            self._state = event
        elif isinstance(event, Commanded):
            if event.values is None:
                yield from self.end()
            else:
                self._action = (event.time_s, event.values.astype(np.float32))
        elif event.topic == EPISODE:
            yield from self._episode_said(event)
        if self._due_s is None and self._instruction is not None and self._complete(event.time_s):
            assert self._action is not None, "a complete step has one"
            # in the middle between two commands, so that one that is a little late is not taken twice
            behind_s = (event.time_s - self._action[0]) % self._options.period_s
            half_s = 0.5 * self._options.period_s
            self._due_s = event.time_s + half_s - behind_s + (0.0 if behind_s <= half_s else self._options.period_s)

    def end(self) -> Iterator[EpisodeSteps]:
        if self._seen is not None and self._action is not None and self._action[0] >= self._seen[0]:
            self._finish_step()
        episode, self._episode, self._due_s, self._seen = self._episode, None, None, None
        self._frames.clear()
        self._state = self._action = None
        if episode is not None and len(episode):
            yield episode

    def _episode_said(self, event: Said) -> Iterator[EpisodeSteps]:
        message = event.message
        if not message.active:
            self._instruction = None
            yield from self.end()
        elif message.number != self._number:
            yield from self.end()
            self._number, self._instruction = message.number, message.instruction

    def _complete(self, now_s: float) -> bool:
        times = [frame.time_s for frame in self._frames.values()]
        if self._state is None or self._action is None or len(times) < len(self._cameras):
            return False
        return now_s - min(*times, self._state.time_s, self._action[0]) <= self._options.longest_gap_s

    def _step(self, now_s: float) -> Iterator[EpisodeSteps]:
        if not self._complete(now_s):
            yield from self.end()
            return
        if self._episode is None:
            self._episode = EpisodeSteps(self._instruction or "", now_s, {camera: [] for camera in self._cameras})
        assert self._state is not None, "a complete step has one"
        self._finish_step()
        for camera in self._cameras:
            try:
                self._decode(self._frames[camera])
            except ValueError as error:
                del self._frames[camera]
                self._ingest.refuse(camera, error)
                yield from self.end()
                return
        pictures = {camera: self._decoded[camera][1] for camera in self._cameras}
        self._seen = now_s, pictures, self._state.values.astype(np.float32)
        self._due_s = now_s + self._options.period_s

    def _finish_step(self) -> None:
        """Give the step that runs its action."""
        seen, self._seen = self._seen, None
        if seen is None or self._action is None or self._episode is None:
            return
        _, pictures, state = seen
        for camera, pixels in pictures.items():
            self._episode.pictures[camera].append(pixels)
        self._episode.state.append(state)
        self._episode.action.append(self._action[1])

    def _decode(self, frame: Frame) -> None:
        known = self._decoded.get(frame.camera)
        if known is None or known[0] is not frame:
            pixels = square(
                pixels_of(frame.message, frame.kind), self._options.size, self._options.rotations.get(frame.camera, 0)
            )
            self._decoded[frame.camera] = (frame, pixels)
