"""Topics of a bag beside pictures and state: what the suite itself says, the instruction, and the robot's commands."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.bags.definitions import OWN_PACKAGE
from streaming_vla.commands.finite import finite
from streaming_vla.options.shared import ARRAY

OTHER_TYPES = {
    "instruction": "std_msgs/msg/String",
    **{
        name: f"{OWN_PACKAGE}/msg/{kind}"
        for name, kind in {
            "episode": "Episode",
            "observe_request": "ObserveRequest",
            "observation": "Observation",
            "context": "Context",
            "generate": "GenerateRequest",
            "action": "Action",
            "execution_state": "ExecutionState",
            "kv_cache_stats": "KvCacheStats",
            "spans": "StageSpan",
        }.items()
    },
}
"""Message type by the suite's name of the topic: a robot may use the same name for something else."""
ADDED_LATER = {
    "context": {"trained_delay", "chunk", "control_period_s", "history_from", "remembers"},
    "episode": {"stopped"},
    "execution_state": {"dry_run", "resumes", "respawn_hold_s"},
}
"""Fields that bags of older versions lack and that nothing here reads, by the suite's name of the topic."""
COMMAND_TYPE = ARRAY  # the others say where joints are to go, which is no action before scale and start are known


def command_values(message: Any) -> npt.NDArray[np.float64]:
    """Return the action that a message of type `COMMAND_TYPE` holds, [A]; ValueError when it is not finite."""
    return finite(np.array(message.data, dtype=np.float64), "the command")
