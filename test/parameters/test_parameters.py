"""Parameters: the tables agree with the YAML file, and every refusal says what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from streaming_vla.parameters.shared import SHARED
from streaming_vla.parameters.spec import Parameter, check, convert
from streaming_vla.parameters.tables import NODES, table
from streaming_vla.workbench.machine_options import all_values

from streaming_vla.parameters.document import render
from streaming_vla.parameters.load import ParameterFileError, read
from streaming_vla.parameters.sections import EVERY_NODE

CONFIG = Path(__file__).parents[2] / "config" / "streaming_vla.yaml"
EVERY_PARAMETER = [
    pytest.param(parameter, id=f"{node}-{parameter.name}") for node, entries in NODES.items() for parameter in entries
]


def test_the_shipped_file_is_written_from_the_tables() -> None:
    assert CONFIG.read_text(encoding="utf-8") == render(), "run: python -m streaming_vla.parameters.document"


def test_the_shipped_file_holds_every_default() -> None:
    sections = read(CONFIG)
    for node, parameters in NODES.items():
        merged = {**sections[EVERY_NODE], **sections[node]}
        for parameter in parameters:
            assert merged[parameter.name] == parameter.default


@pytest.mark.parametrize("parameter", EVERY_PARAMETER)
def test_declared_whole(parameter: Parameter) -> None:
    assert parameter.description.endswith(".")
    if parameter.name.endswith("_s"):
        assert parameter.unit == "s"
    if parameter.element_type in (int, float) and parameter.live:
        assert parameter.low is not None and parameter.high is not None
    if parameter.low is not None:
        value = parameter.low - 1
        reason = check(parameter, [value] if parameter.is_list else value)
        assert reason is not None and parameter.name in reason and parameter.allowed in reason


def test_one_name_means_the_same_in_every_table() -> None:
    shared = {parameter.name: parameter for parameter in SHARED}
    for node in NODES:
        names = [parameter.name for parameter in NODES[node]]
        assert len(names) == len(set(names))
        for name, parameter in table(node).items():
            assert shared.get(name, parameter) is parameter


@pytest.mark.parametrize("value", ["1", True, float("nan"), float("inf"), -0.1, [1.0], None])
def test_wrong_numbers_are_refused(value: object) -> None:
    reason = check(Parameter("hold_s", 1.0, "Hold.", "s", low=0.0, high=2.0), value)
    assert reason == f"parameter 'hold_s' is {value!r}, expected a number from 0 to 2 (s)"


def test_whole_numbers_become_floats() -> None:
    assert convert(Parameter("hold_s", 1.0, "Hold."), 2) == 2.0
    assert convert(Parameter("low", (1.0,), "Low."), [1, 2]) == (1.0, 2.0)
    with pytest.raises(ValueError, match="whole number"):
        convert(Parameter("count", 1, "Count."), 1.5)


def test_empty_list_is_refused() -> None:
    assert check(Parameter("names", ("a",), "Names."), []) is not None
    with pytest.raises(ValueError, match="empty list"):
        Parameter("names", (), "Names.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "/**/observr:\n  ros__parameters: {image_size: 96}",
            r"no node is called '/\*\*/observr' \(did you mean 'observer'",
        ),
        ("observer:\n  ros__parameters: {image_siz: 96}", r"no parameter 'image_siz' \(did you mean 'image_size'"),
        ("observer:\n  ros__parameters: {image_size: big}", "'image_size' is 'big', expected a whole number"),
        ("executor:\n  ros__parameters: {hold_s: -1}", "'hold_s' is -1, expected a number from 0 to 600"),
        ("executor:\n  ros__parameters: {command_type: servo}", "expected one of array, twist, trajectory, joints"),
        ("executor:\n  hold_s: 1", "section 'executor' needs 'ros__parameters:'"),
        ("/**:\n  ros__parameters: {hold_s: 1}", "section '/\\*\\*': there is no parameter 'hold_s'"),
        ("a: [", "not valid YAML: line 1, column 5: expected the node content"),
        (
            "executor:\n  ros__parameters: {hold_s: 1}\nexecutor:\n  ros__parameters: {}",
            "line 3, .* key 'executor' stands",
        ),
        ("executor:\n  ros__parameters: {hold_s: 1, hold_s: 2}", "line 2, column 32: key 'hold_s' stands twice"),
        ("[a, b]: 1", "not valid YAML: line 1, column 1: found unhashable key"),
        ("just text", "expected sections"),
    ],
)
def test_a_bad_file_says_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParameterFileError, match=message) as error:
        read(path)
    assert re.match(re.escape(str(path)), str(error.value))
    assert "\n" not in str(error.value)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ParameterFileError, match="cannot be read: No such file"):
        read(tmp_path / "none.yaml")


def test_ros_own_parameters_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text("/robot_1/executor:\n  ros__parameters:\n    use_sim_time: true\n    hold_s: 3\n", encoding="utf-8")
    assert read(path, "robot_1") == {"executor": {"hold_s": 3.0}}


def parameters(*sections: str) -> str:
    """Return a file in which each section sets hold_s of an executor, or what every node knows, to another value."""
    known = ["hold_s" if section.endswith("executor") else "control_period_s" for section in sections]
    return "".join(
        f"{section}: {{ros__parameters: {{{key}: {0.25 * (place + 1)}}}}}\n"
        for place, (section, key) in enumerate(zip(sections, known, strict=True))
    )


@pytest.mark.parametrize(
    ("sections", "namespace", "hold_s"),
    [
        (("executor",), "/", 0.25),
        (("/**", "/**/executor"), "arm", 0.5),
        (("/**/executor", "/arm/executor"), "/arm/", 0.5),
        (("/**/executor", "/left/executor", "/right/executor"), "left", 0.5),
        (("/*/executor",), "left", 0.25),
        (("/left/executor", "/**/right/executor"), "a/right", 0.5),
        (("/left/executor", "/right/generator", "/right/**"), "left", 0.25),
    ],
)
def test_sections_are_those_that_ros_gives_to_the_nodes(
    sections: tuple[str, ...], namespace: str, hold_s: float, tmp_path: Path
) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text(parameters(*sections), encoding="utf-8")
    assert read(path, namespace)["executor"] == {"hold_s": hold_s}


def test_what_is_not_a_mapping_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "robot.yaml"
    for text in ("executor: {ros__parameters: [hold_s: 3.0]}", "executor: {ros__parameters: 5}", "executor: {}",
                 "arm: {executor: {ros__parameters: {hold_s: 3.0}}, other: 1}", "executor:"):  # fmt: skip
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ParameterFileError, match="needs 'ros__parameters:' with the parameters below it"):
            read(path)


def test_values_of_a_robot_are_those_of_its_sections(tmp_path: Path) -> None:
    path = tmp_path / "robots.yaml"
    path.write_text(parameters("/**", "/**/executor", "/left/executor", "/right/executor"), encoding="utf-8")
    found = {name: all_values(path, name)["executor"] for name in ("left", "right", "middle")}
    assert {name: values["hold_s"] for name, values in found.items()} == {"left": 0.75, "right": 1.0, "middle": 0.5}
    assert {values["control_period_s"] for values in found.values()} == {0.25}


def test_namespaces_may_be_nested_as_ros_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text("cell:\n  arm:\n    executor:\n      ros__parameters: {hold_s: 3.0}\n", encoding="utf-8")
    assert read(path, "cell/arm") == {"executor": {"hold_s": 3.0}}


@pytest.mark.parametrize(
    ("sections", "namespace", "sentence"),
    [
        (("executor",), "arm", r"'executor' is for no node of namespace '/arm': write '/\*\*/executor', or give"),
        (("/left/executor",), "/", "'/left/executor' is for no node of namespace '/'"),
        (("/*/executor",), "a/b", "is for no node of namespace '/a/b'"),
        (("/arm/executor", "/**"), "arm", r"'/\*\*' stands behind '/arm/executor', and ROS lets the later one win"),
        (("/arm/executor", "/**/executor"), "arm", r"'/\*\*/executor' stands behind '/arm/executor'"),
    ],
)
def test_a_section_that_is_for_nobody_or_wins_by_its_place_is_refused(
    sections: tuple[str, ...], namespace: str, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text(parameters(*sections), encoding="utf-8")
    with pytest.raises(ParameterFileError, match=sentence):
        read(path, namespace)


def test_off_that_yaml_reads_as_false_is_off() -> None:
    mode = Parameter("mode", "always", "When to observe.", choices=("off", "always"))
    assert convert(mode, False) == "off" and check(mode, False) is None
    assert check(mode, True) is not None
    assert check(Parameter("name", "a", "A text."), False) is not None
