"""What a checkpoint that cannot be used is refused with, and how long a list in a sentence may be."""

from __future__ import annotations

from collections.abc import Iterable

LISTED = 12  # names in a sentence
SHOWN = 160  # characters of a value that a file states


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says which, why and what was expected."""


def listed(names: Iterable[str]) -> str:
    """Return names as a sentence has them: the first of them, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - LISTED} more" if len(every) > LISTED else ""
    return ", ".join(shortened(name) for name in every[:LISTED]) + more


def shortened(value: object) -> str:
    """Return a value as a sentence has it: a stranger's file decides how long it is, so it is cut."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(character if character.isprintable() else "?" for character in text[: SHOWN + 1])
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
