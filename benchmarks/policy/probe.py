"""The stuck-state probe: the same picture must not turn the action round because the hand has not moved.

How far a demonstration has moved tells where it is going. A policy that learned to read that instead of the picture
goes on pushing where it is stuck: back off says the picture, push says the motion.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from kv_cache.cache import SessionCache
from kv_cache.policies import make_policy
from streaming_vla.policies.contract import FlowPolicy, FlowQuery, PolicyObservation, prefill_whole
from streaming_vla.sim.frames import as_seen
from streaming_vla.sim.metaworld import MetaWorldRobot
from streaming_vla.sim.tasks import get_task

LEAST = 0.3  # a shorter action has no direction that counts
INDEX = 2  # of the flow step that is asked: two actions lie behind it


@dataclass(frozen=True)
class ProbeResult:
    """How often another sum turned the action by more than a right angle, of how many pairs that were compared."""

    flipped: int
    compared: int

    @property
    def share(self) -> float:
        """Flipped of compared; 0 when nothing was compared."""
        return self.flipped / self.compared if self.compared else 0.0


def probe(policy: FlowPolicy, robot: MetaWorldRobot, trials: Iterable[tuple[str, int]]) -> ProbeResult:
    """Let the expert run episodes and ask the policy at every tenth picture: sum 0 against the sum of its own actions.

    Args:
        trials: task and seed of each episode.
    """
    flipped = compared = 0
    for task, seed in trials:
        robot.reset(task, seed)
        step = 0
        while not (robot.success or robot.failed) and step < 200:
            if step % 10 == 0:
                turned = _compare(policy, _look(policy, robot, get_task(task).instructions[0]))
                flipped, compared = flipped + bool(turned), compared + (turned is not None)
            robot.step(robot.expert_action())
            step += 1
    return ProbeResult(flipped, compared)


def _look(policy: FlowPolicy, robot: MetaWorldRobot, instruction: str) -> FlowQuery:
    """Return the first step that is asked of what is seen now."""
    spec = policy.spec
    cache = SessionCache(spec.cache, make_policy("window", sinks=0, recent=spec.tokens_per_observation, capacity=1))
    images = np.stack([as_seen(robot.render(camera), spec.image_size) for camera in spec.cameras])
    prefilled = prefill_whole(policy, PolicyObservation(images, robot.state(), instruction), cache.view())
    cache.append(prefilled.keys, prefilled.values)
    return FlowQuery(cache.view(), spec.layout.start(), 0, prefilled.context)


def _compare(policy: FlowPolicy, first: FlowQuery) -> bool | None:
    """Return whether the action turns when the sum says that nothing has moved; None where it is too short."""
    layout, query = policy.spec.layout, first
    summed = ~np.asarray(layout.absolute)
    for index in range(INDEX):
        position = layout.advance(query.position, policy.flow_step(query))
        query = replace(query, position=position, pending=np.where(summed, position, 0.0), index=index + 1)
    going = policy.flow_step(query)[summed]
    if np.linalg.norm(going) < LEAST:
        return None
    still = replace(query, position=np.where(summed, 0.0, query.position), pending=np.zeros(layout.size))
    stuck = policy.flow_step(still)[summed]
    return bool(going @ stuck < 0.0)
