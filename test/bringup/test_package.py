"""package.xml, setup.py and the colcon output have what ROS tools need."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from ament_index_python.packages import get_package_prefix, get_package_share_directory, get_resources

from streaming_vla.bringup import graph

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
# Imported packages by the rosdep key or ROS package that brings them; None: no key exists, or an extra
# alone needs it; docs/install.md says so.
KEYS = {
    "PIL": "python3-pil",
    "av": None,
    "cv2": "python3-opencv",
    "gymnasium": None,
    "jinja2": "python3-jinja2",
    "lerobot": None,
    "lz4": None,
    "matplotlib": "python3-matplotlib",
    "mcap": None,
    "metaworld": None,
    "msgpack": None,
    "mujoco": None,
    "numpy": "python3-numpy",
    "optuna": None,
    "pyarrow": None,
    "pydantic": None,  # the distributions' package may be version 1
    "ray": None,
    "rich": "python3-rich",
    "rosbags": None,
    "safetensors": None,
    "simplejpeg": None,
    "sqlalchemy": None,
    "tokenizers": None,
    "torch": "python3-torch",
    "transformers": None,
    "typer": "python3-typer",
    "websockets": None,
    "yaml": "python3-yaml",
    "zstandard": None,
}
BROUGHT = ("gymnasium", "mujoco", "sqlalchemy", "tokenizers")  # by metaworld, by optuna and by transformers
WHEELS = {"opencv-python-headless": "cv2", "pillow": "PIL", "pyyaml": "yaml"}  # whose modules are named otherwise
OWN = {"kv_cache", "streaming_vla"}


def imported() -> set[str]:
    """Return the top-level packages that the sources import from elsewhere."""
    names: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - OWN


def dependencies(path: Path) -> set[str]:
    """Return the packages that a package.xml needs at run time."""
    tree = ElementTree.parse(path)
    assert tree.getroot().attrib["format"] == "3"
    return {str(element.text) for tag in ("depend", "exec_depend") for element in tree.iter(tag)}


def test_package_xml_names_everything_that_is_imported_and_nothing_else() -> None:
    needed = {key for name in imported() if (key := KEYS.get(name, name)) is not None}
    # ros2launch brings the command that reads launch/
    assert needed | {"ros2launch"} == dependencies(ROOT / "package.xml")


def test_packages_without_a_rosdep_key_are_documented() -> None:
    guide = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    for name in imported():
        if name in KEYS and KEYS[name] is None and name not in BROUGHT:
            assert name in guide


def test_the_extra_of_serve_names_what_the_server_imports() -> None:
    listing = "import sys, streaming_vla.serving.command, streaming_vla.serving.server; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    used = {name.split(".")[0] for name in answer.stdout.split()} & set(KEYS)
    match = re.search(r'"serve": \[(.*?)\]', (ROOT / "setup.py").read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    named = {re.split(r"[>=]", each)[0] for each in re.findall(r'"([^"]+)"', match[1])}
    assert used == {WHEELS.get(name, name) for name in named} & used


def test_versions_agree() -> None:
    versions = {
        ElementTree.parse(ROOT / path).findtext("version") for path in ("package.xml", "interfaces/package.xml")
    }
    match = re.search(r'version="([^"]+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert match is not None
    assert versions == {match[1]}


def test_every_interface_is_built() -> None:
    listed = set(
        re.findall(r"^  ((?:msg|srv)/\w+\.(?:msg|srv))$", (ROOT / "interfaces/CMakeLists.txt").read_text(), re.M)
    )
    there = {str(path.relative_to(ROOT / "interfaces")) for path in (ROOT / "interfaces").glob("???/*.???")}
    assert listed == there


def test_every_node_of_the_graph_has_a_module_and_an_executable() -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    for node in graph.NODES:
        source = ROOT / "src" / Path(*node.module.split(".")).with_suffix(".py")
        assert re.search(r'^if __name__ == "__main__":', source.read_text(encoding="utf-8"), re.M)
        assert f'"{node.name}"' in setup


def test_colcon_output_has_executables_for_ros2_run() -> None:
    folder = Path(get_package_prefix("streaming_vla")) / "lib" / "streaming_vla"
    names = {node.name for node in graph.NODES} | {"streaming-vla"}
    assert names <= {path.name for path in folder.iterdir() if path.stat().st_mode & 0o111}
    # by the interpreter: the first line of a script cannot name one whose path has a space
    command = [sys.executable, folder / "streaming-vla", "--help"]
    help_text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert help_text.returncode == 0
    assert "doctor" in help_text.stdout


@pytest.mark.parametrize(
    ("folder", "pattern"),
    [("launch", "*.launch.py"), ("config", "*.yaml"), ("config", "*.xml"), ("models", "*.safetensors")],
)
def test_colcon_output_has_the_files_of_the_share_folder(folder: str, pattern: str) -> None:
    installed = {path.name for path in (Path(get_package_share_directory("streaming_vla")) / folder).glob(pattern)}
    assert installed == {path.name for path in (ROOT / folder).glob(pattern)}
    assert installed


def test_packages_are_in_the_ament_index() -> None:
    assert {"streaming_vla", "streaming_vla_interfaces"} <= set(get_resources("packages"))
    assert "streaming_vla_interfaces" in get_resources("rosidl_interfaces")
