"""The options of every node of one robot."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from streaming_vla.bags.recorder_options import RecorderOptions
from streaming_vla.engine.options import InferenceOptions
from streaming_vla.machines.executor_options import ExecutorOptions
from streaming_vla.machines.generator_options import GeneratorOptions
from streaming_vla.machines.monitor_options import MonitorOptions
from streaming_vla.machines.observer_options import ObserverOptions
from streaming_vla.options.option import Options, suggest
from streaming_vla.options.shared import ActionOptions, ContextOptions, SharedOptions
from streaming_vla.parameters.sections import EVERY_NODE
from streaming_vla.policies.check import check_policy
from streaming_vla.sim.options import SimRobotOptions

if TYPE_CHECKING:  # a robot's light nodes read this module, and the contract needs torch
    from streaming_vla.policies.contract import PolicySpec


class SuiteOptions(NamedTuple):
    """The options of each node of a robot, under the node's name; the defaults are the shipped ones."""

    observer: ObserverOptions = ObserverOptions()
    inference: InferenceOptions = InferenceOptions()
    generator: GeneratorOptions = GeneratorOptions()
    executor: ExecutorOptions = ExecutorOptions()
    saliency_monitor: MonitorOptions = MonitorOptions()
    sim_robot: SimRobotOptions = SimRobotOptions()
    recorder: RecorderOptions = RecorderOptions()

    def changed(self, section: str, values: Mapping[str, Any]) -> SuiteOptions:
        """Return options with other values of a node, or of every node that has them ("/**").

        Raises:
            ValueError: no such node, an unknown name, or a value that is not allowed.
        """
        if section != EVERY_NODE and section not in NODES:
            raise ValueError(f"no node is called '{section}'{suggest(section, NODES)}; nodes are {', '.join(NODES)}")
        found: dict[str, Any] = {}
        for node in NODES if section == EVERY_NODE else (section,):
            options: Options = getattr(self, node)
            names = values if node == section else values.keys() & options.declared.keys()
            found[node] = options.changed(**{name: values[name] for name in names})
        return self._replace(**found)

    def values(self) -> dict[str, dict[str, Any]]:
        """Return every option, by node and name."""
        return {node: getattr(self, node).values() for node in NODES}

    def check_agreement(self, unread: Mapping[str, Collection[str]] | None = None) -> None:
        """Check what must be the same on all nodes that have it.

        Args:
            unread: names by node whose values stand for others that were refused; they are not compared.

        Raises:
            ValueError: two nodes have other values.
        """
        for name in AGREED:
            having = {
                node: getattr(self, node).values()[name]
                for node, kind in NODES.items()
                if name in kind.declared and name not in (unread or {}).get(node, ())
            }
            if len(set(having.values())) > 1:
                said = ", ".join(f"{value} for {node}" for node, value in having.items())
                raise ValueError(f"{name} is {said}: it must be the same, set it once in section '{EVERY_NODE}'")

    def check_policy(self, spec: PolicySpec) -> None:
        """Check that a policy sees and acts as the options say.

        Raises:
            ValueError: it acts otherwise, at another rate, or sees other pictures; a sentence for each, "; " between.
        """
        if found := self.policy_findings(spec):
            raise ValueError("; ".join(found))

    def policy_findings(self, spec: PolicySpec) -> list[str]:
        """Return a sentence for everything in which a policy sees or acts otherwise than the options say."""
        seen, acted = self.observer, self.generator
        period_s, layout = acted.control_period_s, acted.layout
        pictures = (seen.image_size, seen.image_fit, seen.image_pad_value)
        return check_policy(spec, seen.cameras, *pictures, period_s, layout, seen.state_joints)


NODES: dict[str, type[Options]] = {node: type(options) for node, options in SuiteOptions()._asdict().items()}
SECTIONS: dict[str, type[Options]] = {EVERY_NODE: SharedOptions, **NODES}
"""What each section of a parameter file may hold."""
AGREED = (*ActionOptions.declared, *ContextOptions.declared)
