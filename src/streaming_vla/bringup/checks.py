"""The single checks of `streaming-vla doctor`; each returns what it found or raises Trouble."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

from streaming_vla.bringup import graph
from streaming_vla.bringup.apart import ask

PYTHON_OLDEST, PYTHON_NEWEST = (3, 10), (3, 13)
ROUND_TRIP_TIMEOUT_S = 15.0
RENDER_TIMEOUT_S = 120.0
LIBRARIES = ("numpy", "cv2", "yaml", "typer", "rich", "safetensors", "torch")
INSTALL = "run `make setup`, or see docs/install.md for a ROS installation"
# In a process of its own: a broken OpenGL driver ends the process that touches it.
RENDER = """
from streaming_vla.sim.metaworld import CAMERAS, MetaWorldRobot
from streaming_vla.sim.rendering import RenderError
robot = MetaWorldRobot(image_size=64)
try:
    robot.reset("reach", 0)
    print(*(f"{name} {robot.render(name).std():.0f}" for name in CAMERAS), sep=", ")
except RenderError as error:
    raise SystemExit(str(error))
"""


class Trouble(Exception):
    """A check failed; each argument is a sentence that says what, and how it is repaired."""


class Note(str):
    """The text of a check that passed with a remark."""


def python() -> str:
    """Return the version; the wheels of ROS 2 exist for some only."""
    version = sys.version_info[:2]
    if not PYTHON_OLDEST <= version <= PYTHON_NEWEST:
        raise Trouble(
            f"Python {platform.python_version()} at {sys.executable}: expected 3.10 to 3.13; "
            "make .venv with another one: PYTHON=python3.12 make setup"
        )
    return f"{platform.python_version()} at {sys.executable}"


def cpu() -> str:
    """Return architecture and cores; torch and MuJoCo need AVX2 on x86-64."""
    machine, cores = platform.machine(), len(os.sched_getaffinity(0))
    flags = Path("/proc/cpuinfo").read_text().split()
    if machine == "x86_64" and "avx2" not in flags:
        raise Trouble("this CPU has no AVX2, which torch and MuJoCo need: see docs/install.md")
    text = f"{machine}, {cores} cores"
    return text if cores > 1 else Note(f"{text}: policy and robot share one core, expect halts")


def libraries() -> str:
    """Return the versions of what the nodes import."""
    versions = []
    for name in LIBRARIES:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise Trouble(f"{name} cannot be imported ({error}): {INSTALL}") from error
        if version := getattr(module, "__version__", ""):
            versions.append(f"{name} {version}")
    return ", ".join(versions)


def ros() -> str:
    """Return where rclpy comes from; two ROS installations in one environment crash."""
    if importlib.util.find_spec("rclpy") is None:
        raise Trouble(f"rclpy is missing: {INSTALL}")
    import rclpy
    from rclpy.utilities import get_rmw_implementation_identifier

    wheels = Path(rclpy.__file__).is_relative_to(sys.prefix)
    others = [path for path in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if path.startswith("/opt/ros")]
    if wheels and others:
        raise Trouble(
            f"rclpy is that of {sys.prefix}, but {others[0]} is sourced as well: start streaming-vla by "
            ".venv/bin/streaming-vla or tools/run, or use a shell without ROS"
        )
    source = "wheels" if wheels else os.environ.get("ROS_DISTRO", str(Path(rclpy.__file__).parent))
    return f"rclpy from {source}, {get_rmw_implementation_identifier()}"


def messages() -> str:
    """Load the compiled type support of the suite's own messages."""
    try:
        from streaming_vla_interfaces.msg import Action
    except ImportError as error:
        raise Trouble(f"streaming_vla_interfaces is not built or not sourced ({error}): {INSTALL}") from error
    Action.__class__.__import_type_support__()
    if Action.__class__._TYPE_SUPPORT is None:
        raise Trouble(f"streaming_vla_interfaces was built for another Python or ROS: {INSTALL} after `make clean`")
    return "streaming_vla_interfaces is built for this Python"


def package() -> str:
    """Return where colcon has installed the package."""
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        prefix = Path(get_package_prefix(graph.PACKAGE))
    except PackageNotFoundError as error:
        raise Trouble(f"package {graph.PACKAGE} is not built or not sourced: {INSTALL}") from error
    missing = [node.name for node in graph.NODES if not (prefix / "lib" / graph.PACKAGE / node.name).is_file()]
    if missing:
        raise Trouble(f"{prefix} lacks the executables {', '.join(missing)}: {INSTALL} after `make clean`")
    return str(prefix)


def simulator() -> str:
    """Render both simulated cameras; a robot of your own does without."""
    if importlib.util.find_spec("metaworld") is None:
        return Note("metaworld is not installed: no demo and no simulated robot (pip install metaworld==3.1.1)")
    try:
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", RENDER],
            capture_output=True,
            text=True,
            timeout=RENDER_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Trouble(f"rendering the cameras took longer than {RENDER_TIMEOUT_S:g} s") from error
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or [f"ended with code {result.returncode}"])[-1]
        raise Trouble(f"the cameras cannot be rendered ({last}): apt install libegl1 libgl1-mesa-dri")
    return f"EGL renders; contrast of {result.stdout.strip()}"


def dds() -> str:
    """Send a message to another process and back."""
    from streaming_vla.bringup.loopback import round_trip_s

    trip_s = ask(round_trip_s, ROUND_TRIP_TIMEOUT_S)
    if trip_s is None:
        raise Trouble(
            f"no message came back from another process within {ROUND_TRIP_TIMEOUT_S:g} s: check the firewall for "
            "UDP 7400 and up, `ip link set lo multicast on`, and FASTDDS / CYCLONEDDS settings in the environment"
        )
    return f"a message to another process and back takes {trip_s * 1e3:.1f} ms"


def launch() -> str:
    """Say how the nodes can be started."""
    if importlib.util.find_spec("launch_ros") is None:
        return "no `ros2 launch` here (it is not on PyPI); `streaming-vla up` starts the same nodes"
    return "`ros2 launch streaming_vla streaming_vla.launch.py` is available"
