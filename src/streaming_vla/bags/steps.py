"""Episodes cut from a bag at a fixed rate: pictures, state and action of every step.

A step is only given away when every source has gone on: what would be filled up behind the last message of a camera,
the state or the commands never becomes a step.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import cv2
import numpy as np
import numpy.typing as npt

from streaming_vla.bags.ingest import Frame, Said
from streaming_vla.bags.robot_bag import EPISODE, INSTRUCTION, Heard, RobotBag
from streaming_vla.datasets.writer import Step
from streaming_vla.images.decode import pixels_of
from streaming_vla.images.encodings import Pixels
from streaming_vla.images.fit import TURNS, square


@dataclass(frozen=True)
class StepOptions:
    """How episodes are cut.

    Args:
        rate: steps per second.
        size: width and height to which the centre square of every picture is brought, as the observer does; None keeps
            the camera's own size.
        rotations: degrees clockwise that turn a camera's pictures upright, by camera.
        longest_gap_s: an episode ends where a camera, the state or the commands are silent for longer.
    """

    rate: Fraction
    size: int | None = None
    rotations: Mapping[str, int] = field(default_factory=dict)
    longest_gap_s: float = 0.5


@dataclass
class _Waiting:
    """A step that is not given away yet; `action` is None while it runs."""

    begin_s: float
    step: Step
    action: npt.NDArray[np.float32] | None = None


class StepCutter:
    """Keeps the newest of everything and takes a step every period.

    Attributes:
        repeated: steps that show the picture of the step before once more, by camera: frames that were dropped, or a
            camera that is slower than the control.
        steps, episodes: how many there were.
        now_s: time of the newest message.
        state_names, state_units: of the newest step.
        unasked: episodes of the bag that say nothing about what was asked for.
    """

    def __init__(self, source: RobotBag, options: StepOptions) -> None:
        self._source, self._options = source, options
        self._cameras = tuple(source.options.camera_topics)
        self._period_s = float(1 / options.rate)
        self._said = source.other(EPISODE) is not None
        self._task = "" if self._said else source.options.instruction
        self._number: int | None = None  # of the suite's own episode
        self._frames: dict[str, Frame] = {}
        self._decoded: dict[str, tuple[Frame, Pixels]] = {}
        self._first_s = 0.0
        self._count: int | None = None  # steps begun since then; None where no episode runs
        self._waiting: deque[_Waiting] = deque()
        self.repeated: Counter[str] = Counter()
        self.steps = self.episodes = self.unasked = 0
        self.now_s = 0.0
        self.state_names: tuple[str, ...] = ()
        self.state_units: tuple[str, ...] = ()
        self._given: dict[str, Pixels] = {}  # of the newest step of the episode that runs
        self._never: set[str] | None = None  # what was not there in any stretch of the bag

    def steps_of(self) -> Iterator[Step]:
        """Yield the steps of all episodes, in order."""
        for event in self._source.heard():
            yield from self._take(event)
        yield from self._end()
        self._source.tell_left_out()

    def why_none(self) -> str:
        """Say what was never there, where no step was cut."""
        if not self._never:
            return "pictures, state and commands are never there at the same time"
        return f"it has nothing of {', '.join(sorted(self._never))} that can be used"

    def _lacking(self) -> set[str]:
        lacking = [f"camera {camera}" for camera in self._cameras if camera not in self._frames]
        lacking += self._source.state.missing()
        lacking += [f"a command of {name}" for name in self._source.commands.missing()]
        lacking += [] if self._source.commands.known() else ["commands"]
        return {*lacking, *([] if self._task else ["an instruction"])}

    def _take(self, event: Frame | Heard | Said) -> Iterator[Step]:
        period_s = self._period_s
        self.now_s = event.time_s
        if self._count is not None and event.time_s < self._due_s() - 2.0 * period_s:
            yield from self._end()  # the clock was set back
        while self._count is not None and event.time_s >= self._due_s():
            yield from self._tick(self._due_s())
        if isinstance(event, Frame):
            self._frames[event.camera] = event
        elif isinstance(event, Said):
            yield from self._instruction_said(event)
        elif event.command:
            yield from self._command(event)
        else:
            try:
                self._source.state.take(event.topic, event.message, event.time_s)
            except ValueError as error:
                self._source.refuse_heard(event, error)
        yield from self._give()
        if self._count is None and self._task and self._complete(event.time_s):
            self._begin(event.time_s, period_s)

    def _due_s(self) -> float:
        """Return when the next step begins, which is when the one that runs ends."""
        assert self._count is not None, "asked while an episode runs"
        return self._first_s + self._count * self._period_s

    def _begin(self, now_s: float, period_s: float) -> None:
        told_s = self._source.commands.told_s
        assert told_s is not None, "a complete step has a command"
        # in the middle between two commands, so that one that is a little late is not taken twice
        behind_s = (now_s - told_s) % period_s
        wait_s = 0.5 * period_s - behind_s + (0.0 if behind_s <= 0.5 * period_s else period_s)
        self._first_s, self._count = now_s + wait_s, 0
        self._given, self._decoded = {}, {}

    def _command(self, event: Heard) -> Iterator[Step]:
        try:
            if event.message is None:
                raise ValueError
            self._source.commands.take(event.topic, event.message, event.time_s)
        except ValueError as error:
            if event.message is not None:
                self._source.refuse_heard(event, error)
            if self._waiting and self._waiting[-1].action is None:
                self._waiting.pop()  # nobody knows what the robot did in the step that runs
            yield from self._end()

    def _instruction_said(self, event: Said) -> Iterator[Step]:
        if event.topic == EPISODE:
            yield from self._episode_said(event)
        elif event.topic == INSTRUCTION and not self._said and not self._source.options.instruction:
            task = event.message.data.strip()
            if task != self._task:
                yield from self._end()
                self._task = task

    def _episode_said(self, event: Said) -> Iterator[Step]:
        message = event.message
        if not message.active:
            self._task = ""
            yield from self._end()
        elif message.number != self._number:
            yield from self._end()
            self._number = message.number
            self._task = message.instruction.strip() or self._source.options.instruction
            self.unasked += not self._task

    def _sources_s(self) -> list[float]:
        """Return when each source was heard last; commands count until what they say has been done."""
        commands = self._source.commands
        return [*(frame.time_s for frame in self._frames.values()), self._source.state.oldest_s(),
                max(commands.told_s or 0.0, commands.covered_s or 0.0)]  # fmt: skip

    def _complete(self, now_s: float) -> bool:
        if len(self._frames) < len(self._cameras) or self._source.state.missing():
            return False
        if not self._source.commands.known() or self._source.commands.told_s is None:
            return False
        return now_s - min(self._sources_s()) <= self._options.longest_gap_s

    def _tick(self, now_s: float) -> Iterator[Step]:
        """End the step that runs and begin the next one."""
        self._finish(now_s)
        if not self._complete(now_s):
            yield from self._end()
            return
        pictures = {}
        for camera in self._cameras:
            try:
                pictures[camera] = self._pixels(self._frames[camera])
            except ValueError as error:
                self._source.refuse(camera, error)
                del self._frames[camera]
                yield from self._end()
                return
        state = self._source.state.values()
        assert state is not None, "a complete step has one"
        self.state_names, self.state_units = self._source.state.names(), self._source.state.units()
        self._source.commands.begin(now_s)
        step = Step(0, self._task, pictures, state.astype(np.float32), np.zeros(0, np.float32))
        self._waiting.append(_Waiting(now_s, step))
        assert self._count is not None, "a tick comes while an episode runs"
        self._count += 1

    def _finish(self, now_s: float) -> None:
        """Give the step that runs its action; one of which nobody knows it is left out."""
        if not self._waiting or self._waiting[-1].action is not None:
            return
        action = self._source.commands.action(now_s)
        if action is None:
            self._waiting.pop()
        else:
            self._waiting[-1].action = action.astype(np.float32)

    def _give(self) -> Iterator[Step]:
        """Yield the steps behind which every source has gone on."""
        if not self._waiting or self._waiting[0].action is None:
            return
        until_s = min(self._sources_s())
        while self._waiting and self._waiting[0].begin_s <= until_s:
            action = self._waiting[0].action
            if action is None:
                return
            step = self._waiting.popleft().step
            self.episodes += not self._given
            self.steps += 1
            self.repeated.update(
                camera for camera, pixels in step.pictures.items() if self._given.get(camera) is pixels
            )
            self._given = dict(step.pictures)
            yield Step(self.episodes, step.task, step.pictures, step.state, action)

    def _end(self) -> Iterator[Step]:
        """End the episode that runs, if any."""
        if self._count is not None:
            told_s = self._source.commands.told_s
            if self._waiting and told_s is not None and told_s >= self._waiting[-1].begin_s:
                self._finish(self._due_s())
            yield from self._give()
        self._never = self._lacking() if self._never is None else self._never & self._lacking()
        self._waiting.clear()
        self._count = None
        self._frames.clear()
        self._given, self._decoded = {}, {}
        self._source.state.forget()
        self._source.commands.forget()

    def _pixels(self, frame: Frame) -> Pixels:
        """Return the picture of a frame as it is kept, [H, W, 3] BGR; a frame is decoded once."""
        known = self._decoded.get(frame.camera)
        if known is not None and known[0] is frame:
            return known[1]
        pixels = pixels_of(frame.message, frame.kind)
        rotation = self._options.rotations.get(frame.camera, 0)
        turn = TURNS[rotation]
        if self._options.size is not None:
            pixels = square(pixels, self._options.size, rotation)
        elif turn is not None:
            pixels = cv2.rotate(pixels, turn)
        self._decoded[frame.camera] = (frame, pixels)
        return pixels
