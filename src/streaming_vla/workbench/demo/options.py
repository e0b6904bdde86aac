"""What `streaming-vla demo` runs, with its defaults. No ROS here: the command's help shows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streaming_vla.engine.latency_profile import find_profile
from streaming_vla.parameters.load import read
from streaming_vla.parameters.nodes import SuiteOptions
from streaming_vla.sim.options import RobotName
from streaming_vla.sim.tasks import HELD_OUT_SEED
from streaming_vla.workbench.robots import ROBOTS, SimulatedArm


@dataclass(frozen=True)
class DemoOptions:
    """What the demo runs.

    Args:
        robot: name of the simulated robot.
        tasks: names of its tasks; empty: those that it shows by default.
        episodes: episodes of each task and mode; their seeds count up from `seed`.
        seed: places the objects of the first episode.
        time_limit_s: an episode without success ends after this; None: as long as the robot's tasks are given.
        out: folder of the results; made when it does not exist.
        profile: name of a latency profile that the inference node behaves like; empty: none.
        params_file: ROS parameter file of the nodes; None: the robot's.
        model: in place of the parameter file's; empty: that one.
        simulated_clock: the nodes follow the clock of the robot, which slows down where the machine is too busy.

    Raises:
        ValueError: an unknown task or profile, a number out of range, or a parameter file that cannot be used.
    """

    tasks: tuple[str, ...] = ()
    episodes: int = 2
    seed: int = HELD_OUT_SEED
    time_limit_s: float | None = None
    out: Path = Path("out/demo")
    profile: str = ""
    params_file: Path | None = None
    simulated_clock: bool = False
    robot: RobotName = "metaworld"
    model: str = ""

    def __post_init__(self) -> None:
        for task in self.tasks:
            self.shown.task(task)
        if self.profile:
            find_profile(self.profile)
        self.shown.check_model(self.suite)
        if self.episodes < 1:
            raise ValueError(f"--episodes is {self.episodes}, expected at least 1")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"--seed is {self.seed}, expected 0 to {2**31 - 1}")
        if self.time_limit_s is not None and not 0 < self.time_limit_s <= 600:
            raise ValueError(f"--time-limit is {self.time_limit_s:g} s, expected more than 0 and at most 600")

    @property
    def shown(self) -> SimulatedArm:
        """The robot."""
        return ROBOTS[self.robot]

    @property
    def file(self) -> Path | None:
        """The parameter file of the nodes; None: their defaults."""
        return self.params_file or self.shown.params_file

    @property
    def suite(self) -> SuiteOptions:
        """What the nodes are told by it."""
        suite = read(self.file)
        return suite.changed("inference", {"model": self.model}) if self.model else suite

    def limit_s(self, task: str) -> float:
        """Return after how long an episode of `task` without success ends."""
        return self.time_limit_s or self.shown.limits_s.get(task, self.shown.limit_s)
