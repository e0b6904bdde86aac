"""Parameters: every option is declared once, and every refusal says what is wrong."""

from __future__ import annotations

import array
import pickle
import re
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from streaming_vla.machines.executor_options import ExecutorOptions
from streaming_vla.options.option import Option, OptionError, Options, option
from streaming_vla.parameters.document import as_yaml, comment, render
from streaming_vla.parameters.load import ParameterFileError, origin, read, survey
from streaming_vla.parameters.nodes import AGREED, NODES, SECTIONS, SuiteOptions
from streaming_vla.parameters.sections import EVERY_NODE, KEY

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "streaming_vla.yaml"
EVERY_OPTION = [
    pytest.param(node, declared, id=f"{node}-{declared.name}")
    for node, kind in NODES.items()
    for declared in kind.declared.values()
]


class Some(Options):
    """Options of the tests."""

    hold_s: float = option(1.0, "Hold.", "s", ge=0.0, le=2.0)
    count: int = option(1, "Count.")
    low: tuple[float, ...] = option((1.0,), "Low.")
    name: str = option("a", "Name.")
    on: bool = option(False, "On.")
    mode: Literal["off", "always"] = option("always", "When to observe.")


def test_the_shipped_file_is_written_from_the_options() -> None:
    assert CONFIG.read_text(encoding="utf-8") == render(), "run: python -m streaming_vla.parameters.document"
    assert read(CONFIG) == SuiteOptions()


@pytest.mark.parametrize(("node", "declared"), EVERY_OPTION)
def test_the_file_has_a_line_of_every_option_with_the_machines_default(node: str, declared: Option) -> None:
    section = EVERY_NODE if declared.name in SECTIONS[EVERY_NODE].declared else f"/**/{node}"
    text = CONFIG.read_text(encoding="utf-8")
    written = yaml.safe_load(text)[section][KEY][declared.name]
    default = getattr(NODES[node](), declared.name)
    assert (tuple(written) if isinstance(written, list) else written) == default == declared.default
    assert f"    # {comment(declared)}\n    {declared.name}: {as_yaml(default)}\n" in text


@pytest.mark.parametrize(("node", "declared"), EVERY_OPTION)
def test_declared_whole(node: str, declared: Option) -> None:
    assert declared.description.endswith(".")
    if declared.name.endswith("_s"):
        assert declared.unit == "s"
    if declared.element_type in (int, float) and declared.live:
        assert declared.low is not None and declared.high is not None
    if declared.low is not None:
        value = declared.low - 1
        [reason] = NODES[node].refusals({declared.name: [value] if declared.is_list else value})
        assert declared.name in reason and declared.allowed in reason


def test_an_option_is_declared_in_one_place() -> None:
    """Where two nodes have options of one name, it is one declaration, or they mean something else."""
    found = [
        (path.name, name)
        for path in sorted((ROOT / "src").rglob("*.py"))
        for name in re.findall(r"^    (\w+): [^\n]+ = (?:option|realtime_priority)\(", path.read_text(), re.M)
    ]
    assert len(found) == len(set(found))
    twice = {name for place, (_, name) in enumerate(found) for _, other in found[:place] if name == other}
    # own defaults; pictures of the policy, and of the simulation; JPEG for the policy, and in place of raw in a bag
    assert twice == {"realtime_priority", "image_size", "jpeg_quality"}
    assert {name for _, name in found} == {name for kind in NODES.values() for name in kind.declared}


def test_the_default_of_an_option_stands_nowhere_else() -> None:
    """No other field or argument of an option's name has a default of its own, but in what a checkpoint says."""
    names = {name for kind in NODES.values() for name in kind.declared}
    # of a checkpoint, of a training, of a report
    own = {"config.py", "plan.py", "gate_plan.py", "saliency_plan.py", "shape.py"}
    # of a scene, of strategies, and what a policy, a data set or the executor says of itself
    given = {
        "dry_run",
        "image_fit",
        "robot",
        "seed",
        "task",
        "model",
        "saliency_model",
        "mode",
        "overrun",
        "trained_delay",
        "action_absolute",
        "action_names",
    }
    pattern = re.compile(rf"^\s+({'|'.join(sorted(names - given))}): [^\n=]+ = [-\d(\"TF].*$", re.M)
    found = {
        f"{path.name}: {match[0].strip()}"
        for path in sorted((ROOT / "src").rglob("*.py"))
        if path.name not in own and path.relative_to(ROOT / "src").parts[0] != "kv_cache"
        for match in pattern.finditer(path.read_text())
    }
    assert not found


