"""Reads a ROS parameter file and checks every section, key and value of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from streaming_vla import bounded_yaml
from streaming_vla.options.option import OptionError, suggest
from streaming_vla.parameters import rcl_yaml
from streaming_vla.parameters.nodes import NODES, SECTIONS, SuiteOptions
from streaming_vla.parameters.sections import EVERY_NODE, KEY, full_namespace, is_for, last_name, qualified, rank

ROS_PREFIXES = ("use_sim_time", "qos_overrides", "start_type_description_service")  # rclpy's own parameters


class ParameterFileError(ValueError):
    """The parameter file cannot be used; the message has one line per problem."""


def read_yaml(path: Path) -> Any:
    """Return what the YAML file `path` holds.

    Raises:
        ParameterFileError: unreadable, not YAML, or a key that stands twice.
    """
    try:
        text = bounded_yaml.read(path)
        try:
            bounded_yaml.check(text)
        except bounded_yaml.YamlRefused as error:
            if not isinstance(error.__cause__, yaml.YAMLError):  # which the loader tells in its own words
                raise
        return yaml.load(text, Loader=rcl_yaml.Loader)  # a SafeLoader: it makes plain values only
    except OSError as error:
        raise ParameterFileError(f"{path}: the parameter file cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ParameterFileError(f"{path}: this is not valid YAML: {place}{error.problem}") from error
    except (yaml.YAMLError, ValueError, TypeError) as error:  # characters, or a value that is none
        raise ParameterFileError(f"{path}: this is not valid YAML: {' '.join(str(error).split())}") from error


def read(path: Path | None, namespace: str = "/") -> SuiteOptions:
    """Return the options of every node: those of the file, else the defaults; of all defaults without a file.

    Args:
        path: of the file.
        namespace: of the robot, whose nodes get what is for them; it may have sections for other robots too.

    Raises:
        ParameterFileError: unreadable, not YAML, an unknown section or key, a refused value, a section that none of the
            robot's nodes gets, one that ROS would let win over a closer one, or values that do not fit together.
    """
    if path is None:
        return SuiteOptions()
    options, problems = survey(path, namespace)
    if problems:
        raise ParameterFileError("\n".join(problems))
    return options


def survey(path: Path, namespace: str = "/") -> tuple[SuiteOptions, list[str]]:
    """Return the options as far as they can be used, and a line for everything that `read` would refuse.

    What is refused has its default: more can be said of the rest.

    Raises:
        ParameterFileError: unreadable, or not YAML.
    """
    closest: dict[str, str] = {}  # section by node
    met: set[str] = set()  # what sections that a node gets are for
    missed: dict[str, str] = {}
    problems: list[str] = []
    given: dict[str, dict[str, Any]] = {node: {} for node in NODES}
    unread: dict[str, set[str]] = {node: set() for node in NODES}  # names whose values were refused
    for section, entries in _sections(read_yaml(path), path):
        name = last_name(section)
        if name not in SECTIONS:
            problems.append(
                f"{path}: no node is called '{section}'{suggest(name, NODES)}; nodes are {', '.join(NODES)}"
            )
            continue
        reached = [
            node for node in (NODES if name == EVERY_NODE else (name,)) if is_for(section, qualified(namespace, node))
        ]
        if reached:
            met.add(name)
        else:
            missed.setdefault(name, section)
        behind = next((node for node in reached if rank(section) < rank(closest.get(node, EVERY_NODE))), None)
        if behind is not None:
            problems.append(
                f"{path}: section '{section}' stands behind '{closest[behind]}', and ROS lets the later one win: put "
                f"'{section}' first"
            )
        closest.update(dict.fromkeys(reached, section))
        values, refused = _checked(name, entries)
        problems += [f"{path}: section '{section}': {reason}" for reason in refused]
        for node in reached:
            given[node] |= {key: value for key, value in values.items() if key in NODES[node].declared}
            unread[node] |= entries.keys() - values.keys()
    names_robot = any(rank(section) == 2 for section in closest.values())  # then the others may be other robots'
    for name, section in missed.items():
        if name not in met and not names_robot:
            wide = EVERY_NODE if name == EVERY_NODE else f"/**/{name}"
            problems.append(
                f"{path}: section '{section}' is for no node of namespace '{full_namespace(namespace)}': "
                f"write '{wide}', or give the robot's namespace"
            )
    options = SuiteOptions()
    for node, values in given.items():
        try:
            options = options.changed(node, values)
        except OptionError as error:
            problems.append(f"{path}: section '{closest[node]}': {error}")
            unread[node] |= values.keys()
    try:
        options.check_agreement(unread)
    except ValueError as error:
        problems.append(f"{path}: {error}")
    return options, list(dict.fromkeys(problems))  # of "/**" several nodes may say the same


def _checked(section: str, entries: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the values of a section that are allowed, each by itself, and why the others are not."""
    kind = SECTIONS[section]
    values = {key: value for key, value in entries.items() if not key.startswith(ROS_PREFIXES)}
    mixed = {key: value for key, value in values.items() if isinstance(value, rcl_yaml.Mixed)}
    refused = [f"parameter '{key}' {value.refusal}" for key, value in mixed.items()]
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if key in mixed:
            continue
        if reasons := kind.refusals({key: value}):
            refused += reasons
        else:
            kept[key] = value
    return kept, refused


def origin(files: Iterable[Path], node: str, names: Iterable[str]) -> str:
    """Return where parameters of a node are set, "robot.yaml: section '/**/executor'"; the last place, as ROS has it.

    Args:
        files: that the node was started with, in order; each can be read.
        node: its fully qualified name.
        names: of the parameters; one that is set is enough.

    Returns:
        empty when no file sets one of them.
    """
    places = [
        f"{path}: section '{section}'"
        for path in files
        for section, entries in _sections(read_yaml(path), path)
        if is_for(section, node) and entries.keys() & set(names)
    ]
    return places[-1] if places else ""


def _sections(document: object, path: Path, above: str = "") -> Iterator[tuple[str, dict[str, object]]]:
    """Yield each section's name and {key: value}, nested keys joined by dots and namespaces by "/", as ROS does."""
    if not isinstance(document, dict):
        raise ParameterFileError(f"{path}: expected sections such as '/**/observer:' at the top level")
    for section, body in document.items():
        name = f"{above}/{str(section).strip('/')}" if above else str(section)
        if not isinstance(body, dict) or not body or not all(isinstance(each, dict) for each in body.values()):
            raise ParameterFileError(f"{path}: section '{name}' needs '{KEY}:' with the parameters below it")
        if KEY in body:
            yield name, _flatten(body[KEY])
        if below := {key: value for key, value in body.items() if key != KEY}:
            yield from _sections(below, path, name)


def _flatten(entries: dict[object, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in entries.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
