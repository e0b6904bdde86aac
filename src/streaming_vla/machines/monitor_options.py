"""The options of the saliency monitor: when it observes."""

from __future__ import annotations

from typing import Literal, get_args

from streaming_vla.options.option import option
from streaming_vla.options.shared import ActionOptions, ContextOptions, NodeOptions
from streaming_vla.saliency.decision import (
    ActionNorm,
    Adaptive,
    Always,
    EarlyDecision,
    Gate,
    Never,
    RandomRate,
    SaliencyOf,
    When,
)

Mode = Literal["off", "always", "random", "action_norm", "adaptive"]
MODES = get_args(Mode)


class MonitorOptions(ContextOptions, ActionOptions, NodeOptions):
    """When to observe."""

    mode: Mode = option(
        "always",
        "off observes only when the queue is dry (synchronous), always observes early; random, action_norm (how far "
        "the arm has moved) and adaptive (what the policy says) choose when, as long as the context lasts.",
        live=True,
    )
    random_rate: float = option(
        0.5, "Mode random: share of the contexts that are observed early.", live=True, ge=0.0, le=1.0
    )
    random_seed: int = option(0, "Mode random: of the draws.", live=True, ge=0, le=2**31 - 1)
    saliency_of: SaliencyOf = option(
        "plan",
        "What mode adaptive asks the inference node: plan, how far it is going to move an absolute action (a gripper "
        "that opens or closes); pictures, how much the actions since the newest have changed them "
        "(needs saliency_model); doubt, how much better a picture of now would make its actions (a policy that has "
        "learned to say so).",
        live=True,
    )
    saliency_threshold: float = option(
        1.0,
        "Modes action_norm and adaptive, in action units, of pictures in typical changes: from here on a change is "
        "high.",
        live=True,
        ge=0.0,
        le=1.0e6,
    )
    saliency_release: float = option(
        0.8, "Share of the threshold at which a change that was high stays high.", live=True, ge=0.01, le=1.0
    )
    observe_when: When = option(
        "salient", "salient observes early where the change is high, calm where it is not.", live=True
    )
    early_actions: int = option(
        0,
        "Actions left when an early observation is asked for; 0 takes it from the measured latencies.",
        "actions",
        live=True,
        ge=0,
        le=64,
    )
    last_chance: bool = option(
        True,
        "Before a context ends observe whatever the mode says; mode off never does. false is for comparisons only.",
        live=True,
    )
    max_silence_s: float = option(2.0, "Longest time between two observations.", "s", live=True, ge=0.05, le=600.0)
    request_timeout_s: float = option(
        1.5,
        "A request without a context, or a question to the predictor without an answer, for this long is asked again.",
        "s",
        live=True,
        ge=0.05,
        le=60.0,
    )
    warm_up_contexts: int = option(
        2,
        "First contexts of the process that are left out of the measured latencies.",
        "contexts",
        live=True,
        ge=0,
        le=100,
    )
    continue_without_history: bool = option(
        False,
        "Go on with an episode when an inference that was started again has lost a history that no newer observations "
        "replace (a cache that keeps all, or summaries); false: the episode ends.",
        live=True,
    )
    success_topic: str = option(
        "success",
        "Topic of the robot's own check (std_msgs/Bool, reliable): true ends a goal of `execute_instruction` as done.",
    )
    auto_start: bool = option(False, "Start an episode by itself when a new instruction arrives.", live=True)

    @property
    def threshold(self) -> float | None:
        """The saliency's threshold; None where the mode reads none."""
        return self.saliency_threshold if self.mode in ("action_norm", "adaptive") else None

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
