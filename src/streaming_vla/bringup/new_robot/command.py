"""The command `streaming-vla new-robot`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from streaming_vla.bringup.new_robot.asking import Ask
from streaming_vla.bringup.new_robot.choices import Said, make_choices
from streaming_vla.bringup.new_robot.facts import PolicyFacts, Range, RobotFacts
from streaming_vla.bringup.new_robot.plan import Plan, make_plan
from streaming_vla.bringup.new_robot.writing import render
from streaming_vla.parameters import load
from streaming_vla.refusal import refuse


def new_robot(
    model: Annotated[str, typer.Option(help="as the parameter `model`: lerobot:/folder, python:..., a name or file")],
    namespace: Annotated[str, typer.Option(help="namespace of the robot")] = "/",
    out: Annotated[Path, typer.Option("--out", "-o", help="the parameter file")] = Path("my_robot.yaml"),
    data: Annotated[
        Path | None, typer.Option(help="LeRobot data set of the training: tells names and rate; meta/ is enough")
    ] = None,
    assets: Annotated[str, typer.Option(help="folder of tokenizer and VLM configuration (model_assets)")] = "",
    changes: Annotated[bool, typer.Option("--changes", help="the actions are changes, not targets")] = False,
    camera: Annotated[list[str] | None, typer.Option(help="policy's camera=topic; more than once")] = None,
    without: Annotated[list[str] | None, typer.Option(help="policy's camera that is not there; more than once")] = None,
    joints: Annotated[str, typer.Option(help="joints in the policy's order, with commas between")] = "",
    state_topic: Annotated[str | None, typer.Option(help="topic of the robot's state")] = None,
    command: Annotated[str | None, typer.Option(help="topic that takes the robot's commands")] = None,
    units: Annotated[str | None, typer.Option(help="of the policy's joints: radians, degrees or range")] = None,
    joint_range: Annotated[list[str] | None, typer.Option(help="joint=low:high in rad or m; more than once")] = None,
    fps: Annotated[float | None, typer.Option(help="actions per second")] = None,
) -> None:
    """Write the parameter file of a robot from its live graph and a policy; asks what is not clear."""
    from streaming_vla.bringup.policy_facts import policy_facts
    from streaming_vla.bringup.robot_graph import look
    from streaming_vla.engine.options import ModelOptions

    try:
        if out.exists():
            raise ValueError(f"'{out}' exists already: choose another file with --out, or remove it")
        limits = _pairs(joint_range or [], "--joint-range", "gripper=0:1.7")
        said = Said(
            cameras=_pairs(camera or [], "--camera", "top=/camera/top/image_raw"),
            joints=tuple(name.strip() for name in joints.split(",") if name.strip()),
            state_topic=state_topic,
            command=command,
            units=units,
            ranges={name: _range(name, text) for name, text in limits.items()},
            fps=fps,
        )
        options = ModelOptions(
            model=_absolute(model),
            model_assets=str(Path(assets).expanduser().resolve()) if assets else "",
            model_action_absolute=not changes,
        )
        policy = policy_facts(options, data, without or ())
        plan = write(out, policy, look(namespace), said, _ask if sys.stdin.isatty() else None)
    except (ValueError, OSError) as error:
        refuse("\n".join(str(error).splitlines()))
    guesses = [entry.name for entries in plan.sections.values() for entry in entries if entry.guessed]
    print(f"{out} is written. Look at what is guessed: {', '.join(guesses) or 'nothing'}.")
    for sentence in plan.pose:
        print(f"LOOK: {sentence}")
    print(f"Next: streaming-vla doctor --params-file {out}, then docs/how-to/first-motion.md.")


def write(out: Path, policy: PolicyFacts, robot: RobotFacts, said: Said, ask: Ask | None) -> Plan:
    """Write the parameter file and read it again as the nodes will; return what it says.

    Raises:
        ValueError: something is not clear, or what was written is not what the nodes take; the file is gone then.
        OSError: the file cannot be written.
    """
    plan = make_plan(policy, robot, make_choices(policy, robot, said, ask))
    out.write_text(render(plan, policy), encoding="utf-8")
    try:
        load.read(out, robot.namespace).check_policy(policy.spec)
    except ValueError:
        out.unlink()
        raise
    return plan


def _absolute(model: str) -> str:
    """Return a model whose folder is named from the root on: the nodes may be started elsewhere."""
    scheme, _, address = model.partition(":")
    return f"lerobot:{Path(address).expanduser().resolve()}" if scheme == "lerobot" and address else model


def _ask(question: str, answers: Sequence[str]) -> str:
    """Ask on the terminal; answers may be given by their number."""
    print(question)
    for number, answer in enumerate(answers, start=1):
        print(f"  {number}  {answer}")
    text = str(typer.prompt("number" if answers else "answer")).strip()
    return answers[int(text) - 1] if text.isdigit() and 1 <= int(text) <= len(answers) else text


def _pairs(entries: Sequence[str], option: str, example: str) -> dict[str, str]:
    pairs = [entry.partition("=") for entry in entries]
    for name, _, value in pairs:
        if not name or not value:
            raise ValueError(f"{option} is '{name}{_}{value}', expected {example}")
    return {name: value for name, _, value in pairs}


def _range(name: str, text: str) -> Range:
    low, _, high = text.partition(":")
    try:
        found = float(low), float(high)
    except ValueError as error:
        raise ValueError(
            f"--joint-range {name}={text}: expected LOW:HIGH in rad or m, as in {name}=-1.9:1.9"
        ) from error
    if not found[0] < found[1]:
        raise ValueError(f"--joint-range {name}={text}: expected the lower limit before the upper one")
    return found
