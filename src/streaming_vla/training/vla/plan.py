"""The plan of a VLA's training: every hyperparameter, read from one YAML file and saved beside the checkpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from streaming_vla.training.plan import Augment, Optimiser, Section

NetworkPart = Literal["expert", "state", "text", "vision"]


class FlowDraws(Section):
    """What the flow head learns of an observation (StreamingVLA, arXiv 2603.28565).

    Args:
        draws: moments of its flow, which one pass of the expert answers.
        delay: the picture is 0 to so many actions old when its context takes over.
        lateness: the robot's state is 0 to so many actions old at each of them.
        noise: deviation of the flow's state from its path when it takes over, in scales of an action.
        shape: the flow's time is drawn from Beta(shape, 1): 1.5 in the paper, where every step of a flow is executed;
            below 1 it favours the beginning, which is what is executed where a context is renewed before its end.
        restarts: share of the moments whose flow begins where the joints are, as that of an episode's first context
            does, and not where the robot was told to be.
        stability: the deviation falls as e^(-stability t) over a horizon, and the answer leads back to the path.
    """

    draws: Annotated[int, Field(ge=1, le=256)] = 6
    delay: Annotated[int, Field(ge=0)] = 16
    lateness: Annotated[int, Field(ge=0)] = 3
    shape: Annotated[float, Field(gt=0)] = 0.7
    restarts: Annotated[float, Field(ge=0, le=1)] = 0.1
    noise: Annotated[float, Field(ge=0)] = 0.16
    stability: Annotated[float, Field(ge=0)] = 4.0


class VlaPlan(Section):
    """One training run, of either head.

    Args:
        horizon: actions of a context H.
        execution_horizon: of them are meant to be executed.
        batch: observations in an optimiser step.
        learns: parts of the network that learn; the others stay as they are, to the bit.
        checkpointing: layers that learn are computed twice instead of being kept: less memory, a third more time.
        workers: threads that read pictures ahead.
    """

    horizon: Annotated[int, Field(ge=1, le=4096)] = 32
    execution_horizon: Annotated[int, Field(ge=1)] = 10
    batch: Annotated[int, Field(ge=1)] = 32
    learns: Annotated[tuple[NetworkPart, ...], Field(min_length=1)] = ("expert",)
    checkpointing: bool = False
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    flow: FlowDraws = FlowDraws()
    augment: Augment = Augment(shift=4, colour=0.2, state_noise=0.01, blank=())
    optimiser: Optimiser = Optimiser(
        steps=20000, learning_rate=1e-4, weight_decay=1e-6, warm_up=500, average=0.999, clip=10.0
    )

    @model_validator(mode="after")
    def _fits(self) -> VlaPlan:
        if not self.execution_horizon <= self.horizon or not self.flow.delay < self.horizon:
            raise ValueError(
                f"execution_horizon {self.execution_horizon} and flow.delay {self.flow.delay} must be at most, and "
                f"less than, the horizon {self.horizon}"
            )
        return self
