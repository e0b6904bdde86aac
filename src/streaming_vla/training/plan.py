"""A training plan: every hyperparameter, read from one YAML file and saved into the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streaming_vla import bounded_yaml
from streaming_vla.sim.options import RobotName


class Section(BaseModel):
    """A part of a plan: an entry that it does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Recording(Section):
    """Episodes to record with the scripted experts.

    Args:
        episodes: of each task.
        first_seed: places the objects of the first episode; seeds from 10000 on are for evaluation only.
        piloted: a policy is at the wheel at first and the expert says what it should have done (the idea of DAgger,
            arXiv 1011.0686): `train demos --pilot CHECKPOINT` records these.
        frame_every: steps from one recorded frame to the next.
        perturbed: share of the episodes with bursts of random actions.
        burst_probability: chance of a burst to begin at a step.
        piloted_steps: the pilot is at the wheel for a number of steps in this range.
        maximum_steps: an episode ends without success after so many; it is not learned from.
        wait_steps: shortest and longest wait of a memory task.
    """

    episodes: dict[str, int]
    first_seed: Annotated[int, Field(ge=0)] = 0
    piloted: bool = False
    frame_every: Annotated[int, Field(ge=1)] = 2
    perturbed: Annotated[float, Field(ge=0, le=1)] = 0.8
    burst_probability: Annotated[float, Field(ge=0, le=1)] = 0.03
    piloted_steps: tuple[int, int] = (20, 140)
    maximum_steps: Annotated[int, Field(ge=1)] = 250
    wait_steps: tuple[int, int] = (40, 120)


class Source(Section):
    """Sequences of one kind.

    Args:
        tasks: relative frequency of each task.
        length: observations of a sequence T.
        stride: smallest and largest distance of two observations in steps.
        sequences: of this kind in every optimiser step, over all processes.
        weight: of this kind's loss.
        forget: probability that a sequence has no history at all; otherwise each observation sees a random number
            of those before it (`whole_history`: all of them).
        whole_history: each observation that has a history sees all of it.
        memory: sequences begin at the episode's start, and pieces of the wait of other episodes of the task are put
            into the wait, a random number of them, so that the cue lies up to `length` observations back.
        spliced: share of the memory sequences whose wait and choice are another episode's, told for the answer of the
            sequence's own cue.
        acted: observations of a sequence whose actions are learned, half of them its last ones, the others drawn; the
            rest is only seen. None: all.
        wrong_instruction: share of the sequences with another task's instruction; what they teach is to stay.
        unknown_word: share of the words that are replaced by the unknown one.
    """

    tasks: dict[str, float]
    length: Annotated[int, Field(ge=1)] = 4
    stride: tuple[int, int] = (6, 14)
    sequences: Annotated[int, Field(ge=1)] = 20
    weight: Annotated[float, Field(gt=0)] = 1.0
    forget: Annotated[float, Field(ge=0, le=1)] = 0.6
    whole_history: bool = False
    memory: bool = False
    spliced: Annotated[float, Field(ge=0, le=1)] = 0.0
    acted: Annotated[int, Field(ge=2)] | None = None
    wrong_instruction: Annotated[float, Field(ge=0, le=1)] = 0.1
    unknown_word: Annotated[float, Field(ge=0, le=1)] = 0.05


class Augment(Section):
    """How much the pictures and the state are disturbed.

    Args:
        shift: largest shift of a picture in pixels, the same for a whole sequence.
        colour: largest relative change of brightness, contrast and each channel's gain.
        state_noise: standard deviation of noise on the robot state, in units of the state's own deviation.
        blank: probability that a camera is black for a whole sequence, in the cameras' order.
    """

    shift: Annotated[int, Field(ge=0)] = 4
    colour: Annotated[float, Field(ge=0, le=1)] = 0.2
    state_noise: Annotated[float, Field(ge=0)] = 0.02
    blank: tuple[float, ...] = (0.03, 0.12)


