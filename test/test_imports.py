"""Imports point one way: read from the source with `ast`, imports inside functions included."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"

# what the modules of a folder may import of the other folders; a module of its own folder always
ALLOWED = {
    "kv_cache": set(),
    "streaming_vla.bounded_yaml": set(),
    "streaming_vla.options": {"streaming_vla.policies"},
    "streaming_vla.images": {"streaming_vla.machines"},
    "streaming_vla.commands": {"streaming_vla.machines", "streaming_vla.options"},
    "streaming_vla.datasets": set(),
    "streaming_vla.bags": {
        "streaming_vla.bounded_yaml",
        "streaming_vla.images",
        "streaming_vla.commands",
        "streaming_vla.options",
        "streaming_vla.datasets",
    },
    "streaming_vla.policies": {"kv_cache"},
    "streaming_vla.saliency": {"kv_cache", "streaming_vla.policies"},
    "streaming_vla.machines": {"streaming_vla.policies", "streaming_vla.saliency", "streaming_vla.options"},
    "streaming_vla.engine": {
        "kv_cache",
        "streaming_vla.bounded_yaml",
        "streaming_vla.policies",
        "streaming_vla.saliency",
        "streaming_vla.machines",
        "streaming_vla.options",
    },
    "streaming_vla.serving": {
        "streaming_vla.policies",
        "streaming_vla.machines",
        "streaming_vla.engine",
        "streaming_vla.images",
        "streaming_vla.parameters",
        "streaming_vla.refusal",
    },
}
BELOW_ROS = {*ALLOWED, *(f"streaming_vla.{name}" for name in ("sim", "parameters", "training"))}
ROS_CLIENT = {"rclpy", "launch", "launch_ros", "lifecycle_msgs", "rcl_interfaces"}
MESSAGES_ALLOWED = {f"streaming_vla.commands.{name}" for name in ("writer", "types", "joint")}
KV_CACHE_PACKAGES = {"torch"}
KV_CACHE_OPTIONAL = {
    "kv_cache.huggingface": {"transformers"},
    "kv_cache.huggingface_spec": {"transformers"},
    "kv_cache.huggingface_heads": {"transformers"},
    "kv_cache.training.attention": {"transformers"},
    "kv_cache.training.attention_targets": {"transformers"},
    "kv_cache.training.distill": {"transformers"},
    "kv_cache.gate_file": {"safetensors"},
    "kv_cache.tensor_file": {"safetensors"},
}
MACHINE_PACKAGES = {"numpy", "pydantic"}


def modules() -> dict[str, Path]:
    """Return every module of the two packages by its dotted name."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Yield the dotted name of everything that `source` imports, wherever in the file."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (str(a.value) for a in node.args[:1] if isinstance(a, ast.Constant))


def imports_of(module: str) -> list[str]:
    """Return everything that a module of this repository imports."""
    path = MODULES[module]
    return list(imported(path.read_text(encoding="utf-8"), module, path.name == "__init__.py"))


def folder(name: str) -> str:
    """Return the folder that a module of this repository belongs to: kv_cache, or streaming_vla.<folder>."""
    parts = name.split(".")
    return parts[0] if parts[0] == "kv_cache" else ".".join(parts[:2])


def is_ours(name: str) -> bool:
    """True for modules of this repository."""
    return name.split(".", maxsplit=1)[0] in ("kv_cache", "streaming_vla")


def is_message_package(name: str) -> bool:
    """True for packages that define ROS messages."""
    package = name.split(".", maxsplit=1)[0]
    return package.endswith(("_msgs", "_srvs", "_interfaces"))


def closure(module: str) -> set[str]:
    """Return everything that is loaded with `module`: its imports, their imports, and all their packages."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if not is_ours(name):
            continue
        waiting.extend(".".join(name.split(".")[:end]) for end in range(1, name.count(".") + 1))
        if name in MODULES:
            waiting.extend(imports_of(name))
    return seen


def external(names: set[str]) -> set[str]:
    """Return the packages from outside of this repository and of the standard library."""
    import sys

    packages = {name.split(".")[0] for name in names if not is_ours(name)}
    return packages - set(sys.stdlib_module_names)


CORE = "streaming_vla.bringup.new_robot."  # what is decided, beside the shells that look at graph and policy
BELOW = [name for name in MODULES if folder(name) in BELOW_ROS or name.startswith(CORE)]
RULED = [name for name in MODULES if folder(name) in ALLOWED]


def test_there_is_something_to_look_at() -> None:
    assert {folder(name) for name in RULED} == set(ALLOWED)
    assert "streaming_vla.machines.executor" in BELOW


@pytest.mark.parametrize("module", BELOW)
def test_nothing_below_ros_imports_it(module: str) -> None:
    packages = {name.split(".")[0] for name in imports_of(module)}
    assert not packages & ROS_CLIENT
    if module not in MESSAGES_ALLOWED:
        assert not {name for name in packages if is_message_package(name)}


@pytest.mark.parametrize("module", BELOW)
def test_nothing_below_ros_imports_its_folder(module: str) -> None:
    assert not [name for name in imports_of(module) if folder(name) == "streaming_vla.ros"]


@pytest.mark.parametrize("module", RULED)
def test_imports_point_one_way(module: str) -> None:
    own = folder(module)
    others = {folder(name) for name in imports_of(module) if is_ours(name)} - {own}
    assert others <= ALLOWED[own], f"{module} may not import {sorted(others - ALLOWED[own])}"


@pytest.mark.parametrize("module", [name for name in MODULES if folder(name) == "kv_cache"])
def test_kv_cache_needs_torch_only(module: str) -> None:
    assert external(closure(module)) <= KV_CACHE_PACKAGES | KV_CACHE_OPTIONAL.get(module, set())


@pytest.mark.parametrize("module", [name for name in MODULES if folder(name) == "streaming_vla.machines"])
def test_the_machines_need_numpy_and_pydantic_only(module: str) -> None:
    assert external(closure(module)) <= MACHINE_PACKAGES


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import rclpy.node", ["rclpy.node"]),
        ("from rclpy import node", ["rclpy.node"]),
        ("def f():\n    import torch", ["torch"]),
        ("from ..ros import base", ["streaming_vla.ros.base"]),
        ("from . import events", ["streaming_vla.machines.events"]),
        ("import importlib\nimportlib.import_module('rclpy')", ["importlib", "rclpy"]),
    ],
)
def test_no_way_of_importing_is_overlooked(source: str, expected: list[str]) -> None:
    assert list(imported(source, "streaming_vla.machines.executor")) == expected


@pytest.mark.parametrize("node", ["observer", "generator", "executor", "saliency_monitor"])
def test_only_the_inference_node_imports_torch(node: str) -> None:
    """torch costs a process 200 MB and seconds of start, so it must not come in by the back door."""
    pytest.importorskip("streaming_vla_interfaces", reason="the message types are not built")
    code = f"import sys, streaming_vla.ros.nodes.{node}; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "False"
