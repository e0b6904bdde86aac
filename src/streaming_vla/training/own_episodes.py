"""The episodes of a data set as a training takes them: one instruction each, at the control rate, within the limits.

What a data set says is used or refused: a training never quietly learns from steps of another duration, from actions
that nobody may play, or from the wrong instruction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streaming_vla.datasets.check import check_episode, check_whole, checked
from streaming_vla.datasets.dataset import Dataset, Episode
from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.facts import DatasetFacts
from streaming_vla.datasets.rates import rate_of_period
from streaming_vla.datasets.resample import Resampled, resample
from streaming_vla.images.encode import encode_pixels
from streaming_vla.images.fit import square
from streaming_vla.policies.layout import ActionLayout

JPEG_QUALITY = 92  # of the arrays for training, as in the demonstrations
ROUNDING = 1e-5  # of the span of the limits: less outside is the rounding of 32 bit floats
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ReadOptions:
    """How a data set is read for a training.

    Args:
        period_s: of the control that the policy is for.
        resampled: bring a data set of another rate to it; else it is refused.
        clipped: bring actions within the limits; else those outside are refused.
        state_names: what the robot's parameter file says the state is; () where it does not.
    """

    period_s: float
    resampled: bool = False
    clipped: bool = False
    state_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """Steps of an episode with one instruction, T of them.

    state [T, S]; action [T, A]; steps [T] of the recording whose pictures they show; `begin` is the first of them in
    `whole` [N, A] and `states` [N, S], those of the episode from its begin to its end: what comes before and behind.
    """

    instruction: str
    begin: int
    state: Floats
    whole: Floats
    steps: npt.NDArray[np.int64]
    states: Floats

    @property
    def action(self) -> Floats:
        """The actions of these steps."""
        return self.whole[self.begin : self.begin + len(self.state)]


def check_rate(facts: DatasetFacts, data: Path, options: ReadOptions) -> Fraction:
    """Return the rate of the control.

    Raises:
        DatasetError: the data set has another one, and nobody asked for resampling.
    """
    wanted = rate_of_period(options.period_s)
    if wanted != facts.rate and not options.resampled:
        raise DatasetError(
            f"data set '{data}' has {float(facts.rate):g} steps a second, control_period_s {options.period_s:g} means "
            f"{float(wanted):g}: give the robot's parameter file with --params, or --resample to bring the steps to "
            "that rate"
        )
    return wanted


def check_limits(data: Dataset, layout: ActionLayout, options: ReadOptions) -> str:
    """Return which actions lie outside of the limits, what share of the steps and how far; empty when none does."""
    low, high = np.array(layout.low), np.array(layout.high)
    slack = ROUNDING * (high - low)
    outside, total = np.zeros(layout.size, dtype=np.int64), 0
    least, most = np.full(layout.size, np.inf), np.full(layout.size, -np.inf)
    for entry in data.entries:
        action = _at_rate(data, data.episode(entry), layout, options).action
        outside += ((action < low - slack) | (action > high + slack)).sum(axis=0)
        total += len(action)
        if len(action):
            least, most = np.fmin(least, action.min(axis=0)), np.fmax(most, action.max(axis=0))
    return "; ".join(
        f"action {name} lies outside of {low[place]:g} to {high[place]:g} in {100 * outside[place] / total:.3g} % of "
        f"the steps (from {least[place]:g} to {most[place]:g})"
        for place, name in enumerate(layout.names)
        if outside[place]
    )


def read_parts(data: Dataset, layout: ActionLayout, options: ReadOptions) -> Iterator[tuple[Episode, Part]]:
    """Yield (episode, steps with one instruction), in order.

    Raises:
        DatasetError: an episode that cannot be learned from, see `check_episode`.
    """
    for entry in data.entries:
        episode = checked(data, data.episode(entry))
        made = _at_rate(data, episode, layout, options)
        action = made.action.clip(layout.low, layout.high).astype(np.float32)  # `check_limits` has been asked before
        said = data.instructions(episode)
        begin = 0
        for instruction, group in groupby(said[step] for step in made.steps):
            span = slice(begin, begin + len(list(group)))
            yield episode, Part(instruction, begin, made.state[span], action, made.steps[span], made.state)
            begin = span.stop


def _at_rate(data: Dataset, episode: Episode, layout: ActionLayout, options: ReadOptions) -> Resampled:
    wanted = check_rate(data.facts, data.folder, options)
    if wanted == data.facts.rate or not len(episode):
        return Resampled(episode.state, episode.action, np.arange(len(episode)))
    return resample(episode.state, episode.action, layout.absolute, data.facts.rate, wanted)


def pictures_of(
    data: Dataset, episode: Episode, part: Part, cameras: tuple[str, ...], size: int
) -> tuple[bytes, list[list[tuple[int, int]]]]:
    """Return the pictures of a part as JPEGs in one piece, and where each begins and ends, [T][cameras].

    Args:
        size: pictures are brought to [size, size] pixels, as the live observer does.
    """
    films = [data.pictures(episode, camera, part.steps.tolist()) for camera in cameras]
    blob, offsets = bytearray(), []
    for pictures in zip(*films, strict=True):
        spans = []
        for pixels in pictures:
            encoded = encode_pixels(square(pixels, size), JPEG_QUALITY)
            spans.append((len(blob), len(blob) + len(encoded)))
            blob += encoded
        offsets.append(spans)
    return bytes(blob), offsets


def told_findings(data: Dataset) -> list[str]:
    """Return what is to be known of a data set that can be learned from, one sentence each."""
    found = [finding for finding in check_whole(data) if not finding.fatal]
    for entry in data.entries:
        found += [finding for finding in check_episode(data, data.episode(entry)) if not finding.fatal]
    return [finding.sentence for finding in found]
