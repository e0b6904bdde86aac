"""The plan of a gate that is distilled from a language model: every hyperparameter, saved into the gate's file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from streaming_vla.training import gate_plan
from streaming_vla.training.plan import Section


class Shape(gate_plan.Shape):
    """Shape of the gate, see kv_cache.GateConfig; of a gate per head only `hidden` is used."""

    layer: Annotated[int, Field(ge=0)] = 0


class Cache(gate_plan.Cache):
    """The cache that the gate is trained for, in tokens.

    A model that does not learn along has never read a summary, so the default keeps single tokens word for word.
    """

    sinks: Annotated[int, Field(ge=0)] = 4
    recent: Annotated[int, Field(ge=1)] = 64
    chunk: Annotated[int, Field(ge=1)] = 1


class Learning(Section):
    """AdamW with constant rates.

    Args:
        count: chunks that a sequence keeps for free (per: model).
        penalty: weight of what it keeps beyond that, in full from the middle of the run on (per: model).
        clip: largest norm of the gate's gradient.
        batch: sequences of an optimiser step.
        tokens: of each of these sequences that a step looks at (per: head).
    """

    steps: Annotated[int, Field(ge=1)] = 300
    gate_rate: Annotated[float, Field(gt=0)] = 3e-3
    count: Annotated[float, Field(gt=0)] = 60.0
    penalty: Annotated[float, Field(ge=0)] = 5.0
    clip: Annotated[float, Field(gt=0)] = 1.0
    batch: Annotated[int, Field(ge=1)] = 1
    tokens: Annotated[int, Field(ge=1)] = 96


class DistillPlan(Section):
    """One training run.

    Args:
        per: head: every key head keeps its own tokens; it learns what attention each will get, from the teacher's own.
            model: one decision for all, learned from the student's loss of likelihood, which takes far longer.
        length: tokens of a sequence, a multiple of `piece`.
        piece: tokens that come at a time: a prompt's pieces, or an observation.
        most: sequences that are used at most, spread over the files.
        recall: share of the sequences of text into which facts are set, and questions for them far behind.
        validation: one sequence in so many is not learned from; it gives the threshold.
    """

    per: Literal["head", "model"] = "head"
    gate: Shape = Shape()
    cache: Cache = Cache()
    learning: Learning = Learning()
    length: Annotated[int, Field(ge=8)] = 512
    piece: Annotated[int, Field(ge=1)] = 64
    most: Annotated[int, Field(ge=2)] = 256
    recall: Annotated[float, Field(ge=0, le=1)] = 0.5
    validation: Annotated[int, Field(ge=2)] = 8

    @model_validator(mode="after")
    def _fits(self) -> DistillPlan:
        if self.length % self.piece:
            raise ValueError(f"length is {self.length}, expected a multiple of piece ({self.piece})")
        stays = self.cache.sinks + self.cache.recent + self.cache.chunk
        if self.length < stays + self.piece:
            raise ValueError(f"length is {self.length}: no chunk that left the window of {stays} tokens is ever missed")
        return self
