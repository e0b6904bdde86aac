"""Parameter files are read as rcl reads them: every answer is compared with its own."""

from __future__ import annotations

import math
import uuid
from pathlib import Path
from typing import Any

import pytest

from streaming_vla.parameters.load import ParameterFileError, read_yaml
from streaming_vla.parameters.rcl_yaml import Mixed

TEXTS = """
    5e-1 1e5 -1E+3 .5 1. +.5e2 1_000 010 08 0x10 -0X1f 0o10 +1 -0 0 1e400 1e-400 9223372036854775807 9223372036854775808
    99999999999999999999 0x1p3 0x.8 y n Y N yes No on OFF true TRUE tRUE ~ null Null = 2026-01-01 1:30 .inf -.inf +.inf
    .nan .NaN nan inf Infinity abc 1.5abc - -- + . 1e e5 '1' "true" '' !!str &a <<
"""
MORE = ["1 2", "a: b", "!!str 1", "!!str yes", "!!str abc", "!!float 1", "|-\n      5", "", "[", "*a"]
LISTS = ["[1, 2]", "[1.0, 5e-1]", "[0.5, 1]", "[y, true]", "[true, 1]", "[a, 'b']", "[a, 1]", "['1', 1]", "[1, ~]",
         "[1e5, 2.0]", "[[1], [2]]"]  # fmt: skip


def written(folder: Path, text: str) -> Path:
    path = folder / f"{uuid.uuid4().hex}.yaml"
    path.write_text(f"/**:\n  ros__parameters:\n    a: {text}\n", encoding="utf-8")
    return path


def of_rcl(path: Path) -> Any:
    """Return what rcl makes of parameter a; None where it refuses the file."""
    import rclpy

    context = rclpy.Context()
    try:
        rclpy.init(args=["test", "--ros-args", "--params-file", str(path)], context=context)
        node = rclpy.create_node("test", context=context, start_parameter_services=False, enable_rosout=False)
    except Exception:
        return None
    else:
        value = node._parameter_overrides["a"].value
        node.destroy_node()
        return list(value) if hasattr(value, "__len__") and not isinstance(value, str) else value
    finally:
        rclpy.try_shutdown(context=context)


def of_ours(path: Path) -> Any:
    """Return what the suite makes of it; None where it refuses the file."""
    try:
        value = read_yaml(path)["/**"]["ros__parameters"]["a"]
    except ParameterFileError:
        return None
    nested = isinstance(value, list) and any(isinstance(each, list) for each in value)
    return None if isinstance(value, Mixed) or nested else value


@pytest.mark.ros
@pytest.mark.parametrize("text", [*TEXTS.split(), *MORE, *LISTS])
def test_a_value_is_what_rcl_makes_of_it(text: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    theirs, ours = of_rcl(path), of_ours(path)
    if isinstance(theirs, float) and math.isnan(theirs):
        assert isinstance(ours, float) and math.isnan(ours)
    elif isinstance(ours, dict):  # nested parameters: a.b
        assert theirs is None
    else:
        assert ours == theirs and type(ours) is type(theirs)
