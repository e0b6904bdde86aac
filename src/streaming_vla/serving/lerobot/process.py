"""lerobot's own process, from the side of the suite: started, asked, and ended with this one."""

from __future__ import annotations

import subprocess
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.policies.contract import PolicyUnavailable
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.serving.lerobot import child

END_S = 5.0


class LerobotProcess:
    """A checkpoint that lerobot computes.

    Args:
        folder: of the checkpoint.
        python: interpreter of the environment that has lerobot.
        device: where it computes.
        assets: folder of tokenizer and configuration of a vision-language model; None: none is told.

    Attributes:
        facts: what `child.Policy.facts` says.

    Raises:
        CheckpointError: it cannot be started, or lerobot cannot load the checkpoint.
    """

    def __init__(self, folder: Path, python: Path, device: str, assets: Path | None) -> None:
        self._who = f"lerobot of {python}"
        command = [str(python), "-u", child.__file__, str(folder), "--device", device]
        try:
            self._process = subprocess.Popen(
                command if assets is None else [*command, "--assets", str(assets)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the server, which ends it
            )
        except OSError as error:
            raise CheckpointError(f"--python {python} cannot be started: {error.strerror}") from error
        weakref.finalize(self, _end, self._process)
        try:
            self.facts = self._answer()[0]["facts"]
        except (PolicyUnavailable, KeyError) as error:
            raise CheckpointError(f"{self._who} cannot load {folder}: {error}") from error

    def ask(
        self, pictures: Mapping[str, npt.NDArray[np.uint8]], state: npt.NDArray[np.float32], instruction: str
    ) -> npt.NDArray[np.float32]:
        """Return the actions [H, A] for one observation; see `child.Policy.chunk`. One call at a time.

        Raises:
            PolicyUnavailable: the process has ended, or lerobot fails.
        """
        assert self._process.stdin is not None
        try:
            arrays = {**pictures, "observation.state": state}
            child.write_message(self._process.stdin, {"instruction": instruction}, arrays)
        except OSError as error:
            raise self._gone() from error
        rows: npt.NDArray[np.float32] = self._answer()[1]["actions"]
        return rows

    def _answer(self) -> tuple[dict[str, Any], dict[str, Any]]:
        assert self._process.stdout is not None
        try:
            told, arrays = child.read_message(self._process.stdout)
        except EOFError as error:
            raise self._gone() from error
        if "error" in told:
            raise PolicyUnavailable(f"{self._who} says: {told['error']}")
        return told, arrays

    def _gone(self) -> PolicyUnavailable:
        return PolicyUnavailable(f"the process of {self._who} has ended: see what it has printed, and start again")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close its pipe, on which it ends by itself; a process that hangs is killed."""
    if process.stdin is not None and not process.stdin.closed:
        process.stdin.close()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
