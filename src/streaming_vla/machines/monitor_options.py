"""When the saliency monitor observes: its options, checked."""

from __future__ import annotations

from dataclasses import dataclass

from streaming_vla.machines.options import require_choice, require_count, require_period
from streaming_vla.saliency.decision import (
    SALIENCY_OF,
    WHEN,
    ActionNorm,
    Adaptive,
    Always,
    EarlyDecision,
    Gate,
    Never,
    RandomRate,
)

MODES = ("off", "always", "random", "action_norm", "adaptive")


@dataclass(frozen=True)
class MonitorOptions:
    """When to observe.

    Args:
        mode: "off" (only when the queue is dry), "always" (early, before it is), or early where it is decided so:
            "random" (for a share of the contexts), "action_norm" (how far the arm has moved since the picture),
            "adaptive" (what the policy says).
        early_actions: observe early with so many actions left, the one that begins included; 0: as many as
            the measured latencies need for a hand-over at the execution horizon.
        lead_actions: actions that the generator sends ahead; 0: as many as the executor has in its queue.
        control_period_s: an action lasts so long (T_e), seconds.
        max_silence_s: observe at the latest so long after the last request, seconds.
        request_timeout_s: ask again when nothing came of a request, or of a question to the policy, for so long,
            seconds.
        warm_up_contexts: first contexts whose latency is left out.
        random_rate: mode random: share of the contexts that are observed early.
        random_seed: mode random: of the draws.
        saliency_of: mode adaptive: "plan" (what it is going to do) or "pictures" (how they have changed), see
            decision.py.
        saliency_threshold: action_norm and adaptive, of the plan in action units, of pictures in units of a typical
            change.
        saliency_release: share of the threshold at which what was high stays high.
        observe_when: "salient": observe where something changes; "calm": where nothing does (see decision.py).
        trained_delay: the generator's (see generator.py).
        last_chance: send with m + 1 actions left of the trained horizon whatever the mode says; mode off never does.
        absolute: of each action dimension, True where it is no change; empty: all are changes.

    Raises:
        ValueError: an option out of range.
    """

    mode: str = "always"
    early_actions: int = 0
    lead_actions: int = 1
    control_period_s: float = 0.05
    max_silence_s: float = 2.0
    request_timeout_s: float = 2.0
    warm_up_contexts: int = 2
    random_rate: float = 0.5
    random_seed: int = 0
    saliency_of: str = "plan"
    saliency_threshold: float = 1.0
    saliency_release: float = 0.8
    observe_when: str = "salient"
    trained_delay: int = 4
    last_chance: bool = True
    absolute: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        require_choice("mode", self.mode, MODES)
        require_choice("saliency_of", self.saliency_of, SALIENCY_OF)
        require_choice("observe_when", self.observe_when, WHEN)
        self.decision()
        require_count("early_actions", self.early_actions, 0)
        require_count("lead_actions", self.lead_actions, 0)
        require_count("trained_delay", self.trained_delay, 0)
        require_period("control_period_s", self.control_period_s)
        require_period("max_silence_s", self.max_silence_s)
        require_period("request_timeout_s", self.request_timeout_s)
        require_count("warm_up_contexts", self.warm_up_contexts, 0)

    @property
    def rule(self) -> tuple[object, ...]:
        """The mode and what its rule is made of: while that stays the same, the rule keeps what it remembers."""
        gate = (self.saliency_threshold, self.saliency_release, self.observe_when)
        made_of = {
            "random": (self.random_rate, self.random_seed),
            "action_norm": gate,
            "adaptive": (self.saliency_of, *gate),
        }
        return (self.mode, *made_of.get(self.mode, ()))

    def decision(self) -> EarlyDecision:
        """Return a new rule of the mode."""
        gate = Gate(self.saliency_threshold, self.saliency_release)
        random = RandomRate(self.random_rate, self.random_seed)
        rules: dict[str, EarlyDecision] = {
            "off": Never(),
            "always": Always(),
            "random": random,
            "action_norm": ActionNorm(gate, self.observe_when),
            "adaptive": Adaptive(gate, self.observe_when),
        }
        return rules[self.mode]
