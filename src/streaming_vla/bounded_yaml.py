"""YAML that a stranger may have written: its size, depth, references and numbers are bounded before anything is made.

The parser of PyYAML is written in C and calls itself for every level of a document, so that a file of brackets ends
the process; references can make a small file large, and a number of a million digits takes minutes. So the events of
a document, which are read in one pass and without a stack, are looked through first.
"""

from __future__ import annotations

from typing import Any

import yaml

LARGEST_BYTES = 1 << 20
DEEPEST = 50
MOST_ALIASES = 1000
LONGEST_PLAIN = 1000  # characters of a scalar without quotes: numbers are such

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where PyYAML has it


class YamlRefused(ValueError):
    """The text is not taken; the message is half a sentence that says why."""


def check(text: str) -> None:
    """Return when the text may be given to a YAML loader.

    Raises:
        YamlRefused: it is no YAML, too large, nested too deep, refers to too much, or merges mappings.
    """
    if len(text) > LARGEST_BYTES:
        raise YamlRefused(f"it has more than {LARGEST_BYTES} characters")
    depth = aliases = 0
    try:
        for event in yaml.parse(text, Loader=LOADER):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > DEEPEST:
                    raise YamlRefused(f"it is nested more than {DEEPEST} levels deep{_place(event)}")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            elif isinstance(event, yaml.AliasEvent):
                aliases += 1
                if aliases > MOST_ALIASES:
                    raise YamlRefused(f"it refers to itself more than {MOST_ALIASES} times{_place(event)}")
            elif isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
                if event.value == "<<":  # doubles with every level
                    raise YamlRefused(f"it merges mappings{_place(event)}: write them out")
                if len(event.value) > LONGEST_PLAIN:
                    raise YamlRefused(f"it has a word of {len(event.value)} characters{_place(event)}")
    except (yaml.YAMLError, UnicodeError) as error:
        raise YamlRefused(_reason(error)) from error


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
