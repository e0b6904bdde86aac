"""YAML that a stranger may have written: its size, depth, references and numbers are bounded before anything is made.

The parser of PyYAML is written in C and calls itself for every level of a document, so that a file of brackets ends
the process; references can make a small file large, and a number of a million digits takes minutes. So the events of
a document, which are read in one pass and without a stack, are looked through first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

LARGEST_BYTES = 1 << 20  # of a file, and characters of a text
DEEPEST = 50
LONGEST_PLAIN = 1000  # characters of a scalar without quotes: numbers are such

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where PyYAML has it


class YamlRefused(ValueError):
    """The text is not taken; the message is half a sentence that says why."""


def read(path: Path) -> str:
    """Return the text of a file; no more than is taken of it is read, a device has no end.

    Raises:
        OSError: it cannot be read.
        YamlRefused: it is too large, or no text.
    """
    with path.open("rb") as file:
        data = file.read(LARGEST_BYTES + 1)
    if len(data) > LARGEST_BYTES:
        raise YamlRefused(f"it has more than {LARGEST_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeError as error:
        raise YamlRefused(_reason(error)) from error


def check(text: str) -> None:
    """Return when the text may be given to a YAML loader.

    Raises:
        YamlRefused: it is no YAML, too large or nested too deep, each with what it refers to written out, or merges
            mappings.
    """
    if len(text) > LARGEST_BYTES:
        raise YamlRefused(f"it has more than {LARGEST_BYTES} characters")
    extent = _Extent()
    try:
        for event in yaml.parse(text, Loader=LOADER):
            extent.take(event)
            if isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
                if event.value == "<<":  # doubles with every level
                    raise YamlRefused(f"it merges mappings{_place(event)}: write them out")
                if len(event.value) > LONGEST_PLAIN:
                    raise YamlRefused(f"it has a word of {len(event.value)} characters{_place(event)}")
    except (yaml.YAMLError, UnicodeError) as error:
        raise YamlRefused(_reason(error)) from error


@dataclass
class _Part:
    """A collection, or what an anchor names: its characters and levels, with what it refers to written out."""

    anchor: str | None = None
    size: int = 1
    levels: int = 1


class _Extent:
    """How large and deep a document is with what it refers to written out, as whoever prints a value of it does."""

    def __init__(self) -> None:
        self._open: list[_Part] = []
        self._known: dict[str, _Part] = {}
        self._size = 0

    def take(self, event: Any) -> None:
        """Count one event; YamlRefused when it is too much."""
        if isinstance(event, yaml.CollectionStartEvent):
            self._add(event, _Part(None, 1, 1))
            self._open.append(_Part(event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            part = self._open.pop()
            self._name(part.anchor, part)
            if self._open:
                parent = self._open[-1]
                parent.size += part.size
                parent.levels = max(parent.levels, part.levels + 1)
        elif isinstance(event, yaml.AliasEvent):
            if any(part.anchor == event.anchor for part in self._open):
                raise YamlRefused(f"it holds itself{_place(event)}")
            self._add(event, self._known.get(str(event.anchor), _Part(None, 1, 0)), inside=True)
        elif isinstance(event, yaml.ScalarEvent):
            part = _Part(None, len(event.value) + 1, 0)
            self._add(event, part, inside=True)
            self._name(event.anchor, part)

    def _add(self, event: Any, part: _Part, inside: bool = False) -> None:
        self._size += part.size
        if self._size > LARGEST_BYTES:
            raise YamlRefused(f"it has more than {LARGEST_BYTES} characters with what it refers to{_place(event)}")
        if len(self._open) + part.levels > DEEPEST:
            raise YamlRefused(f"it is nested more than {DEEPEST} levels deep{_place(event)}")
        if inside and self._open:
            parent = self._open[-1]
            parent.size += part.size
            parent.levels = max(parent.levels, part.levels + 1)

    def _name(self, anchor: str | None, part: _Part) -> None:
        if anchor is not None:
            self._known[anchor] = part


def load(text: str) -> Any:
    """Return what the text holds: mappings, lists, strings, numbers, dates.

    Raises:
        YamlRefused: see `check`, or a value is none (a date of month 13).
    """
    check(text)
    try:
        return yaml.load(text, LOADER)
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, RecursionError) as error:
        raise YamlRefused(_reason(error)) from error


def _reason(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return place + " ".join(str(getattr(error, "problem", None) or error).split())


def _place(event: Any) -> str:
    return f" (line {event.start_mark.line + 1})"
