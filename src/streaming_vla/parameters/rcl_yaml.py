"""YAML as rcl reads a parameter file: which text is a number or a truth value, and what it refuses.

PyYAML alone follows YAML 1.1, where `5e-1` is text, `1_000` a number and `~` nothing; in rcl it is the other way round.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Hashable
from typing import Any

import yaml

TRUE = {"y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"}
FALSE = {"n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"}
WHOLE = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")  # as strtol has it, of any base
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")  # as strtod has it
HEXADECIMAL = re.compile(r"[+-]?0[xX]([0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)([pP][+-]?[0-9]+)?")
NO_NUMBER = re.compile(r"[+-]?\.?(nan|inf)|[+-]?infinity", re.IGNORECASE)
QUOTED = ("'", '"')
LONGEST_DIGITS = 4000  # of a whole number, so that a long text is not computed
LOWEST, HIGHEST = -(2**63), 2**63 - 1
TEXT = "tag:yaml.org,2002:str"


def scalar(text: str) -> bool | int | float | str:
    """Return what rcl makes of a text that is not quoted."""
    if text in TRUE or text in FALSE:
        return text in TRUE
    if len(text) > LONGEST_DIGITS:
        return text
    if WHOLE.fullmatch(text):
        digits = text.lstrip("+-")
        base = 16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" else 10
        whole = int(digits, base) * (-1 if text[0] == "-" else 1)
        if LOWEST <= whole <= HIGHEST:
            return whole
    if NO_NUMBER.fullmatch(text):
        return float(text.replace(".", ""))
    try:
        number = (
            float.fromhex(text) if HEXADECIMAL.fullmatch(text) else float(text) if DECIMAL.fullmatch(text) else None
        )
    except OverflowError:
        return text
    if number is None:
        return text
    # what is too large or too small for a number is text
    lost = abs(number) < sys.float_info.min and re.search("[1-9a-fA-F]", re.split("[eEpP]", text)[0]) is not None
    return text if math.isinf(number) or lost else number


class Loader(yaml.SafeLoader):
    """Makes plain values only; refuses what rcl does, and a key that stands twice: the first would be lost."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # type: ignore[no-untyped-call]
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem=f"'*{event.anchor}' is an alias, which ROS does not take: write the value again",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)  # type: ignore[no-any-return,no-untyped-call]

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep)  # type: ignore[no-untyped-call]
        if not node.value and node.style not in QUOTED:
            return None  # which no option takes, as rcl takes no missing value
        if node.style in QUOTED or (node.tag == TEXT and node.style is None and self._is_tagged(node)):
            return node.value
        return scalar(node.value)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        found: dict[Hashable, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="found unhashable key", problem_mark=key.start_mark)
            if key.value in found:
                raise yaml.MarkedYAMLError(problem=f"key '{key.value}' stands twice", problem_mark=key.start_mark)
            found[key.value] = self.construct_object(value, deep=deep)
        return found

    def construct_sequence(self, node: yaml.SequenceNode, deep: bool = False) -> list[Any]:
        found: list[Any] = super().construct_sequence(node, deep)  # type: ignore[no-untyped-call]
        return Mixed(found) if len({type(each) for each in found}) > 1 else found

    def _is_tagged(self, node: yaml.ScalarNode) -> bool:
        """True where `!!str` stands in front of a text that would else be something else."""
        return bool(self.resolve(yaml.ScalarNode, node.value, (True, False)) != TEXT)  # type: ignore[no-untyped-call]


Loader.add_constructor("tag:yaml.org,2002:seq", Loader.construct_sequence)


class Mixed(list[Any]):
    """A list whose entries are of several kinds: rcl refuses the whole file for it."""

    @property
    def refusal(self) -> str:
        """The end of the sentence that refuses it."""
        numbers = all(type(each) in (int, float) for each in self)
        fix = "write every number with a point" if numbers else "write all of them alike"
        return f"is {list(self)}, a list of several kinds, for which ROS refuses the file: {fix}"
