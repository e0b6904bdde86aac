"""Options of the state machines from the values of a parameter file, as the nodes build them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kv_cache.gate_file import load_gate
from streaming_vla.engine.options import EngineOptions
from streaming_vla.machines.executor import ExecutorOptions
from streaming_vla.machines.generator import GeneratorOptions
from streaming_vla.machines.limits import Limits
from streaming_vla.machines.monitor import MonitorOptions
from streaming_vla.machines.observer import ObserverOptions
from streaming_vla.parameters.load import read
from streaming_vla.parameters.sections import EVERY_NODE
from streaming_vla.parameters.tables import NODES, table
from streaming_vla.policies.contract import PolicySpec
from streaming_vla.policies.layout import ActionLayout
from streaming_vla.policies.models import find_model

Values = Mapping[str, Any]
# Where an option is called otherwise than its parameter.
PARAMETER_OF = {
    "start": "hand_over_start",
    "jump": "hand_over_jump",
    "absolute": "action_absolute",
}


def all_values(path: Path | None, namespace: str = "/") -> dict[str, dict[str, Any]]:
    """Return the value of every parameter of every node of the robot in `namespace`: the file's, or the default.

    Raises:
        ParameterFileError: the file cannot be used.
    """
    sections = read(path, namespace) if path is not None else {}
    shared = sections.get(EVERY_NODE, {})
    found = {}
    for node in NODES:
        values = {name: parameter.default for name, parameter in table(node).items()}
        values.update({name: value for name, value in shared.items() if name in values})
        values.update(sections.get(node, {}))
        found[node] = dict(values)
    return found


@dataclass(frozen=True)
class MachineOptions:
    """What the four machines and the engine are set to."""

    layout: ActionLayout
    observer: ObserverOptions
    monitor: MonitorOptions
    generator: GeneratorOptions
    executor: ExecutorOptions
    engine: EngineOptions


def machine_options(values: Mapping[str, Values], spec: PolicySpec) -> MachineOptions:
    """Return the options that `values` (of `all_values`) stand for.

    Raises:
        ValueError: a value is out of range, or the policy acts in other dimensions or sees other pictures.
    """
    layout = _layout(values["generator"])
    if (layout.names, layout.absolute) != (spec.layout.names, spec.layout.absolute):
        raise ValueError(
            f"the policy acts in {', '.join(spec.layout.names)}, the parameters say {', '.join(layout.names)}: set "
            "action_names and action_absolute to the policy's"
        )
    cameras, size = tuple(values["observer"]["cameras"]), values["observer"]["image_size"]
    if cameras != spec.cameras:
        raise ValueError(
            f"the policy sees {', '.join(spec.cameras)}, the parameters say {', '.join(cameras)}: set the observer's "
            "cameras to the policy's, in its order"
        )
    if size != spec.image_size:
        raise ValueError(
            f"the policy sees pictures of {spec.image_size} x {spec.image_size} pixels, the parameters say {size} x "
            f"{size}: set the observer's image_size to the policy's"
        )
    limits = Limits(velocity=values["executor"]["velocity_limit"], jump=values["executor"]["jump_limit"])
    limits.check(layout)
    return MachineOptions(
        layout=layout,
        observer=_make(ObserverOptions, values["observer"]),
        monitor=_make(MonitorOptions, {**values["saliency_monitor"], "action_absolute": layout.absolute}),
        generator=_make(GeneratorOptions, values["generator"]),
        executor=_make(ExecutorOptions, {**values["executor"], "limits": limits}),
        engine=engine_options(values["inference"], spec.tokens_per_observation),
    )


def engine_options(values: Values, block: int) -> EngineOptions:
    """Return the engine's options for one robot from the parameters of the inference node.

    Args:
        block: tokens of an observation.

    Raises:
        ValueError: a value is out of range, or the gate cannot be loaded.
    """
    given = {key if key == "cache_policy" else key.removeprefix("cache_"): value for key, value in values.items()}
    given.update(recent=given["recent"] or block, max_sessions=1)
    name = given.pop("gate", "")
    loaded = load_gate(find_model(name)) if name else None
    if loaded is not None:
        given["gate"] = loaded.gate
    if given.get("threshold", 0.0) < 0:  # as calibrated with the gate
        given["threshold"] = loaded.threshold if loaded is not None else 0.0
    options: EngineOptions = _make(EngineOptions, given)
    return options


def _make(kind: type[Any], values: Values) -> Any:
    """Return options of a kind: each field that is a parameter takes its value, the others keep their defaults."""
    given = {field.name: PARAMETER_OF.get(field.name, field.name) for field in fields(kind)}
    return kind(**{name: values[key] for name, key in given.items() if key in values})


def _layout(values: Values) -> ActionLayout:
    return ActionLayout(*(values[f"action_{name}"] for name in ("names", "absolute", "low", "high", "initial")))
