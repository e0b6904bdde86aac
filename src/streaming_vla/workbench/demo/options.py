"""What `streaming-vla demo` runs, with its defaults. No ROS here: the command's help shows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streaming_vla.engine.latency_profile import find_profile
from streaming_vla.parameters.load import read
from streaming_vla.sim.tasks import HELD_OUT_SEED, TASKS, get_task

DEFAULT_TASKS = tuple(TASKS)


@dataclass(frozen=True)
class DemoOptions:
    """What the demo runs.

    Args:
        tasks: names of tasks of the simulated robot.
        episodes: episodes of each task and mode; their seeds count up from `seed`.
        seed: places the objects of the first episode.
        time_limit_s: an episode without success ends after this.
        out: folder of the results; made when it does not exist.
        profile: name of a latency profile that the inference node behaves like; empty: none.
        params_file: ROS parameter file of the nodes; None: their defaults.
        simulated_clock: the nodes follow the clock of the robot, which slows down where the machine is too busy.

    Raises:
        ValueError: an unknown task or profile, a number out of range, or a parameter file that cannot be used.
    """

    tasks: tuple[str, ...] = DEFAULT_TASKS
    episodes: int = 2
    seed: int = HELD_OUT_SEED
    time_limit_s: float = 12.0  # three times what the scripted experts need
    out: Path = Path("out/demo")
    profile: str = ""
    params_file: Path | None = None
    simulated_clock: bool = False

    def __post_init__(self) -> None:
        for task in self.tasks:
            get_task(task)
        if self.profile:
            find_profile(self.profile)
        if self.params_file is not None:
            read(self.params_file)
        if self.episodes < 1:
            raise ValueError(f"--episodes is {self.episodes}, expected at least 1")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"--seed is {self.seed}, expected 0 to {2**31 - 1}")
        if not 0 < self.time_limit_s <= 600:
            raise ValueError(f"--time-limit is {self.time_limit_s:g} s, expected more than 0 and at most 600")
