"""How a command ends that cannot go on: one sentence, and exit code 1."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer


def refuse(reason: object) -> NoReturn:
    """Say why on stderr and end the command."""
    print(f"streaming-vla: {reason}", file=sys.stderr)
    raise typer.Exit(1)
