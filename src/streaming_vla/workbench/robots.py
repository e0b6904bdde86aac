"""What demo and evaluation have to know of each simulated robot. No ROS here: the commands' help shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from streaming_vla.parameters.load import read
from streaming_vla.parameters.nodes import SuiteOptions
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.models import find_model
from streaming_vla.policies.shipped import shipped_folders
from streaming_vla.sim import tasks as metaworld
from streaming_vla.sim.metaworld import ENVIRONMENT_STEP_S
from streaming_vla.sim.options import RobotName
from streaming_vla.sim.so101 import tasks as so101
from streaming_vla.sim.so101.robot import ACTION_PERIOD_S
from streaming_vla.sim.task import Task

DEFAULT_STEPS = 300  # of an episode


@dataclass(frozen=True)
class SimulatedArm:
    """A simulated robot.

    Args:
        task: returns one by its name, or raises ValueError.
        tasks: that are run where none are named.
        groups: further names, of several tasks.
        limits_s: an episode without success ends after so long, by task; `limit_s` of the others.
        action_s: simulated time of an action.
        in_real_time: its seconds are those of a real robot; otherwise an environment step lasts a control period.
        params: shipped parameter file, empty: the nodes' defaults.
    """

    name: RobotName
    task: Callable[[str], Task]
    tasks: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    action_s: float
    in_real_time: bool
    params: str = ""
    limits_s: Mapping[str, float] = field(default_factory=dict)
    limit_s: float = 12.0  # three times what the scripted experts of Meta-World need

    @cached_property
    def params_file(self) -> Path | None:
        """The shipped parameter file; None: the nodes' defaults."""
        found = (folder / self.params for folder in shipped_folders("config"))
        return next((path for path in found if path.is_file()), None) if self.params else None

    def steps(self, task: str) -> int:
        """Return after how many actions an episode of a policy alone has failed."""
        return round(self.limits_s[task] / self.action_s) if task in self.limits_s else DEFAULT_STEPS

    def select(self, names: str) -> tuple[str, ...]:
        """Return the tasks of a group, or of names with commas between; ValueError for an unknown one."""
        return self.groups.get(names) or tuple(self.task(name.strip()).name for name in names.split(","))

    def check_model(self, suite: SuiteOptions) -> None:
        """Raise ValueError where the policy that the parameter file names by default has not been trained yet."""
        model = suite.inference.model
        if self.params and model == read(self.params_file).inference.model:
            try:
                find_model(model)
            except CheckpointError:
                raise ValueError(
                    f"no trained policy for robot {self.name} is shipped ('{model}'): train one as in "
                    "docs/tutorials/so101.md, and name its file with --model"
                ) from None


ROBOTS: dict[str, SimulatedArm] = {
    robot.name: robot
    for robot in (
        SimulatedArm(
            "metaworld",
            metaworld.get_task,
            tuple(metaworld.TASKS),
            {name: tuple(metaworld.select_tasks(name)) for name in ("mt10", "memory", "all")},
            ENVIRONMENT_STEP_S,
            in_real_time=False,
        ),
        SimulatedArm(
            "so101",
            so101.get_task,
            tuple(so101.TASKS),
            {"all": tuple(so101.TASKS)},
            ACTION_PERIOD_S,
            in_real_time=True,
            params="so101.yaml",
            limits_s=so101.TIME_LIMITS_S,
        ),
    )
}
