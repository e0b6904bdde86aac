"""Batches of a VLA's training. A batch is a function of run and step alone, so a run that goes on repeats itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from streaming_vla.policies.lerobot.flow_head.units import FlowUnits
from streaming_vla.training.vla.episodes import ReadyPart
from streaming_vla.training.vla.plan import VlaPlan
from streaming_vla.training.vla.windows import Answer, Path, answer_at, draw_moment

Floats = npt.NDArray[np.float32]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Batch:
    """B observations and what is learned of them.

    pictures [B, cameras, S, S, 3] uint8; state [B, state_size], in the robot's units; instructions [B];
    flow: D moments of each (see windows.Answer), each field [B, D, ...]; chunk [B, H, A], the actions from the picture
    on.
    """

    pictures: npt.NDArray[np.uint8]
    state: Floats
    instructions: tuple[str, ...]
    flow: Answer
    chunk: Floats


class Batches:
    """Draws batches of the steps of a data set.

    Args:
        parts: of the data set.
        units: of its actions.
        plan: of the training.
        deviation: of the state, [S]: what its noise is a share of.
        seed: of the run.
    """

    def __init__(
        self, parts: Sequence[ReadyPart], units: FlowUnits, plan: VlaPlan, deviation: Floats, seed: int
    ) -> None:
        self._parts, self._units, self._plan, self._deviation, self._seed = parts, units, plan, deviation, seed
        paths: dict[int, Path] = {}  # parts of an episode share its arrays
        for part in parts:
            if id(part.action) not in paths:
                paths[id(part.action)] = Path.of(part.action, part.state, units.absolute, units.joints)
        self.paths = [paths[id(part.action)] for part in parts]
        self._ends = np.cumsum([len(part) for part in parts])

    def make(self, step: int) -> Batch:
        """Return the batch of an optimiser step."""
        random = np.random.default_rng((self._seed, step))
        rows = [self._place(int(each)) for each in random.integers(0, self._ends[-1], self._plan.batch)]
        plan, units = self._plan, self._units
        disturbed = plan.augment.state_noise * self._deviation
        answers, states, chunks = [], [], []
        for number, at in rows:
            part, path = self._parts[number], self.paths[number]
            picture, left = part.begin + at, len(part.action) - part.begin - at
            states.append(part.state[picture] + disturbed * random.standard_normal(len(disturbed)))
            chunks.append(path.chunk(picture, plan.horizon, units.absolute))
            for _ in range(plan.flow.draws):
                moment = draw_moment(left, len(units.scale), plan.horizon, plan.flow, random)
                answer = answer_at(path, picture, moment, plan.horizon, plan.flow, units)
                noise = disturbed * random.standard_normal(len(disturbed))
                answers.append(answer._replace(state=answer.state + noise))
        shape = (plan.batch, plan.flow.draws)
        stacked = (np.array(each, dtype=np.float32) for each in zip(*answers, strict=True))
        return Batch(
            np.stack([self._parts[number].pictures(at) for number, at in rows]),
            np.array(states, dtype=np.float32),
            tuple(self._parts[number].instruction for number, _ in rows),
            Answer(*(each.reshape(*shape, *each.shape[1:]) for each in stacked)),  # type: ignore[arg-type]
            np.array(chunks, dtype=np.float32),
        )

    def _place(self, drawn: int) -> tuple[int, int]:
        """Return the part and its step of the number of a step of all."""
        number = int(np.searchsorted(self._ends, drawn, side="right"))
        return number, drawn - int(self._ends[number] - len(self._parts[number]))


def ahead(make: Callable[[int], Made], first: int, last: int, workers: int) -> Iterator[tuple[int, Made]]:
    """Yield (step, what `make` makes of it) for the steps from `first` to before `last`, made ahead by threads."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: list[Future[Made]] = []
        try:
            for step in range(first, last):
                while len(waiting) < min(2 * workers, last - step):
                    waiting.append(pool.submit(make, step + len(waiting)))
                yield step, waiting.pop(0).result()
        finally:
            for each in waiting:
                each.cancel()
