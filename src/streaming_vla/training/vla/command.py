"""`streaming-vla train flow` and `train chunk`: fine-tune a SmolVLA or pi0.5 on a data set of one's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from streaming_vla.refusal import refuse
from streaming_vla.workbench.progress import counting

RUNS = Path("data/vla")
PLAN, SMALL_PLAN = Path("config/training/vla.yaml"), Path("config/training/vla_small.yaml")
MODEL_HELP = "lerobot:/folder, or new:smolvla-small; without it the compact policy is trained, as by train policy"
Model = Annotated[str | None, typer.Option(help=MODEL_HELP)]
Data = Annotated[Path | None, typer.Option(help="recordings of your own: a data set of LeRobot")]
Assets = Annotated[Path | None, typer.Option(help="folder with tokenizer and config.json of the vision-language model")]
PlanFile = Annotated[Path | None, typer.Option(help=f"every hyperparameter; {PLAN}, of new:smolvla-small {SMALL_PLAN}")]
Folder = Annotated[
    Path | None, typer.Option(help=f"of checkpoints and log, a run there is resumed; {RUNS} and the head's name")
]
Output = Annotated[Path | None, typer.Option(help="the finished checkpoint; checkpoint in the folder of the run")]
Camera = Annotated[
    list[str] | None, typer.Option("--camera", help="of the data set, in the order that the policy sees them")
]
Seed = Annotated[int, typer.Option()]
Steps = Annotated[int | None, typer.Option(min=1, help="optimiser steps, in place of the plan's")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; a CUDA device where there is one")]
Params = Annotated[
    Path | None,
    typer.Option("--params", "--params-file", help="the robot's parameter file (control period, joints)"),
]
Resample = Annotated[
    bool, typer.Option("--resample", help="bring a data set of another rate to the control period of --params")
]
Compact = Callable[..., None]
Head = Literal["flow", "chunk"]
HELP: dict[Head, str] = {
    "flow": "Train a VLA to stream: one action a step, told where the robot is now and how old its picture is.",
    "chunk": "Train a VLA's own chunk head on the same data in the same way: what a flow head is compared with.",
}


def register(app: typer.Typer, compact: Compact) -> None:
    """Add the commands; `compact` is `train policy`."""
    for head, text in HELP.items():
        app.command(head, help=text)(_command(head, compact))


def _command(head: Head, compact: Compact) -> Callable[..., None]:
    def train(
        model: Model = None,
        data: Data = None,
        assets: Assets = None,
        plan: PlanFile = None,
        folder: Folder = None,
        output: Output = None,
        camera: Camera = None,
        seed: Seed = 0,
        steps: Steps = None,
        device: Device = None,
        params: Params = None,
        resample: Resample = False,
    ) -> None:
        if model is None:  # its two heads learn together
            for name, given in (("assets", assets), ("camera", camera), ("steps", steps), ("device", device)):
                if given is not None:
                    refuse(f"--{name} is for a VLA: give --model too")
            compact(data=data, plan=plan, folder=folder, output=output, seed=seed, params=params, resample=resample)
            return
        if data is None:
            refuse("--model is given without --data: give the data set to train it on")
        try:
            _train(head, model, data, assets, plan, folder, output, camera, seed, steps, device, params, resample)
        except (ValueError, FileNotFoundError) as error:
            refuse(error)

    return train


def _train(
    head: Head,
    model: str,
    data: Path,
    assets: Path | None,
    plan: Path | None,
    folder: Path | None,
    output: Path | None,
    cameras: list[str] | None,
    seed: int,
    steps: int | None,
    device: str | None,
    params: Path | None,
    resample: bool,
) -> None:
    import torch

    from streaming_vla.datasets.facts import read_facts
    from streaming_vla.parameters.load import read
    from streaming_vla.training.curves import draw_losses
    from streaming_vla.training.own_episodes import ReadOptions
    from streaming_vla.training.plan import read_plan
    from streaming_vla.training.vla.export import check_output, export
    from streaming_vla.training.vla.plan import VlaPlan
    from streaming_vla.training.vla.prepare import Wanted, prepare
    from streaming_vla.training.vla.small import SMALL
    from streaming_vla.training.vla.trainer import LOG, VlaTrainer

    folder = folder or RUNS / head
    output = output or folder / "checkpoint"
    check_output(output)
    chosen = read_plan(plan or (SMALL_PLAN if model == SMALL else PLAN), VlaPlan)
    if steps is not None:
        chosen = chosen.model_copy(update={"optimiser": chosen.optimiser.model_copy(update={"steps": steps})})
    if params is None:
        reading = ReadOptions(1.0 / read_facts(data).fps)
    else:
        robot = read(params)
        reading = ReadOptions(robot.generator.control_period_s, resample, state_names=robot.observer.state_joints)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    wanted = Wanted(head, model, data, chosen, folder, reading, tuple(cameras or ()), assets, seed, device)
    with counting() as progress:
        bars = {name: progress.add_task(name, total=None) for name in ("pictures", "training")}
        run, sidecar = prepare(
            wanted,
            lambda done, total: progress.update(bars["pictures"], completed=done, total=total),
            lambda sentence: print(sentence, file=sys.stderr),
        )
        trainer = VlaTrainer(run)
        progress.update(bars["training"], completed=trainer.step, total=chosen.optimiser.steps)
        learn = sum(value.numel() for value in trainer.learned.values())
        every = sum(value.numel() for value in run.policy.network.parameters())  # type: ignore[attr-defined]
        progress.console.print(f"{learn / 1e6:.1f} million numbers learn, the network has {every / 1e6:.1f}")
        trainer.train(
            lambda done, total, loss: progress.update(
                bars["training"], completed=done, total=total, description=f"{head} {loss:.4f}"
            )
        )
    export(run, sidecar, output)
    if (folder / LOG).exists() and (folder / LOG).stat().st_size:
        draw_losses(folder / LOG, folder / "losses.png")
    Console().print(
        f"the policy is in {output} (parameter model: lerobot:{output.resolve()})\nits losses: {folder}/losses.png",
        soft_wrap=True,
    )
