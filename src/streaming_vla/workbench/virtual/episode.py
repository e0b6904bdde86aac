"""One episode on the virtual clock: a strategy, a latency profile, the policy and the simulated robot."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streaming_vla.engine.latency_profile import LatencyProfile
from streaming_vla.engine.options import CacheOptions
from streaming_vla.machines.events import Action, Command, Mode
from streaming_vla.machines.executor import Executor
from streaming_vla.machines.executor_options import ExecutorOptions
from streaming_vla.machines.generator import Generator
from streaming_vla.machines.monitor import Monitor
from streaming_vla.machines.observer import Observer
from streaming_vla.machines.observer_options import ObserverOptions
from streaming_vla.policies.contract import StreamingPolicy
from streaming_vla.sim.metaworld import MetaWorldRobot
from streaming_vla.workbench.evaluation.cache_options import NEWEST_ONLY
from streaming_vla.workbench.report.records import EpisodeRecord
from streaming_vla.workbench.virtual.baselines.generator import ChunkGenerator, ChunkGeneratorOptions
from streaming_vla.workbench.virtual.baselines.similarity import Similarity
from streaming_vla.workbench.virtual.hardware import Clock, Hardware
from streaming_vla.workbench.virtual.robot import MetaWorldPlant
from streaming_vla.workbench.virtual.service import PolicyService
from streaming_vla.workbench.virtual.strategies import Setup
from streaming_vla.workbench.virtual.world import ActionSource, World

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
        work: how often the model did each kind of work (virtual_cost.costs).
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
        strategy: name of the strategy, kept as the record's mode.
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
    policy: StreamingPolicy,
    robot: MetaWorldRobot,
    options: EpisodeOptions,
    disturbance: Disturbance | None = None,
) -> VirtualEpisode:
    """Run one episode to its end; the same arguments give the same episode.

    It ends with success, the wrong choice of a memory task, the executor's error, or the last step.
    """
    robot.reset(options.task, options.seed)
    spec, period_s = policy.spec, profile.control_period_s
    clock = Clock()
    service = PolicyService(policy, options.cache, options.seed)
    plant = MetaWorldPlant(robot, spec.cameras, spec.image_size, period_s)
    source: ActionSource
    if setup.chunks is not None:
        source = ChunkGenerator(spec.layout, setup.chunks(spec.layout), ChunkGeneratorOptions(spec.trained_horizon))
    else:
        source = Generator(spec.layout, setup.generator_options(period_s))

    def moved() -> float:
        last = service.last_state
        return math.inf if last is None else float(np.linalg.norm(plant.state() - last))

    decision = Similarity(moved, setup.similarity) if setup.similarity else None
    when = setup.monitor_options(period_s, spec.layout, spec.trained_horizon)
    # of its own in every episode: with one for all, mode random would look at the same contexts of each
    monitor = Monitor(when.changed(random_seed=options.seed), decision=decision)
    executor = Executor(spec.layout, ExecutorOptions().at_period(period_s).changed(robot_timeout_s=10 * period_s))
    observer = Observer(ObserverOptions(cameras=spec.cameras, camera_topics=spec.cameras))
    record = EpisodeRecord(options.strategy, options.task, options.seed, options.instruction, 1, period_s, 0.0)
    hardware = Hardware(profile, clock, options.seed)
    _measured_before(monitor, hardware, profile, 0 if setup.chunks is None else setup.chunks(spec.layout).steps)
    world = World((observer, monitor, source, executor), service, plant, hardware, clock, record)
    disturbed_s = math.nan
    if disturbance is not None:
        disturbed_s = disturbance.at_step * period_s
        clock.after(disturbed_s, disturbance.happen)
    if setup.replace_tokens and isinstance(source, Generator):
        world.pending = source.pending
    world.start(options.instruction)

    def over() -> bool:
        return world.succeeded_s is not None or robot.failed or record.states[-1].state.mode is Mode.ERROR

    world.run(math.inf if robot.memory is not None else options.steps * period_s, until=over)
    record.success = world.succeeded_s is not None
    record.end_s = world.now
    if record.states[-1].state.mode is Mode.ERROR:
        record.problem = "the executor starved for longer than its ladder allows and stopped the robot"
    elif robot.failed:
        record.problem = "another goal was chosen, or none in time"
    machines = {"monitor": monitor, "generator": source, "executor": executor, "observer": observer}
    record.counters = {name: machine.counters.as_dict() for name, machine in machines.items()}
    return VirtualEpisode(
        record,
        world.commands,
        world.actions,
        np.array(plant.hand),
        list(monitor.judged),
        disturbed_s,
        dict(service.work),
    )


def _measured_before(monitor: Monitor, hardware: Hardware, profile: LatencyProfile, steps: int) -> None:
    """Let monitor and model know their usual latencies: nodes live longer than an episode.

    Args:
        steps: of the denoising that an observation waits for before its chunk is there; 0: it waits for none.
    """
    flow_s = profile.flow_step.median_ms / 1000.0
    usual_s = (profile.observe.median_ms + 2.0 * profile.transport.median_ms) / 1000.0 + steps * flow_s
    for _ in range(monitor.request_latency.warm_up + 1):
        monitor.request_latency.add(usual_s)
    hardware.flow_latency.add(flow_s)
