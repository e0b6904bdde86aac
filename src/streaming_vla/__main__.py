"""Begins the command `streaming-vla`, whose modules take seconds to import."""

from __future__ import annotations

import sys

from streaming_vla.interrupts import STOPPED, ending_at_once


def main() -> None:
    """Entry point of the command."""
    with ending_at_once():
        from streaming_vla.cli import app
    try:
        app(prog_name="streaming-vla")
    except SystemExit as end:
        if end.code == STOPPED:
            print("streaming-vla: stopped by Ctrl-C", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
