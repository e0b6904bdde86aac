"""The plan of a gate's training: every hyperparameter, read from one YAML file and saved into the gate's file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kv_cache.policies.base import Sizes
from streaming_vla.training.plan import Augment, Flow, Recording, Section, Source, Weights


class Shape(Section):
    """Shape of the gate, see kv_cache.GateConfig."""

    cell: Literal["gru", "lstm"] = "gru"
    summary: Literal["mean", "attention", "mlp"] = "mean"
    width: Annotated[int, Field(ge=1)] = 64
    hidden: Annotated[int, Field(ge=1)] = 64


class Cache(Section):
    """The cache that the gate is trained for, in tokens: what the inference node calls cache_sinks and so on.

    Without sinks: the tokens of an observation see each other, so one sink would hold all of the first one.
    """

    sinks: Annotated[int, Field(ge=0)] = 0
    recent: Annotated[int, Field(ge=1)] = 50
    chunk: Annotated[int, Field(ge=1)] = 25

    @property
    def sizes(self) -> Sizes:
        """For kv_cache.sampling; training has no budget."""
        return Sizes(self.sinks, self.recent, self.chunk)


class Keep(Section):
    """How much is kept.

    Args:
        count: chunks that an episode may keep for free.
        penalty: weight of what it keeps beyond that, in full from the middle of the run on (see keep_penalty).
        without_cue: share of the sequences of memory sources that begin in the wait: there is nothing to keep and
            nothing to name. Without them a gate may code one cue by its absence.
        recall: share of the validation sequences in which the calibrated threshold keeps a chunk of the cue.
    """

    count: Annotated[float, Field(gt=0)] = 1.0
    penalty: Annotated[float, Field(ge=0)] = 5.0
    without_cue: Annotated[float, Field(ge=0, lt=1)] = 0.25
    recall: Annotated[float, Field(gt=0, le=1)] = 0.99


class Learning(Section):
    """AdamW, the rates of gate and probe constant.

    Args:
        gate_rate, probe_rate: learning rates of the gate and of the heads that name what is to be remembered.
        policy_rate: of the policy behind its picture encoder at first, falling as a cosine to a hundredth; 0 leaves the
            policy as it is.
        full: share of the sequences that a policy that learns sees with their full history, so that it forgets
            neither of the two.
        clip: largest norm of the gate's gradient.
        average: decay of the moving average of the policy's weights, which is what is kept.
    """

    steps: Annotated[int, Field(ge=1)] = 300
    gate_rate: Annotated[float, Field(gt=0)] = 3e-3
    probe_rate: Annotated[float, Field(gt=0)] = 1e-2
    policy_rate: Annotated[float, Field(ge=0)] = 0.0
    full: Annotated[float, Field(ge=0, le=1)] = 0.25
    clip: Annotated[float, Field(gt=0)] = 0.1
    average: Annotated[float, Field(ge=0, lt=1)] = 0.98


class Validation(Section):
    """Episodes that are not learned from, and the sequences drawn from them.

    Args:
        every: an episode whose seed leaves the remainder every - 1 is for validation.
        sequences: of each memory source.
    """

    every: Annotated[int, Field(ge=2)] = 8
    sequences: Annotated[int, Field(ge=1)] = 96


class GatePlan(Section):
    """One training run of a gate.

    Args:
        recordings: demonstrations beside those of the policy's own training.
        sources: what an optimiser step is made of; those of memory tasks also give the threshold. What an observation
            sees is up to the gate: `forget` and `whole_history` are not used.
        weights: those of a policy's training; `scene` is not used, `chunk` only where the policy learns.
    """

    gate: Shape = Shape()
    cache: Cache = Cache()
    keep: Keep = Keep()
    learning: Learning = Learning()
    validation: Validation = Validation()
    recordings: tuple[Recording, ...] = ()
    sources: tuple[Source, ...]
    augment: Augment = Augment(shift=2, blank=(0.02, 0.05))
    flow: Flow = Flow(draws=3)
    weights: Weights = Weights(recall=1.0)

    @model_validator(mode="after")
    def _has_memory(self) -> GatePlan:
        if not any(source.memory for source in self.sources):
            raise ValueError("sources has none with memory: true, expected one: it tells what is to be kept")
        return self
