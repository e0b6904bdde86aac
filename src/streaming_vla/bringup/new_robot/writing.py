"""The text of a robot's parameter file: every value with a comment that says where it comes from."""

from __future__ import annotations

import textwrap

from streaming_vla.bringup.new_robot.facts import PolicyFacts
from streaming_vla.bringup.new_robot.plan import Entry, Plan
from streaming_vla.parameters.document import as_yaml
from streaming_vla.parameters.sections import KEY

WIDTH = 118


def render(plan: Plan, policy: PolicyFacts) -> str:
    """Return the text of the file."""
    lines = _comment(
        f"A robot for {policy.model}, written by `streaming-vla new-robot`. What is not here has its default."
    )
    lines += _comment("Lines with GUESSED have to be looked at before the robot moves; docs/how-to/first-motion.md.")
    for sentence in plan.pose:
        lines += _comment(f"LOOK: {sentence}")
    for section, entries in plan.sections.items():
        lines += ["", f"{section}:", f"  {KEY}:"]
        for entry in entries:
            lines += [*_comment(_why(entry), "    "), f"    {entry.name}: {as_yaml(entry.value)}"]
    return "\n".join(lines) + "\n"


def _why(entry: Entry) -> str:
    return f"GUESSED from: {entry.why}" if entry.guessed else f"From: {entry.why}"


def _comment(text: str, indent: str = "") -> list[str]:
    """Return a text as comments; what a stranger's file says cannot end one."""
    plain = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return textwrap.wrap(plain, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
