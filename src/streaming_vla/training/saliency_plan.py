"""The plan of a look-ahead predictor's training: every hyperparameter, saved into its file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from streaming_vla.training.plan import Section


class SaliencyPlan(Section):
    """One training run of a predictor.

    Args:
        longest_wait: steps from a picture to the later one, at most: the actions that a context may last, and those
            that pass until its successor takes over.
        episodes_per_task: that are read, so that a frequent task does not drown the others.
        held_out: share of the episodes that only the check sees.
        width: of the predictor's hidden layers.
        steps, batch, learning_rate, weight_decay: of AdamW with a cosine to zero.
        check_pairs: pairs of held-out frames that the check looks at.
    """

    longest_wait: Annotated[int, Field(ge=1)] = 24
    episodes_per_task: Annotated[int, Field(ge=2)] = 60
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    width: Annotated[int, Field(ge=8)] = 128
    steps: Annotated[int, Field(ge=1)] = 2500
    batch: Annotated[int, Field(ge=1)] = 128
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    check_pairs: Annotated[int, Field(ge=100)] = 8000
