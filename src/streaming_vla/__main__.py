"""Begins the command `streaming-vla`, whose modules take seconds to import."""

from __future__ import annotations

from streaming_vla.interrupts import ending_at_once


def main() -> None:
    """Entry point of the command."""
    with ending_at_once():
        from streaming_vla.cli import app
    app(prog_name="streaming-vla")


if __name__ == "__main__":
    main()
