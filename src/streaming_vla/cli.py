"""The command `streaming-vla`: starts the suite, shows it, records; the other commands are registered at the end."""

from __future__ import annotations

import os
import signal
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from streaming_vla.bringup import graph
from streaming_vla.bringup.new_robot.command import new_robot
from streaming_vla.bringup.security.command import security
from streaming_vla.bringup.watch.command import watch
from streaming_vla.interrupts import ending_at_once
from streaming_vla.refusal import refuse
from streaming_vla.serving.command import serve
from streaming_vla.sim.options import RobotName
from streaming_vla.training.cli import app as train_app
from streaming_vla.workbench import bag_commands
from streaming_vla.workbench.demo.options import DemoOptions
from streaming_vla.workbench.demonstrate.command import demonstrate
from streaming_vla.workbench.evaluation.command import evaluate
from streaming_vla.workbench.robots import ROBOTS
from streaming_vla.workbench.tuning.calibrate_command import calibrate

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Run a vision-language-action policy on a robot as a stream.",
)
PARAMS_FILE_HELP = "ROS parameter file; without it every parameter has its default (config/streaming_vla.yaml)"


class LogLevel(str, Enum):
    """Least severe message that the nodes print."""

    debug = "debug"
    info = "info"
    warn = "warn"
    error = "error"


@app.command()
def up(
    params_file: Annotated[Path | None, typer.Option("--params-file", "--params", help=PARAMS_FILE_HELP)] = None,
    namespace: Annotated[str, typer.Option(help="namespace of the robot")] = "/",
    part: Annotated[
        graph.Part,
        typer.Option("--nodes", help="robot: all nodes but inference, which runs elsewhere; inference: that one alone"),
    ] = graph.Part.all,
    sim: Annotated[bool, typer.Option("--sim", help="with the simulated robot; an episode begins by itself")] = False,
    log_level: Annotated[LogLevel, typer.Option(help="of the nodes")] = LogLevel.info,
    enclave: Annotated[
        str,
        typer.Option(help="in front of the nodes' security enclaves, as `security` takes it", show_default="namespace"),
    ] = "",
) -> None:
    """Start the nodes, keep them running, and stop them in reverse order on Ctrl-C or SIGTERM."""
    from streaming_vla.bringup.starter import Suite, SuiteError, say_on_stderr
    from streaming_vla.ros.reach import local_unless_chosen

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = graph.SIMULATED_SETTINGS if sim else {}
    try:
        nodes = graph.nodes(sim, part)
        told = local_unless_chosen(os.environ)
        with Suite(nodes, namespace, params_file, settings, log_level.value, enclave=enclave) as suite:
            if told:
                say_on_stderr(told)
            say_on_stderr(f"Active: {', '.join(node.name for node in nodes)}. Ctrl-C stops.")
            while not suite.wait_failure(timeout_s=3600.0):
                pass
        refuse(suite.failure)
    except SuiteError as error:
        refuse(str(error))
    except KeyboardInterrupt:
        say_on_stderr("Stopped.")


@app.command()
def demo(
    robot: Annotated[RobotName, typer.Option(help="the simulated robot")] = "metaworld",
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks",
            "--task",
            help="names with commas between, or mt10, memory, all",
            show_default="; ".join(", ".join(each.tasks) for each in ROBOTS.values()),
        ),
    ] = None,
    episodes: Annotated[int, typer.Option(help="of each task and mode")] = DemoOptions.episodes,
    seed: Annotated[int, typer.Option(help="places the objects of the first episode")] = DemoOptions.seed,
    time_limit: Annotated[
        float | None, typer.Option(help="seconds that an episode may take", show_default="12; so101: 10 or 20")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of the results")] = DemoOptions.out,
    profile: Annotated[
        str,
        typer.Option(
            help="latency profile that the inference node behaves like: paper, jetson, remote_wifi, measured, "
            "or a YAML file; none unless given"
        ),
    ] = DemoOptions.profile,
    params_file: Annotated[
        Path | None,
        typer.Option("--params-file", "--params", help="ROS parameter file", show_default="so101: config/so101.yaml"),
    ] = None,
    model: Annotated[str, typer.Option(help="the policy, in place of the parameter file's")] = "",
    simulated_clock: Annotated[
        bool, typer.Option("--simulated-clock", help="on a clock that slows down where the machine is too busy")
    ] = DemoOptions.simulated_clock,
) -> None:
    """Run the same episodes synchronous and streaming on the simulated robot and compare them."""
    from streaming_vla.workbench.demo.command import run

    try:
        chosen = ROBOTS[robot].select(",".join(tasks)) if tasks else ()
        options = DemoOptions(
            chosen, episodes, seed, time_limit, out, profile, params_file, simulated_clock, robot, model
        )
    except ValueError as error:
        refuse(str(error))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise typer.Exit(run(options))


