"""Reads a ROS parameter file and checks every section, key and value of it."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml

from streaming_vla.parameters.shared import SHARED
from streaming_vla.parameters.spec import Parameter, Value, check, convert
from streaming_vla.parameters.tables import NODES, table

EVERY_NODE = "/**"
KEY = "ros__parameters"
ROS_PREFIXES = ("use_sim_time", "qos_overrides", "start_type_description_service")  # rclpy's own parameters


class ParameterFileError(ValueError):
    """The parameter file cannot be used; the message has one line per problem."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: of two sections of one name the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key '{key.value}' stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Return what the YAML file `path` holds.

    Raises:
        ParameterFileError: unreadable, not YAML, or a key that stands twice.
    """
    try:
        # _Loader is a SafeLoader: it makes plain values only
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ParameterFileError(f"{path}: the parameter file cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ParameterFileError(f"{path}: this is not valid YAML: {place}{error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterFileError(f"{path}: this is not valid YAML: {' '.join(str(error).split())}") from error


def read(path: Path) -> dict[str, dict[str, Value]]:
    """Return the values of the file, {node: {parameter: value}}; key "/**" holds those for every node.

    Raises:
        ParameterFileError: unreadable, not YAML, an unknown section or key, or a refused value.
    """
    sections: dict[str, dict[str, Value]] = {}
    problems: list[str] = []
    for section, entries in _sections(path).items():
        name = EVERY_NODE if section == EVERY_NODE else str(section).rsplit("/", 1)[-1]
        if name != EVERY_NODE and name not in NODES:
            problems.append(
                f"{path}: no node is called '{section}'{suggest(name, NODES)}; nodes are {', '.join(NODES)}"
            )
            continue
        known = _shared() if name == EVERY_NODE else table(name)
        values = sections.setdefault(name, {})
        for key, value in entries.items():
            reason = unknown(key, known) if key not in known else check(known[key], value)
            if reason is None:
                values[key] = convert(known[key], value)
            elif not key.startswith(ROS_PREFIXES):
                problems.append(f"{path}: section '{section}': {reason}")
    if problems:
        raise ParameterFileError("\n".join(problems))
    return sections


def unknown(key: str, known: Iterable[str]) -> str:
    """Return the sentence that refuses the parameter `key`, which is not one of `known`."""
    names = sorted(known)
    return f"there is no parameter '{key}'{suggest(key, names)}; parameters are {', '.join(names)}"


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ", did you mean '...'?" when a name of `known` is close to `name`, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _shared() -> dict[str, Parameter]:
    return {parameter.name: parameter for parameter in SHARED}


def _sections(path: Path) -> dict[str, dict[str, object]]:
    """Return {section: {key: value}} with nested keys joined by dots, as ROS does."""
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise ParameterFileError(f"{path}: expected sections such as '/**/observer:' at the top level")
    sections: dict[str, dict[str, object]] = {}
    for section, body in document.items():
        entries = body.get(KEY) if isinstance(body, dict) else None
        if not isinstance(entries, dict):
            raise ParameterFileError(f"{path}: section '{section}' needs '{KEY}:' with the parameters below it")
        sections[str(section)] = _flatten(entries)
    return sections


def _flatten(entries: dict[object, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in entries.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
