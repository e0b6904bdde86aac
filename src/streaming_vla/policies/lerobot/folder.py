"""A folder of files from a stranger: opened by plain names inside of it, bounded in size, refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from streaming_vla.policies.errors import CheckpointError, shortened

JSON_BYTES = 4 * 1024**2  # of a configuration; real ones have a few kilobytes


class Folder:
    """A folder whose files are read.

    Args:
        path: of the folder.
        who: what sentences call it ("checkpoint", "model_assets").

    Raises:
        CheckpointError: there is no such folder.
    """

    def __init__(self, path: Path, who: str = "checkpoint") -> None:
        self.path = path.expanduser()
        self.who = f"{who} '{path}'"
        if not self.path.is_dir():
            raise CheckpointError(f"{self.who} is no folder: give the one that has the files of the policy")

    def has(self, name: str) -> bool:
        """True when there is a file or link of that plain name."""
        return (self.path / name).is_file()

    def file(self, name: str, otherwise: str) -> Path:
        """Return the path of a file.

        A link out of the folder is followed only where the hub's own cache has it: snapshots/<revision>/name leads to
        blobs/<digest>.

        Args:
            name: a plain name, without folders.
            otherwise: ends the sentence that refuses a missing file: what to give.

        Raises:
            CheckpointError: the name or its link leads out of the folder, or there is no such file.
        """
        if not name or name in (".", "..") or set(name) & {"/", "\\", "\0"}:
            raise CheckpointError(
                f"{self.who} names the file '{shortened(name)}', which may lie outside: expected a plain file name"
            )
        path = self.path / name
        if not path.is_file():
            raise CheckpointError(f"{self.who} has no file '{shortened(name)}'; {otherwise}")
        home, real = self.path.resolve(), path.resolve()
        of_the_hub = home.parent.name == "snapshots" and real.parent == home.parent.parent / "blobs"
        if real.parent != home and not of_the_hub:
            raise CheckpointError(f"{self.who}: '{name}' is a link to '{real}' outside: put the file itself there")
        return path

    def json(self, name: str, otherwise: str) -> dict[str, Any]:
        """Return the object that a JSON file holds.

        Raises:
            CheckpointError: see `file`, or the file is too large, no JSON or no object.
        """
        path = self.file(name, otherwise)
        if path.stat().st_size > JSON_BYTES:
            raise CheckpointError(
                f"{self.who}: {name} has {path.stat().st_size} bytes, expected at most {JSON_BYTES}; it is no "
                "configuration"
            )
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.who}: {name} is no JSON, or it was cut off: copy it again") from error
        if not isinstance(found, dict):
            raise CheckpointError(f"{self.who}: {name} holds a {type(found).__name__}, expected a JSON object")
        return found
