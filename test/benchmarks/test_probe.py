"""The stuck-state probe finds a policy that reads its sum and clears one that looks."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, cast

import numpy as np
import pytest
import torch
from probe import ProbeResult, probe

from kv_cache.cache import CacheView
from kv_cache.spec import CacheSpec
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, PolicySpec, Prefilled
from streaming_vla.policies.layout import ActionLayout, Vector
from streaming_vla.sim.metaworld import CAMERAS, MetaWorldRobot

LAYOUT = ActionLayout(
    ("dx", "dy", "dz", "grip"), (False, False, False, True), (-1.0,) * 4, (1.0,) * 4, (0.0, 0.0, 0.0, -1.0)
)


class Mover:
    """Moves along x, `size` long; where it has not moved, `stuck` long."""

    spec = PolicySpec("mover", CAMERAS, 32, 4, LAYOUT, 10, 16, 1, CacheSpec(1, 1, 2))

    def __init__(self, size: float, stuck: float) -> None:
        self._size, self._stuck = size, stuck

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Generator[None, None, Prefilled]:
        yield
        return Prefilled(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))

    def flow_step(self, query: FlowQuery) -> Vector:
        moved = query.index == 0 or query.position[0] > 0.0
        return np.array([self._size if moved else self._stuck, 0.0, 0.0, 1.0])


@pytest.mark.parametrize(("size", "stuck", "share"), [(0.5, 0.1, 0.0), (0.5, -0.5, 1.0), (0.1, -0.5, None)])
def test_what_counts_as_turned(size: float, stuck: float, share: float | None) -> None:
    result = probe(cast(Any, Mover(size, stuck)), MetaWorldRobot(64), [("reach", 10_000)])
    assert isinstance(result, ProbeResult)
    assert (result.share if result.compared else None) == share