def test_what_must_agree_is_read_at_start_only() -> None:
    for kind in NODES.values():
        assert not [name for name in AGREED if name in kind.declared and kind.declared[name].live]


@pytest.mark.parametrize("value", ["1", True, float("nan"), float("inf"), -0.1, [1.0], None])
def test_wrong_numbers_are_refused(value: object) -> None:
    with pytest.raises(OptionError) as error:
        Some(hold_s=value)  # type: ignore[arg-type]
    assert str(error.value) == f"parameter 'hold_s' is {value!r}, expected a number from 0 to 2 (s)"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"count": 1.5}, "parameter 'count' is 1.5, expected a whole number"),
        ({"count": True}, "parameter 'count' is True, expected a whole number"),
        ({"on": 1}, "parameter 'on' is 1, expected true or false"),
        ({"name": False}, "parameter 'name' is False, expected text"),
        ({"low": []}, "parameter 'low' is [], expected a list, each a number"),
        ({"low": [1.0, "b"]}, "parameter 'low' is [1.0, 'b'], expected a list, each a number"),
        ({"low": 1.0}, "parameter 'low' is 1.0, expected a list, each a number"),
        ({"mode": "never"}, "parameter 'mode' is 'never', expected one of off, always"),
        ({"mode": True}, "parameter 'mode' is True, expected one of off, always"),
        ({"hold": 1.0}, "there is no parameter 'hold' (did you mean 'hold_s'?); parameters are count, hold_s, low, "
         "mode, name, on"),
        ({"count": "a", "on": "b"}, "parameter 'count' is 'a', expected a whole number; parameter 'on' is 'b', "
         "expected true or false"),
    ],
)  # fmt: skip
def test_a_refusal_is_a_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError) as error:
        Some(**values)
    assert str(error.value) == sentence == "; ".join(Some.refusals(values))


def test_whole_numbers_become_floats_and_lists_tuples() -> None:
    taken = Some(hold_s=2, low=[1, 2])  # type: ignore[arg-type]
    assert (taken.hold_s, taken.low) == (2.0, (1.0, 2.0)) and isinstance(taken.hold_s, float)
    assert Some().changed(low=array.array("d", [0.5])).low == (0.5,)


def test_off_that_yaml_reads_as_false_is_off() -> None:
    assert Some().changed(mode=False).mode == "off"


def test_options_are_values() -> None:
    options = Some(hold_s=0.5)
    assert options == Some(hold_s=0.5) != Some() and hash(options) == hash(Some(hold_s=0.5))
    assert pickle.loads(pickle.dumps(options)) == options.changed()
    with pytest.raises(ValueError, match="frozen"):
        options.hold_s = 1.0  # type: ignore[misc]


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
        (
            "executor:\n  ros__parameters: {velocity_limit: [0.5, 1]}",
            "of several kinds, .* write every number with a point",
        ),
        ("a: &b 1\nexecutor: *b", r"line 2, column 11: '\*b' is an alias, which ROS does not take"),
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


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text(
        "/**/executor: {ros__parameters: {hold: 1.0, decelerate_s: -1, scale: [1, 2.0], hold_s: 5e-1}}\n"
        "/**/generator: {ros__parameters: {control_period_s: 0.1}}\n/**/observr: {ros__parameters: {a: 1}}",
        encoding="utf-8",
    )
    options, problems = survey(path)
    assert options.executor.hold_s == 0.5 and len(problems) == 5
    with pytest.raises(ParameterFileError) as error:
        read(path)
    assert str(error.value).splitlines() == problems
    for sentence in (
        "'hold'",
        "'decelerate_s' is -1",
        "'scale' is [1, 2.0]",
        "it must be the same",
        "'/**/observr'",
    ):
        assert sum(sentence in problem for problem in problems) == 1


