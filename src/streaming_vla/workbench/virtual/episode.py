"""One episode on the virtual clock: a setup, a latency profile, the policy and the simulated robot."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streaming_vla.engine.cache import engine_options
from streaming_vla.engine.engine import Engine
from streaming_vla.engine.latency_profile import LatencyProfile
from streaming_vla.engine.options import CacheOptions
from streaming_vla.engine.pace import ProfilePace
from streaming_vla.machines.events import Action, Command, Mode
from streaming_vla.machines.executor import Executor
from streaming_vla.machines.executor_options import ExecutorOptions
from streaming_vla.machines.observer import Observer
from streaming_vla.machines.observer_options import ObserverOptions
from streaming_vla.machines.stops import stop_of
from streaming_vla.policies.contract import FlowPolicy
from streaming_vla.sim.metaworld import MetaWorldRobot
from streaming_vla.workbench.evaluation.cache_options import NEWEST_ONLY
from streaming_vla.workbench.report.records import EpisodeRecord
from streaming_vla.workbench.virtual.clock import Clock
from streaming_vla.workbench.virtual.network import Network
from streaming_vla.workbench.virtual.robot import MetaWorldPlant
from streaming_vla.workbench.virtual.setup import Assembly, Setup
from streaming_vla.workbench.virtual.world import MACHINES, World

MEASURED_BEFORE = 100  # actions, as many as an episode has
LONGEST_STEPS = 500  # control periods that an episode may take: Meta-World's own limit, halts included


@dataclass(frozen=True)
class Disturbance:
    """Something that happens to the world `at_step` control periods after the start."""

    at_step: int
    happen: Callable[[], None]


@dataclass
class VirtualEpisode:
    """What an episode on the virtual clock leaves behind.

    Args:
        record: as of an episode in ROS.
        commands: what the robot was told, with the time in seconds.
        actions: what was sent to the executor.
        hand: [N, 3], position of the hand at the end of every control period, metres.
        judged: saliencies with the context that they are of.
        disturbed_s: when the world was disturbed, NaN without a disturbance.
        work: how often the model did each kind of work, by the names of engine.jobs.Work.
    """

    record: EpisodeRecord
    commands: list[tuple[float, Command]]
    actions: list[Action]
    hand: npt.NDArray[np.float64]
    judged: list[tuple[int, float]] = field(default_factory=list)
    disturbed_s: float = math.nan
    work: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class EpisodeOptions:
    """What is run.

    Args:
        strategy: name of the setup, kept as the record's mode.
        task, seed: the scene.
        instruction: what the policy is told.
        cache: what is kept of the history.
        steps: control periods that it may take; one of a memory task ends by itself.
    """

    strategy: str
    task: str
    seed: int
    instruction: str
    cache: CacheOptions = NEWEST_ONLY
    steps: int = LONGEST_STEPS


def run_episode(
    setup: Setup,
    profile: LatencyProfile,
    policy: FlowPolicy,
    robot: MetaWorldRobot,
    options: EpisodeOptions,
    disturbance: Disturbance | None = None,
) -> VirtualEpisode:
    """Run one episode to its end; the same arguments give the same episode.

    It ends with success, the wrong choice of a memory task, the executor's error, or the last step.
    """
    robot.reset(options.task, options.seed)
    spec, period_s, clock = policy.spec, profile.control_period_s, Clock()
    plant = MetaWorldPlant(robot, spec.cameras, spec.image_size, period_s)
    parts = setup.assemble(policy, period_s, options.seed, plant.state)
    engine = Engine(
        parts.policy,
        engine_options(options.cache, spec.tokens_per_observation, seed=options.seed, device=spec.device),
        ProfilePace(profile, options.seed),
        stopwatch=lambda: 0.0,
        wait_for_futures=True,
    )
    _measured_before(parts, engine, profile, options.seed)
    executor = Executor(spec.layout, ExecutorOptions().at_period(period_s).changed(robot_timeout_s=10 * period_s))
    observer = Observer(ObserverOptions(cameras=spec.cameras, camera_topics=spec.cameras))
    record = EpisodeRecord(options.strategy, options.task, options.seed, options.instruction, 1, period_s, 0.0)
    machines = (observer, parts.monitor, parts.source, executor)
    world = World(machines, engine, plant, Network(profile, clock, options.seed), clock, record)
    world.prepare = parts.prepare
    world.hear_contexts = parts.hear_contexts
    disturbed_s = math.nan
    if disturbance is not None:
        disturbed_s = disturbance.at_step * period_s
        clock.after(disturbed_s, disturbance.happen)
    world.start(options.instruction)

    def over() -> bool:
        return world.succeeded_s is not None or robot.failed or record.states[-1].state.mode is Mode.ERROR

    world.run(math.inf if robot.memory is not None else options.steps * period_s, until=over)
    record.success = world.succeeded_s is not None
    record.end_s = world.now
    if record.states[-1].state.mode is Mode.ERROR:
        record.problem = stop_of([at.state for at in record.states])
    elif robot.failed:
        record.problem = "another goal was chosen, or none in time"
    record.counters = {name: getattr(world, name).counters.as_dict() for name in MACHINES}
    return VirtualEpisode(
        record,
        world.commands,
        world.actions,
        np.array(plant.hand),
        list(parts.monitor.judged),
        disturbed_s,
        {work.value: times for work, times in engine.worked.items()},
    )


def _measured_before(parts: Assembly, engine: Engine, profile: LatencyProfile, seed: int) -> None:
    """Let monitor, engine and generator know their latencies: nodes live longer than an episode."""
    flow_s = profile.flow_step.median_ms / 1000.0
    usual_s = (profile.observe.median_ms + 2.0 * profile.transport.median_ms) / 1000.0
    usual_s += parts.denoising_steps * flow_s  # a chunk is there with its context
    for _ in range(parts.monitor.request_latency.warm_up + 1):
        parts.monitor.request_latency.add(usual_s)
    engine.flow_latency.add(flow_s)
    random = np.random.default_rng((seed, 3))  # 0 to 2 are those of pace and network
    for _ in range(MEASURED_BEFORE):
        ways_s = profile.transport_s(random, -math.inf) + profile.transport_s(random, -math.inf)
        parts.learn(ways_s + profile.flow_step.draw_s(random))
