"""One episode whose wait is very long: the cue in the first second, thousands of observations, then the choice.

The simulated robot acts until shortly before the choice. There its clock stops, and the cache is given observations of
this wait again and again, in random order: the moving arm and marker, the flashes of the decoy lamp. They run through
the policy's transformer and into the cache like any other. Then the episode goes on to its choice.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streaming_vla.engine.options import CacheOptions
from streaming_vla.policies.compact.checkpoint import load_policy
from streaming_vla.policies.contract import run_slices
from streaming_vla.sim.memory_episode import Phase
from streaming_vla.sim.metaworld import MetaWorldRobot
from streaming_vla.workbench.evaluation.closed_loop import Trial, wording
from streaming_vla.workbench.evaluation.closed_loop_runner import ClosedLoopRunner, RunnerOptions
from streaming_vla.workbench.evaluation.memory_outcome import outcome_of

AGE = 2  # actions that an observation is old at its hand-over, as in `streaming-vla evaluate`
WAIT_STEPS = 300  # of the simulated part
LOOK_EVERY = 10  # steps between the observations that are repeated
REST_STEPS = 20  # of the wait, after the repeated observations


def run(seed: int, checkpoint: Path, cache: CacheOptions, task: str, observations: int) -> dict[str, Any]:
    """Return how the episode of `seed` ended, with `observations` between its cue and its choice."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    policy = load_policy(checkpoint)
    runner = ClosedLoopRunner(policy, RunnerOptions(age=AGE, cache=cache))
    robot = MetaWorldRobot(image_size=2 * policy.spec.image_size)
    waits = (WAIT_STEPS, WAIT_STEPS)
    robot.reset(task, seed, waits)
    runner.begin(wording(Trial(task, seed)), seed)
    memory = robot.memory
    assert memory is not None, f"{task} is no memory task"
    pause = memory.cue_steps + WAIT_STEPS - REST_STEPS
    seen = []
    while not (robot.success or robot.failed):
        if memory.phase is Phase.WAIT and memory.step < pause and memory.step % LOOK_EVERY == 0:
            seen.append(run_slices(policy.encode(runner.look(robot))))
        if memory.step == pause:
            random = np.random.default_rng(seed)
            for _ in range(observations):
                tokens = seen[int(random.integers(len(seen)))]
                runner.insert(*run_slices(policy.extend(tokens, runner.cache.view())))
        robot.step(runner(robot))
    success = robot.success
    outcome = outcome_of(runner, policy.spec.tokens_per_observation, memory)
    robot.close()
    return {"seed": seed, "success": success, **asdict(outcome)}
