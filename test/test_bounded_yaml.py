"""YAML of strangers: nothing takes a stack, seconds or gigabytes, and what is ordinary is read."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from streaming_vla.bounded_yaml import DEEPEST, LARGEST_BYTES, MOST_ALIASES, YamlRefused, check, load
from streaming_vla.parameters.load import ParameterFileError, read_yaml

LAUGHS = "a0: &a0 [lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 200))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, f"nested more than {DEEPEST} levels deep"),
        ("{a: " * 100_000, f"nested more than {DEEPEST} levels deep"),
        ("- " * 100_000, f"nested more than {DEEPEST} levels deep"),
        ("".join(f"{' ' * n}a:\n" for n in range(1000)), f"nested more than {DEEPEST} levels deep"),
        (LAUGHS, f"refers to itself more than {MOST_ALIASES} times"),
        (MERGES, "merges mappings"),
        ("number: " + "9" * 1_000_00, "a word of 100000 characters"),
        ("number: 1" + ":1" * 50_000, "a word of 100001 characters"),
        ("a: 'x'\n" * (LARGEST_BYTES // 7 + 1), f"more than {LARGEST_BYTES} characters"),
        ("a: [1", r"did not find expected ',' or ']'|expected ',' or ']'"),
        ("]: not yaml", "did not find expected|expected"),
        ("a: \x01", "special characters are not allowed|control characters"),
        ("date: 2020-13-45", "month must be in 1..12"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("? [1, 2]\n: 3", "unhashable|found unhashable"),
        ("'\ud800'", "surrogates not allowed|special characters"),
    ],
)
def test_what_is_refused_is_refused_at_once(text: str, reason: str) -> None:
    begin_s = time.process_time()
    with pytest.raises(YamlRefused, match=reason) as refusal:
        load(text)
    assert time.process_time() - begin_s < 5.0
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["", "a: 1", "- [1, {b: 2}]", "a: &x [1]\nb: *x", "'quoted " + "x" * 5000 + "'", "|\n  " + "y" * 5000]
)
def test_what_is_ordinary_is_read(text: str) -> None:
    assert load(text) == yaml.safe_load(text)


@pytest.mark.parametrize("levels", [DEEPEST, DEEPEST + 1])
def test_the_deepest(levels: int) -> None:
    text = "[" * levels + "]" * levels
    if levels > DEEPEST:
        with pytest.raises(YamlRefused):
            check(text)
    else:
        check(text)


@pytest.mark.parametrize("text", ["[" * 100_000, LAUGHS, MERGES, "/**: {ros__parameters: {a: " + "9" * 100_000 + "}}"])
def test_parameter_files_are_looked_through_too(tmp_path: Path, text: str) -> None:
    (tmp_path / "robot.yaml").write_text(text)
    with pytest.raises(ParameterFileError, match=r"robot.yaml: this is not valid YAML: it "):
        read_yaml(tmp_path / "robot.yaml")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        load(text)
    except YamlRefused as error:
        assert "\n" not in str(error)
