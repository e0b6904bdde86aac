"""What of a virtual episode is up to the way in which a policy is run, and our own way: the action flow as a stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from streaming_vla.engine.values import EncodedObservation
from streaming_vla.machines.generator import Generator
from streaming_vla.machines.generator_options import GeneratorOptions
from streaming_vla.machines.monitor import Monitor
from streaming_vla.machines.monitor_options import MonitorOptions
from streaming_vla.options.shared import layout_values
from streaming_vla.policies.contract import FlowPolicy
from streaming_vla.policies.layout import Vector
from streaming_vla.workbench.virtual.world import ActionSource

ALWAYS = MonitorOptions()
OVERRUN = GeneratorOptions()


@dataclass
class Assembly:
    """The parts of an episode that a setup makes.

    Args:
        policy: that the engine runs.
        source: of the actions.
        monitor: decides when to observe.
        denoising_steps: that a context takes; of a flow none.
        learn: tells the source how long an action took to come, seconds.
        prepare: see World.
        hear_contexts: see World.
    """

    policy: FlowPolicy
    source: ActionSource
    monitor: Monitor
    denoising_steps: int = 0
    learn: Callable[[float], None] = lambda latency_s: None
    prepare: Callable[[EncodedObservation], EncodedObservation] = lambda observation: observation
    hear_contexts: tuple[str, ...] = ("generator", "monitor")


class Setup(Protocol):
    """One way in which a policy is run."""

    def assemble(self, policy: FlowPolicy, period_s: float, seed: int, state: Callable[[], Vector]) -> Assembly:
        """Return the parts of one episode.

        Args:
            period_s: an action lasts so long, seconds.
            seed: of the episode.
            state: returns the robot's state, [state_size].
        """


@dataclass(frozen=True)
class StreamSetup:
    """The action flow as a stream.

    Args:
        monitor: options; control period, layout and seed are those of the episode.
        generator: options; the control period is that of the episode.
        replace_tokens: the predictor moves the pictures on over the actions that they lack.
    """

    monitor: MonitorOptions = ALWAYS
    generator: GeneratorOptions = OVERRUN
    replace_tokens: bool = False

    def asking(self, mode: str, of: str = "plan", when: str = "salient") -> StreamSetup:
        """Return the same that observes early where a mode says so.

        Args:
            mode, of, when: MonitorOptions' mode, saliency_of and observe_when.
        """
        return replace(self, monitor=self.monitor.changed(mode=mode, saliency_of=of, observe_when=when))

    def assemble(self, policy: FlowPolicy, period_s: float, seed: int, state: Callable[[], Vector]) -> Assembly:
        """See Setup."""
        layout = policy.spec.layout
        source = Generator(layout, self.generator.changed(control_period_s=period_s))
        # of its own in every episode: with one for all, mode random would look at the same contexts of each
        monitor = self.monitor.changed(control_period_s=period_s, random_seed=seed, **layout_values(layout))
        parts = Assembly(policy, source, Monitor(monitor), learn=source.learn)
        if self.replace_tokens:
            parts.prepare = lambda observation: replace(observation, pending=source.hand_over.pending())
        return parts