@pytest.mark.parametrize(
    "text",
    [
        "/**: {ros__parameters: {action_names: [a, b], action_absolute: [true, true], action_low: [0.0, 0.0], "
        "action_high: [1.0, 1.0], action_initial: [0.0, 0.0]}}",  # the executor's scale is of four
        "/**: {ros__parameters: {control_period_s: 0.1}}\n"
        "/**/executor: {ros__parameters: {hold_s: 1.0, decelerate_s: 0.2, stop_s: 0.1, scale: [1.0]}}",
        "/**: {ros__parameters: {control_period_s: 0.1}}\n/**/generator: {ros__parameters: {control_period_s: -1.0}}",
    ],
)
def test_what_follows_from_a_refused_value_alone_is_not_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text(text, encoding="utf-8")
    _, problems = survey(path)
    assert problems and not [problem for problem in problems if "it must be the same" in problem]


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ParameterFileError, match="cannot be read: No such file"):
        read(tmp_path / "none.yaml")


def test_ros_own_parameters_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text("/robot_1/executor:\n  ros__parameters:\n    use_sim_time: true\n    hold_s: 3\n", encoding="utf-8")
    assert read(path, "robot_1") == SuiteOptions().changed("executor", {"hold_s": 3.0})


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
    assert read(path, namespace).executor.hold_s == hold_s


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
    found = {name: read(path, name).executor for name in ("left", "right", "middle")}
    assert {name: options.hold_s for name, options in found.items()} == {"left": 0.75, "right": 1.0, "middle": 0.5}
    assert {options.control_period_s for options in found.values()} == {0.25}


def test_namespaces_may_be_nested_as_ros_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text("cell:\n  arm:\n    executor:\n      ros__parameters: {hold_s: 3.0}\n", encoding="utf-8")
    assert read(path, "cell/arm") == SuiteOptions().changed("executor", {"hold_s": 3.0})


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


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "executor: {ros__parameters: {start_actions: 3}}",
            "section 'executor': start_actions is 3, but the generator sends only 1",
        ),
        ("observer: {ros__parameters: {cameras: [a]}}", "section 'observer': camera_topics has 2 topics, expected one"),
        ("/**: {ros__parameters: {action_low: [0.0]}}", "section '/**': action_low has 1 values"),
        (
            "generator: {ros__parameters: {lead_actions: 2}}",
            "lead_actions is 2 for generator, 0 for executor, 0 for saliency_monitor: it must be the same, set it once",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_in_the_file(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParameterFileError, match=re.escape(f"{path}: {sentence}")):
        read(path)


def test_the_place_that_counts_is_the_last_one(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(parameters("/**/executor", "/left/executor"), encoding="utf-8")
    second.write_text("/**: {ros__parameters: {lead_actions: 2}}", encoding="utf-8")
    files = [first, second]
    assert origin(files, "/left/executor", ["hold_s"]) == f"{first}: section '/left/executor'"
    assert origin(files, "/right/executor", ["hold_s", "scale"]) == f"{first}: section '/**/executor'"
    assert origin(files, "/right/executor", ["hold_s", "lead_actions"]) == f"{second}: section '/**'"
    assert origin(files, "/right/executor", ["scale"]) == ""


def test_a_long_value_and_a_long_name_are_cut_in_a_refusal() -> None:
    with pytest.raises(OptionError) as long_value:
        ExecutorOptions(velocity_limit=[0.0] * 200_000)
    with pytest.raises(OptionError) as long_name:
        ExecutorOptions(**{"\x1b[31m" + "a" * 100_000: 1.0})
    assert len(str(long_value.value)) < 500
    assert len(str(long_name.value)) < 1000 and "\x1b" not in str(long_name.value)
