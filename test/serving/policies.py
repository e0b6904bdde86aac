"""Policies that the server's tests can look into."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from kv_cache import CacheSpec, CacheView
from streaming_vla.policies.contract import FlowQuery, Guide, PolicyObservation, PolicySpec, Prefilled, Slices
from streaming_vla.policies.layout import ActionLayout, Vector

LAYOUT = ActionLayout(("dx", "grip"), (False, True), (-100.0, -100.0), (100.0, 100.0), (0.0, 0.5))
SPEC = PolicySpec("summing", ("front", "wrist"), 16, 2, LAYOUT, 3, 4, cache=CacheSpec(1, 1, 2))


@dataclass
class Summing:
    """Its actions are the sum of the first number of the states in its history, and where the flow began.

    Args:
        gate: a prefill of a state below 0 waits for it.
    """

    gate: Future[None] = field(default_factory=Future)
    let_go: threading.Event = field(default_factory=threading.Event)
    seen: list[PolicyObservation] = field(default_factory=list)
    spec: PolicySpec = SPEC

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
        """Add a token that holds the state."""
        self.seen.append(observation)
        try:
            if observation.state[0] < 0:
                yield self.gate
        except GeneratorExit:
            self.let_go.set()
            raise
        yield None
        token = torch.full((1, 1, 1, 2), float(observation.state[0]))
        return Prefilled(torch.ones(1, 1, 1, 2), token)

    def flow_step(self, query: FlowQuery) -> Vector:
        """Return [sum, position of the gripper]."""
        return np.array([float(query.view.values[0, 0, :, 0].sum()), query.position[1]])


class Wide(Summing):
    """Its chunks are large: 51 kB."""

    def __init__(self) -> None:
        names, ones = tuple(f"a{number}" for number in range(400)), (1.0,) * 400
        layout = ActionLayout(names, (False,) * 400, tuple(-one for one in ones), ones, (0.0,) * 400)
        super().__init__(spec=replace(SPEC, layout=layout, trained_horizon=16))

    def flow_step(self, query: FlowQuery) -> Vector:
        """Return zeros."""
        return np.zeros(400)


@dataclass
class Guided:
    """A chunk policy that writes down its guides."""

    guides: list[Guide | None] = field(default_factory=list)
    spec: PolicySpec = SPEC

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
        """Nothing."""
        yield None
        return Prefilled(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))

    def denoise(
        self, view: CacheView, context: Any, steps: int, guide: Guide | None, random: np.random.Generator
    ) -> Slices[Any]:
        """Return rows that tell their number."""
        self.guides.append(guide)
        yield None
        return np.stack([np.arange(4.0), np.zeros(4)], axis=1)


def make_summing() -> Summing:
    """For `python:policies:make_summing`."""
    return Summing()
