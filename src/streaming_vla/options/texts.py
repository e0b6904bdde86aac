"""Texts from outside in log lines and answers: one line, and not longer than a line may be."""

from __future__ import annotations

LONGEST = 200  # characters


def cut(text: str) -> str:
    """Return `text` as it may stand in a log: unprintable characters escaped, cut at `LONGEST` characters."""
    start = text[:LONGEST]
    shown = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in start)
    return shown if len(text) <= LONGEST and len(shown) <= LONGEST else f"{shown[: LONGEST - 3]}..."
