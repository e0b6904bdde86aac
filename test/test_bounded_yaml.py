"""YAML of strangers: nothing takes a stack, seconds or gigabytes, and what is ordinary is read."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from streaming_vla.bounded_yaml import DEEPEST, LARGEST_BYTES, YamlRefused, check, load
from streaming_vla.engine.latency_profile import load_profile
from streaming_vla.parameters.load import ParameterFileError, read_yaml
from streaming_vla.training.plan import load_plan


def laughs(levels: int, width: int = 9) -> str:
    """Return lists, each of as many of the one before."""
    return "a0: &a0 [lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]\n" for n in range(1, levels))


LAUGHS = laughs(200)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, f"nested more than {DEEPEST} levels deep"),
        ("{a: " * 100_000, f"nested more than {DEEPEST} levels deep"),
        ("- " * 100_000, f"nested more than {DEEPEST} levels deep"),
        ("".join(f"{' ' * n}a:\n" for n in range(1000)), f"nested more than {DEEPEST} levels deep"),
        (LAUGHS, f"more than {LARGEST_BYTES} characters with what it refers to"),
        (laughs(9), f"more than {LARGEST_BYTES} characters with what it refers to"),
        (laughs(200, 1), f"nested more than {DEEPEST} levels deep"),
        ("x: &x '" + "y" * 100_000 + "'\n" + "z: [" + "*x, " * 20 + "]", "characters with what it refers to"),
        ("a: &a [*a]", "it holds itself"),
        ("a: &a {b: {c: [*a]}}", "it holds itself"),
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
    "text",
    [
        "",
        "a: 1",
        "- [1, {b: 2}]",
        "a: &x [1]\nb: *x",
        "a: &x 1\nb: {c: [*x, *x]}",
        "'quoted " + "x" * 5000 + "'",
        "|\n  " + "y" * 5000,
    ],
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


@pytest.mark.parametrize(
    "text", ["[" * 100_000, LAUGHS, laughs(9), MERGES, "/**: {ros__parameters: {a: " + "9" * 100_000 + "}}"]
)
def test_parameter_files_are_looked_through_too(tmp_path: Path, text: str) -> None:
    (tmp_path / "robot.yaml").write_text(text)
    with pytest.raises(ParameterFileError, match=r"robot.yaml: this is not valid YAML: it "):
        read_yaml(tmp_path / "robot.yaml")


@pytest.mark.parametrize("reader", [read_yaml, load_profile, load_plan])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "nested more than"),
        (laughs(9).encode(), "characters with what it refers to"),
        (b"a: &a [*a]", "it holds itself"),
        (b"a: " + b"b" * LARGEST_BYTES, f"it has more than {LARGEST_BYTES} bytes"),
        ("ä".encode() * (LARGEST_BYTES // 2 + 1), f"it has more than {LARGEST_BYTES} bytes"),
        (b"a: \xff\xfe", "can't decode byte 0xff"),
        (None, f"it has more than {LARGEST_BYTES} bytes"),
    ],
)
def test_no_file_is_read_without_bounds(
    tmp_path: Path, reader: Callable[[Path], object], content: bytes | None, reason: str
) -> None:
    path = tmp_path / "a.yaml" if content is not None else Path("/dev/zero")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=reason) as refusal:
        reader(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        load(text)
    except YamlRefused as error:
        assert "\n" not in str(error)
