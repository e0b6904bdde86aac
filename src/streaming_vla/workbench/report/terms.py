"""What the figures' names mean: said wherever one is used first, in the terminal and on a page."""

T_HALT = "T_halt: time without an action to execute when a newer observation takes over (a hand-over)."
T_ACTION = "T_action: time per action with its share of the halts."
REASONS = (
    "Why an observation is sent: start; queue empty (nothing is left to execute); early (the monitor's mode chose the "
    "moment, action_norm and adaptive by saliency); last chance (the mode found no reason and the context is about to "
    "end); max silence."
)