@app.command()
def record(
    out: Annotated[Path | None, typer.Option(help="the bag, a folder that does not exist yet")] = None,
    include: Annotated[list[str] | None, typer.Option(help="regular expression of topics; more than once")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="regular expression of topics left out")] = None,
    compression: Annotated[str | None, typer.Option(help="none, zstd or lz4")] = None,
    jpeg: Annotated[
        int | None,
        typer.Option(help="quality with which pictures are stored as JPEG", min=1, max=100, show_default="95"),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="store pictures as they are instead")] = False,
    params_file: Annotated[Path | None, typer.Option("--params-file", "--params", help=PARAMS_FILE_HELP)] = None,
    namespace: Annotated[str, typer.Option(help="namespace of the robot")] = "/",
) -> None:
    """Record the topics of the robot and the suite as a rosbag2 folder (MCAP) until Ctrl-C."""
    with ending_at_once():
        from streaming_vla.bringup.starter import SuiteError, checked_namespace
        from streaming_vla.parameters.sections import qualified, write_settings
        from streaming_vla.ros.nodes.recorder import main as run_recorder

    try:
        full_namespace = checked_namespace(namespace, params_file)
    except SuiteError as error:
        refuse(str(error))
    settings = {
        "autostart": True,
        "bag_folder": str(out.parent) if out else None,
        "bag_name": out.name if out else None,
        "include": include,
        "exclude": exclude,
        "compression": compression,
        "jpeg_quality": 0 if raw else jpeg,
    }
    arguments = ["recorder", "--ros-args", "-r", f"__ns:={full_namespace}"]
    arguments += ["--params-file", str(params_file)] if params_file else []
    with TemporaryDirectory(prefix="streaming_vla_") as folder:
        own = Path(folder) / "recorder.yaml"
        given = {name: value for name, value in settings.items() if value is not None and value != []}
        write_settings(own, qualified(full_namespace, "recorder"), given)
        run_recorder([*arguments, "--params-file", str(own)])


@app.command()
def doctor(
    params_file: Annotated[
        Path | None,
        typer.Option("--params-file", "--params", help="also check this ROS parameter file and the robot's topics"),
    ] = None,
    namespace: Annotated[str, typer.Option(help="namespace of the robot")] = "/",
    model: Annotated[
        str | None, typer.Option(help="check this model in place of the file's; without a file the model alone")
    ] = None,
    assets: Annotated[
        str | None, typer.Option(help="folder of tokenizer and VLM configuration of --model (model_assets)")
    ] = None,
) -> None:
    """Check installation, parameter file, model and robot: every finding with the fix; exit code 1 when one fails."""
    from streaming_vla.bringup.doctor import examine

    given = {"model": model, "model_assets": assets}
    raise typer.Exit(examine(params_file, namespace, {name: text for name, text in given.items() if text is not None}))


app.command()(new_robot)
app.command()(security)
app.command()(watch)
app.command()(demonstrate)
app.command()(evaluate)
app.command()(calibrate)
app.command()(serve)
bag_commands.register(app)
app.add_typer(train_app, name="train")
