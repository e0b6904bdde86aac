"""What the user says about a server that computes the policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streaming_vla.policies.errors import CheckpointError

LONGEST_KEY = 4096  # characters


@dataclass(frozen=True)
class RemoteOptions:
    """How a server is spoken to.

    Args:
        remote: description of the robot's messages, a shipped one or the path of a YAML file (description.py); empty:
            the server says it in its greeting.
        key_file: first line is the key that the server wants; None: it wants none.
        timeout_s: a chunk that is not there so long after its observation was begun is given up, seconds.
        cameras: name of the robot's camera to the policy's name for it; None: they are the same.
    """

    remote: str = ""
    key_file: Path | None = None
    timeout_s: float = 5.0
    cameras: Mapping[str, str] | None = None

    def key(self) -> str:
        """Return the key; empty: none.

        Raises:
            CheckpointError: the file cannot be read, or its first line is no key.
        """
        if self.key_file is None:
            return ""
        try:
            with self.key_file.open(encoding="ascii") as file:
                key = file.readline(LONGEST_KEY + 1).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"model_key_file '{self.key_file}' cannot be read: {error}") from error
        if not key or len(key) > LONGEST_KEY or not key.isprintable():
            raise CheckpointError(
                f"model_key_file '{self.key_file}' holds no key: expected printable characters in its first line"
            )
        return key
