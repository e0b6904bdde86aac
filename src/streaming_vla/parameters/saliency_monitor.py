"""The parameters of the saliency monitor."""

from __future__ import annotations

from streaming_vla.parameters.shared import ACTION_LAYOUT, AUTOSTART, CONTROL_PERIOD_S
from streaming_vla.parameters.spec import Parameter

SALIENCY_MONITOR = (
    AUTOSTART,
    CONTROL_PERIOD_S,
    *ACTION_LAYOUT,
    Parameter(
        "mode",
        "always",
        "off observes only when the queue is dry (sequential), always observes early; random, action_norm (how far the "
        "arm has moved) and adaptive (what the policy says) choose when, as long as the context lasts.",
        choices=("off", "always", "random", "action_norm", "adaptive"),
        live=True,
    ),
    Parameter(
        "random_rate", 0.5, "Mode random: share of the contexts that are observed early.", low=0.0, high=1.0, live=True
    ),
    Parameter("random_seed", 0, "Mode random: of the draws.", low=0, high=2**31 - 1, live=True),
    Parameter(
        "saliency_of",
        "plan",
        "What mode adaptive asks the inference node: plan, how far it is going to move an absolute action (a gripper "
        "that opens or closes); pictures, how much the actions since the newest have changed them "
        "(needs saliency_model).",
        choices=("plan", "pictures"),
        live=True,
    ),
    Parameter(
        "saliency_threshold",
        1.0,
        "Modes action_norm and adaptive, in action units, of pictures in typical changes: from here on a change is "
        "high.",
        low=0.0,
        high=1.0e6,
        live=True,
    ),
    Parameter(
        "saliency_release",
        0.8,
        "Share of the threshold at which a change that was high stays high.",
        low=0.01,
        high=1.0,
        live=True,
    ),
    Parameter(
        "observe_when",
        "salient",
        "salient observes early where the change is high, calm where it is not.",
        choices=("salient", "calm"),
        live=True,
    ),
    Parameter(
        "early_actions",
        0,
        "Actions left when an early observation is asked for; 0 takes it from the measured latencies.",
        "actions",
        low=0,
        high=64,
        live=True,
    ),
    Parameter(
        "lead_actions",
        1,
        "The generator's lead_actions: actions that are already sent and cannot be changed any more; 0 counts them.",
        "actions",
        low=0,
        high=64,
        live=True,
    ),
    Parameter(
        "trained_delay",
        4,
        "The generator's trained_delay: a context that begins late ends earlier. 1000 where the generator leaves none "
        "out: its hand_over_start is not rezero, or its trained_delay is 1000.",
        "actions",
        low=0,
        high=1000,
        live=True,
    ),
    Parameter("max_silence_s", 2.0, "Longest time between two observations.", "s", low=0.05, high=600.0, live=True),
    Parameter(
        "request_timeout_s",
        1.5,
        "A request without a context, or a question to the predictor without an answer, for this long is asked again.",
        "s",
        low=0.05,
        high=60.0,
        live=True,
    ),
    Parameter(
        "warm_up_contexts",
        2,
        "First contexts of the process that are left out of the measured latencies.",
        "contexts",
        low=0,
        high=100,
        live=True,
    ),
    Parameter("auto_start", False, "Start an episode by itself when a new instruction arrives.", live=True),
)
