"""The launch files are valid for the real `launch` and `launch_ros`, where these are installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from streaming_vla.bringup import graph
from streaming_vla.parameters.load import ParameterFileError
from streaming_vla.ros.exit_codes import CONFIG_ERROR
from streaming_vla.ros.reach import CHOICES

REASON = "`launch` and `launch_ros` come with a ROS installation (ros-jazzy-launch-ros or newer), not from PyPI"
launch = pytest.importorskip("launch", reason=REASON)
launch_ros = pytest.importorskip("launch_ros", reason=REASON)
if not hasattr(launch, "LaunchDescription"):
    pytest.skip(f"the installed `launch` is another project; {REASON}", allow_module_level=True)

from streaming_vla.bringup.launching import RESPAWN_LIMIT, _stay_down_when_misconfigured  # noqa: E402 (needs launch)

FOLDER = Path(__file__).parents[2] / "launch"
FILES = {"streaming_vla.launch.py": False, "demo.launch.py": True}


def load(name: str) -> launch.LaunchDescription:
    """Return the description as `ros2 launch` reads it."""
    source = launch.launch_description_sources.PythonLaunchDescriptionSource(str(FOLDER / name))
    return source.get_launch_description(launch.LaunchContext())


def expand(name: str, **configurations: str) -> tuple[launch.LaunchContext, list[launch_ros.actions.Node]]:
    """Return the nodes that launch makes with these arguments, and its context; nothing is started."""
    context = launch.LaunchContext()
    context.launch_configurations.update(configurations)
    nodes: list[launch_ros.actions.Node] = []
    for entity in load(name).entities:
        nodes += [made for made in entity.execute(context) or [] if isinstance(made, launch_ros.actions.Node)]
    return context, nodes


def commands(name: str, **configurations: str) -> dict[str, list[str]]:
    """Return the command of every node as launch expands it, by fully qualified name."""
    context, nodes = expand(name, **configurations)
    found: dict[str, list[str]] = {}
    for node in nodes:
        node._perform_substitutions(context)
        context.extend_locals({"ros_specific_arguments": {"name": "", "ns": ""}})
        found[node.node_name] = [launch.utilities.perform_substitutions(context, part) for part in node.cmd]
    return found


def own_parameters(node: str, command: list[str]) -> dict[str, object]:
    """Return what launch itself sets on a node, in the last of its parameter files."""
    files = [command[index + 1] for index, part in enumerate(command) if part == "--params-file"]
    return dict(yaml.safe_load(Path(files[-1]).read_text())[node]["ros__parameters"])


@pytest.mark.parametrize("name", FILES)
def test_arguments_are_deployment_only_and_described(name: str) -> None:
    arguments = {argument.name: argument for argument in load(name).get_launch_arguments()}
    assert set(arguments) == {"namespace", "params_file", "nodes", "use_sim_time", "autostart", "log_level", "enclave"}
    for argument in arguments.values():
        assert argument.description.strip() and "no description given" not in argument.description.lower()
        assert argument.default_value is not None


@pytest.mark.parametrize(("name", "simulated"), FILES.items())
def test_processes_are_those_of_the_graph(name: str, simulated: bool) -> None:
    _, nodes = expand(name)
    assert [node.node_executable for node in nodes] == [node.name for node in graph.nodes(simulated)]
    assert {node.node_package for node in nodes} == {"streaming_vla"}


@pytest.mark.parametrize(("name", "simulated"), FILES.items())
def test_the_model_may_be_started_elsewhere(name: str, simulated: bool) -> None:
    parts = [[node.node_executable for node in expand(name, nodes=part)[1]] for part in ("robot", "inference")]
    assert parts == [[node.name for node in graph.nodes(simulated) if node.name != "inference"], ["inference"]]


@pytest.mark.parametrize("name", FILES)
def test_a_node_that_crashes_again_and_again_is_given_up(name: str) -> None:
    for node in expand(name)[1]:
        assert node._ExecuteLocal__respawn and node._ExecuteLocal__respawn_max_retries == RESPAWN_LIMIT


@pytest.mark.parametrize(("code", "again"), [(CONFIG_ERROR, False), (1, True), (-9, True)])
def test_a_node_that_refuses_its_configuration_is_not_started_again(code: int, again: bool, tmp_path: Path) -> None:
    started = tmp_path / "started"
    script = (
        f"open({str(started)!r}, 'a').write('x'); raise SystemExit({code})"
        if code > 0
        else (f"import os; open({str(started)!r}, 'a').write('x'); os.kill(os.getpid(), {-code})")
    )
    process = launch.actions.ExecuteProcess(
        cmd=[sys.executable, "-c", script],
        respawn=True,
        respawn_delay=0.5,
        respawn_max_retries=1,
        on_exit=_stay_down_when_misconfigured,
    )
    service = launch.LaunchService(noninteractive=True)
    service.include_launch_description(launch.LaunchDescription([process]))
    assert service.run(shutdown_when_idle=True) == 0
    assert started.read_text() == ("xx" if again else "x")


@pytest.mark.parametrize(("name", "simulated"), FILES.items())
def test_commands_carry_namespace_parameters_and_log_level(name: str, simulated: bool, tmp_path: Path) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_text("/**:\n  ros__parameters:\n    control_period_s: 0.05\n")
    found = commands(name, namespace="left_arm", params_file=str(file), log_level="warn")
    assert list(found) == [f"/left_arm/{node.name}" for node in graph.nodes(simulated)]
    for node, command in found.items():
        assert command[0].endswith(f"lib/streaming_vla/{node.rsplit('/', 1)[-1]}")
        assert command[command.index("--log-level") + 1] == "warn"
        assert command[command.index("--enclave") + 1] == node
        files = [command[index + 1] for index, part in enumerate(command) if part == "--params-file"]
        assert files[0] == str(file)
        own = own_parameters(node, command)
        assert own["autostart"] is True
        assert "use_sim_time" not in own, "the parameter file decides"
        assert own.get("auto_start") == (True if simulated and node.endswith("saliency_monitor") else None)


def environments(name: str) -> list[dict[str, str]]:
    """Return what launch adds to the environment of each node."""
    context, nodes = expand(name)
    return [
        {
            launch.utilities.perform_substitutions(context, key): launch.utilities.perform_substitutions(context, value)
            for key, value in node.additional_env or ()
        }
        for node in nodes
    ]


@pytest.mark.parametrize("name", FILES)
def test_only_this_machine_reaches_the_nodes_unless_the_operator_has_chosen(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for choice in CHOICES:
        monkeypatch.delenv(choice, raising=False)
    assert {each.get("ROS_AUTOMATIC_DISCOVERY_RANGE") for each in environments(name)} == {"LOCALHOST"}
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    assert {each.get("ROS_AUTOMATIC_DISCOVERY_RANGE") for each in environments(name)} == {None}


@pytest.mark.parametrize("name", FILES)
def test_enclaves_are_named_by_namespace_or_argument(name: str) -> None:
    for node, command in commands(name, namespace="left_arm", enclave="/fleet").items():
        assert command[command.index("--enclave") + 1] == f"/fleet/{node.rsplit('/', 1)[-1]}"


@pytest.mark.parametrize("name", FILES)
def test_parameter_file_is_checked_before_any_process_starts(name: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterFileError, match=r"missing\.yaml"):
        expand(name, params_file=str(tmp_path / "missing.yaml"))


@pytest.mark.parametrize("name", FILES)
def test_the_clock_and_a_lifecycle_manager_are_arguments(name: str) -> None:
    for node, command in commands(name, use_sim_time="true", autostart="false").items():
        own = own_parameters(node, command)
        assert own["use_sim_time"] is True and own["autostart"] is False


@pytest.mark.parametrize("name", FILES)
def test_a_section_of_another_namespace_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_text("executor:\n  ros__parameters:\n    hold_s: 2.0\n")
    with pytest.raises(ParameterFileError, match="'executor' is for no node of namespace '/arm'"):
        expand(name, namespace="arm", params_file=str(file))


@pytest.mark.parametrize("name", FILES)
def test_a_namespace_around_the_launch_file_counts(name: str, tmp_path: Path) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_text("/fleet/arm/executor:\n  ros__parameters:\n    hold_s: 2.0\n")
    found = commands(name, namespace="arm", params_file=str(file), ros_namespace="fleet")
    assert "/fleet/arm/executor" in found
