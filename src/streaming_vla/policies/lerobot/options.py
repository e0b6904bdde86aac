"""What the user says about a checkpoint, because no file of it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from streaming_vla.policies.errors import CheckpointError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class LoadOptions:
    """How a checkpoint is loaded.

    Args:
        assets: folder with tokenizer and configuration of the vision-language model (and geometry.json); None: the
            checkpoint needs none, or holds it itself.
        device: "cpu", "cuda" or "cuda:1".
        dtype: number format of the towers, "float32" or "bfloat16"; norms and small projections stay float32.
        cameras: name of the robot's camera to the feature that it is ("observation.images.top"); empty: every camera
            of the policy, under the last part of its name. Features that none is told for are left out, as LeRobot
            does with pictures that do not come.
        action_names: of each dimension; empty: those of the checkpoint, or action_0, action_1, ...
        action_absolute: actions are targets, as most LeRobot data sets have them; otherwise they are changes.
        execution_horizon: actions of a chunk that are executed; 0: the checkpoint's n_action_steps.
        compile: the steps of a flow are compiled by `warm_up`.
        control_period_s: seconds that an action lasts; None: not told.
    """

    assets: Path | None = None
    device: str = "cpu"
    dtype: str = "float32"
    cameras: Mapping[str, str] | None = None
    action_names: tuple[str, ...] = ()
    action_absolute: bool = True
    execution_horizon: int = 0
    compile: bool = False
    control_period_s: float | None = None

    @property
    def torch_device(self) -> torch.device:
        """The device.

        Raises:
            CheckpointError: this machine has none of that name.
        """
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise CheckpointError(f"model_device is '{self.device}', expected cpu, cuda or cuda:N") from error
        if device.type not in ("cpu", "cuda"):
            raise CheckpointError(f"model_device is '{self.device}', expected cpu, cuda or cuda:N")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise CheckpointError(
                f"model_device is '{self.device}', this machine has {torch.cuda.device_count()} CUDA devices that this "
                "torch can use; say cpu, or install a torch with CUDA"
            )
        return device

    @property
    def torch_dtype(self) -> torch.dtype:
        """The number format; CheckpointError where it is none of DTYPES."""
        if self.dtype not in DTYPES:
            raise CheckpointError(f"model_dtype is '{self.dtype}', expected one of {', '.join(DTYPES)}")
        return DTYPES[self.dtype]