class Flow(Section):
    """What the flow expert learns of an observation.

    Args:
        draws: moments behind the picture, 0 to trained_horizon - 1 steps later: where the robot is by then is told.
        late: most actions that what is told lacks; their sum is told beside it.
    """

    draws: Annotated[int, Field(ge=1)] = 6
    late: Annotated[int, Field(ge=1)] = 8


class Weights(Section):
    """Weights of the losses.

    Args:
        absolute: of the absolute dimensions in the flow's loss.
        chunk: of the chunk's denoising.
        scene: of naming where the object and the goal are (an auxiliary head that is not shipped).
        recall: of naming what is to be remembered (an auxiliary head that is not shipped).
        goals: of naming where the goal of every answer is (an auxiliary head that is not shipped).
        doubt: of saying how much a look would better the flow's action.
    """

    absolute: Annotated[float, Field(ge=0)] = 0.25
    chunk: Annotated[float, Field(ge=0)] = 0.2
    scene: Annotated[float, Field(ge=0)] = 0.05
    recall: Annotated[float, Field(ge=0)] = 0.1
    goals: Annotated[float, Field(ge=0)] = 0.1
    doubt: Annotated[float, Field(ge=0)] = 0.0


class Optimiser(Section):
    """AdamW with a linear warm-up and a cosine to a hundredth.

    Args:
        steps: optimiser steps.
        learning_rate: peak.
        average: decay of the exponential moving average of the weights, which is what is kept.
        clip: largest norm of the gradient.
    """

    steps: Annotated[int, Field(ge=1)] = 14000
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warm_up: Annotated[int, Field(ge=0)] = 300
    average: Annotated[float, Field(ge=0, lt=1)] = 0.998
    clip: Annotated[float, Field(gt=0)] = 1.0


class Recordings(BaseModel):
    """What `train demos` reads of a plan of any kind: the episodes, and the policy that they are for.

    Args:
        robot: the simulated robot that is recorded.
        model: fields of CompactConfig that differ from its defaults (the words come from the tasks).
        recordings: the demonstrations.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    robot: RobotName = "metaworld"
    model: dict[str, Any] = {}
    recordings: tuple[Recording, ...]

    def chosen(self, tasks: Sequence[str], episodes: int | None) -> list[Recording]:
        """Return the recordings of some tasks alone (all when empty), with so many episodes of each (None: as planned).

        Raises:
            ValueError: a task that none of them has.
        """
        there = {task for recording in self.recordings for task in recording.episodes}
        if unknown := [task for task in tasks if task not in there]:
            raise ValueError(f"no recording of the plan has {', '.join(unknown)}; it has {', '.join(sorted(there))}")
        found = []
        for recording in self.recordings:
            kept = {task: episodes or count for task, count in recording.episodes.items() if not tasks or task in tasks}
            found.append(recording.model_copy(update={"episodes": kept}))
        return found


class TrainingPlan(Recordings):
    """One training run.

    Args:
        sources: what an optimiser step is made of.
        learns: parts of the network that learn, as CompactModel names its modules; empty: all of it.
    """

    model_config = Section.model_config

    recordings: tuple[Recording, ...] = ()
    sources: tuple[Source, ...]
    learns: tuple[str, ...] = ()
    augment: Augment = Augment()
    flow: Flow = Flow()
    weights: Weights = Weights()
    optimiser: Optimiser = Optimiser()


Plan = TypeVar("Plan", bound=BaseModel)


def load_plan(path: Path) -> TrainingPlan:
    """Read the plan of a policy's training; see read_plan."""
    return read_plan(path, TrainingPlan)


def read_plan(path: Path, kind: type[Plan]) -> Plan:
    """Read a plan.

    Raises:
        ValueError: no such file, no YAML, or an entry that is unknown, missing or out of range.
    """
    try:
        content: Any = bounded_yaml.load(bounded_yaml.read(path))
    except FileNotFoundError:
        raise ValueError(f"training plan '{path}' does not exist; the shipped ones are in config/training") from None
    except OSError as error:
        raise ValueError(f"training plan '{path}' cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # no text, or no YAML that is taken
        raise ValueError(f"training plan '{path}' is not YAML: {error}") from error
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"training plan '{path}': {place or 'the file'}: {first['msg']}") from error
