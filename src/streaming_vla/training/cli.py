"""`streaming-vla train`: demonstrations, the policy, the gate of its cache, its look-ahead predictor, and VLAs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import TaskID

from streaming_vla.refusal import refuse
from streaming_vla.sim.options import RobotName
from streaming_vla.training.plan import Recording, Recordings
from streaming_vla.training.setup import (
    DEMONSTRATIONS,
    DISTILL_PLAN,
    DISTILL_RUN,
    GATE_PLAN,
    GATE_RUN,
    OWN_PLAN,
    OWN_RUN,
    PLAN,
    RUN,
    SALIENCY_PLAN,
    SHIPPED,
    SO101_DEMONSTRATIONS,
    SO101_PLAN,
    compact_config,
)
from streaming_vla.training.vla.command import register
from streaming_vla.workbench.progress import counting

app = typer.Typer(no_args_is_help=True, help="Train the compact policy and its parts, or a VLA on recordings.")


@contextmanager
def _one_sentence() -> Iterator[None]:
    """End the command with the sentence of a refusal instead of a traceback."""
    try:
        yield
    except (ValueError, FileNotFoundError, ChildProcessError) as error:
        refuse(error)


@app.command()
def demos(
    robot: Annotated[RobotName, typer.Option(help="which simulated robot's experts")] = "metaworld",
    plan: Annotated[
        Path | None,
        typer.Option(help=f"training plan; its recordings are made; {PLAN}, with --robot so101 {SO101_PLAN}"),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help=f"where the episodes go; {DEMONSTRATIONS}, with --robot so101 {SO101_DEMONSTRATIONS}"),
    ] = None,
    tasks: Annotated[str, typer.Option(help="of the plan's, names with commas between; empty: all")] = "",
    episodes: Annotated[int | None, typer.Option(min=1, help="of each task, in place of the plan's")] = None,
    data: Annotated[
        Path | None, typer.Option(help="with so101: the data set of LeRobot, must not exist; set in the folder")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=16, max=480, help="with so101: pixels of a picture's side; the plan's image_size")
    ] = None,
    pilot: Annotated[
        str | None, typer.Option(help="a policy's name or file: make the piloted recordings with it, not the others")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="one core each")] = 2,
) -> None:
    """Record the scripted experts; what exists is not recorded again."""
    from streaming_vla.training.plan import read_plan

    so101 = robot == "so101"
    with _one_sentence():
        chosen = read_plan(plan or (SO101_PLAN if so101 else PLAN), Recordings)
        if chosen.robot != robot:
            raise ValueError(f"the plan is for robot {chosen.robot}, asked for is {robot}: choose another --plan")
        recordings = chosen.chosen([name.strip() for name in tasks.split(",") if name.strip()], episodes)
        if so101:
            folder = folder or SO101_DEMONSTRATIONS
            pixels = size or compact_config(chosen).image_size
            _record_so101(recordings, folder, data or folder / "set", pixels, processes)
        else:
            _record_metaworld(chosen, recordings, folder or DEMONSTRATIONS, pilot, processes)


def _record_metaworld(
    plan: Recordings, recordings: list[Recording], folder: Path, pilot: str | None, processes: int
) -> None:
    from streaming_vla.policies.models import find_model
    from streaming_vla.training.demonstrations import record, wanted_shards

    warnings.filterwarnings("ignore")  # Meta-World's experts warn about constants at every step
    checkpoint = None if pilot is None else find_model(pilot)
    wanted = [(each, wanted_shards(folder, each)) for each in recordings if each.piloted == (pilot is not None)]
    with counting() as progress:
        there = sum(shard.path.exists() for _, shards in wanted for shard in shards)
        bar = progress.add_task("episodes", total=sum(len(shards) for _, shards in wanted), completed=there)
        for recording, shards in wanted:
            for shard in record(shards, recording, compact_config(plan).image_size, processes, checkpoint):
                progress.update(bar, advance=1, description=f"{shard.task} {shard.seed}")


def _record_so101(recordings: list[Recording], folder: Path, data: Path, size: int, processes: int) -> None:
    from streaming_vla.training.so101_demonstrations import join, lessons, recorded, teach

    if data.exists():
        raise ValueError(f"data set '{data}' exists already: choose another --data; the parts in {folder} are taken")
    wanted = lessons(folder / "parts", recordings, size)
    with counting() as progress:
        done = sum(len(lesson.seeds) for lesson in wanted if recorded(lesson))
        bar = progress.add_task("episodes", total=sum(len(lesson.seeds) for lesson in wanted), completed=done)
        for lesson in teach(wanted, processes):
            progress.update(bar, advance=len(lesson.seeds), description=f"{lesson.task} {lesson.seeds[-1]}")
    print(f"{join(wanted, data)} episodes are in {data}, a data set of LeRobot")


@app.command()
def policy(
    data: Annotated[Path | None, typer.Option(help="recordings of your own: a data set of LeRobot")] = None,
    plan: Annotated[
        Path | None, typer.Option(help=f"every hyperparameter; without it {PLAN}, with --data {OWN_PLAN}")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help=f"of checkpoints and log, a run there is resumed; {RUN}, with --data {OWN_RUN}"),
    ] = None,
    demonstrations: Annotated[Path, typer.Option(help="what 'train demos' made")] = DEMONSTRATIONS,
    output: Annotated[
        Path | None, typer.Option(help=f"the finished policy; {SHIPPED}, with --data policy.safetensors of the folder")
    ] = None,
    initial: Annotated[
        str | None,
        typer.Option(help="policy to start from: name, file or none; with --data the shipped one, else none"),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="one core each")] = 2,
    seed: Annotated[int, typer.Option()] = 0,
    params: Annotated[
        Path | None,
        typer.Option(
            "--params",
            "--params-file",
            help="with --data: the robot's parameter file (control period, joints)",
        ),
    ] = None,
    resample: Annotated[
        bool, typer.Option("--resample", help="with --data: bring a data set of another rate to the control period")
    ] = False,
    clip: Annotated[bool, typer.Option("--clip", help="with --data: bring actions within the plan's limits")] = False,
) -> None:
    """Train the compact policy as the plan says, or fine-tune it on recordings, and write it with its loss curves."""
    from streaming_vla.parameters.load import read
    from streaming_vla.policies.models import find_model
    from streaming_vla.training.curves import draw_losses
    from streaming_vla.training.own_data import prepare
    from streaming_vla.training.own_episodes import ReadOptions
    from streaming_vla.training.plan import load_plan
    from streaming_vla.training.trainer import Run, check_initial, export, train

    initial = initial or ("none" if data is None else SHIPPED.stem)
    folder = folder or (RUN if data is None else OWN_RUN)
    output = output or (SHIPPED if data is None else folder / "policy.safetensors")
    with _one_sentence():
        chosen = load_plan(plan or (PLAN if data is None else OWN_PLAN))
        start = None if initial == "none" else find_model(initial)
        if data is None:
            config = compact_config(chosen)
            if start is not None:
                check_initial(start, config)
            run = Run(config, demonstrations, chosen, folder, seed, processes, start)
        else:
            robot = read(params)
            period_s, joints = robot.generator.control_period_s, robot.observer.state_joints
            own = prepare(data, chosen, folder, start, ReadOptions(period_s, resample, clip, joints))
            for sentence in own.told:
                print(sentence, file=sys.stderr)
            print(f"{own.episodes.total()} episodes: " + ", ".join(f"{n} of '{t}'" for t, n in own.episodes.items()))
            run = Run(own.config, own.demonstrations, own.plan, folder, seed, processes, own.initial)
        train(run)
        export(run, output)
        draw_losses(folder / "log.jsonl", folder / "losses.png")
    Console().print(f"the policy is in {output}; its losses are in {folder / 'losses.png'}")


register(app, policy)


@app.command()
def gate(
    policy: Annotated[str, typer.Option(help="the policy's name or file that the gate is for")] = "compact_mt10",
    model: Annotated[
        str | None, typer.Option(help="hf:/folder of a Hugging Face decoder, distilled without labels; no --policy")
    ] = None,
    sequences: Annotated[
        list[Path] | None,
        typer.Option(help="with --model: text files, token files (.npy, .safetensors) or folders; give it repeatedly"),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help=f"every hyperparameter; {GATE_PLAN}, with --model {DISTILL_PLAN}")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help=f"where checkpoints and the log go; a run there is resumed; {GATE_RUN}, {DISTILL_RUN}"),
    ] = None,
    demonstrations: Annotated[Path, typer.Option(help="what 'train demos' made")] = DEMONSTRATIONS,
    output: Annotated[
        Path | None, typer.Option(help="the finished gate; of the compact policy models/compact_mt10_gate.safetensors")
    ] = None,
    policy_output: Annotated[
        Path | None, typer.Option(help="the policy that has learned too, where the plan's policy_rate is not 0")
    ] = None,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train the gate that says which chunks of the history a cache keeps: the compact policy's, or any decoder's."""
    if (model is None) != (sequences is None):
        refuse("--model and --sequences go together: the decoder, and what it is to be taught on")
    bar: TaskID

    def show(done: int, total: int) -> None:
        progress.update(bar, completed=done, total=total)

    with _one_sentence(), counting() as progress:
        bar = progress.add_task("training", total=None)
        if model is not None and sequences is not None:
            output = output or (folder or DISTILL_RUN) / "gate.safetensors"
            figures = _distil(model, tuple(sequences), plan or DISTILL_PLAN, folder or DISTILL_RUN, output, seed, show)
        else:
            output = output or Path("models/compact_mt10_gate.safetensors")
            run = (policy, plan or GATE_PLAN, folder or GATE_RUN, demonstrations, output, policy_output, seed)
            figures = _train_gate(*run, show)
    Console().print_json(data=figures)
    Console().print(f"the gate is in {output}")


Show = Callable[[int, int], None]


def _distil(
    model: str, sequences: tuple[Path, ...], plan: Path, folder: Path, output: Path, seed: int, show: Show
) -> dict[str, Any]:
    from streaming_vla.training.distill_plan import DistillPlan
    from streaming_vla.training.plan import read_plan

    if not model.startswith("hf:"):
        raise ValueError(f"--model is '{model}', expected hf:/folder of a Hugging Face decoder")
    chosen = read_plan(plan, DistillPlan)
    try:
        from streaming_vla.training.distill_run import DistillRun
        from streaming_vla.training.distill_trainer import ModelGateTrainer
        from streaming_vla.training.head_trainer import HeadGateTrainer
    except ImportError as error:
        raise ValueError(f"--model hf: needs transformers ({error}): pip install '.[huggingface]'") from error
    run = DistillRun(Path(model.removeprefix("hf:")), sequences, chosen, folder, seed)
    trainer = HeadGateTrainer(run, show) if chosen.per == "head" else ModelGateTrainer(run, show)
    trainer.train()
    figures = trainer.finish(output)
    print(f"losses and kept rate are in {trainer.picture()}", file=sys.stderr)
    return figures


def _train_gate(
    policy: str,
    plan: Path,
    folder: Path,
    demonstrations: Path,
    output: Path,
    policy_output: Path | None,
    seed: int,
    show: Show,
) -> dict[str, Any]:
    from streaming_vla.policies.models import find_model
    from streaming_vla.training.gate_plan import GatePlan
    from streaming_vla.training.gate_trainer import GateRun, GateTrainer
    from streaming_vla.training.plan import read_plan

    chosen = read_plan(plan, GatePlan)
    if (chosen.learning.policy_rate > 0) != (policy_output is not None):
        raise ValueError("--policy-output goes with a plan whose learning.policy_rate is above 0, and only with it")
    trainer = GateTrainer(GateRun(find_model(policy), demonstrations, chosen, folder, seed), show)
    trainer.train()
    return trainer.finish(output, policy_output)


@app.command()
def saliency(
    model: Annotated[str, typer.Option(help="the policy's name or file; its encoder stays as it is")] = "compact_mt10",
    plan: Annotated[Path, typer.Option(help="plan of the predictor: every hyperparameter")] = SALIENCY_PLAN,
    demonstrations: Annotated[Path, typer.Option(help="what 'train demos' made")] = DEMONSTRATIONS,
    output: Annotated[
        Path | None, typer.Option(help="the finished predictor; default: models/<model>_saliency.safetensors")
    ] = None,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train the predictor of what the base camera sees after the pending actions, and check it on other episodes."""
    import torch

    from streaming_vla.policies.compact.checkpoint import load_policy
    from streaming_vla.policies.models import find_model
    from streaming_vla.training.plan import read_plan
    from streaming_vla.training.saliency import train_saliency
    from streaming_vla.training.saliency_plan import SaliencyPlan

    torch.set_num_threads(1)
    with _one_sentence():
        chosen = read_plan(plan, SaliencyPlan)
        file = find_model(model)
        target = output or Path("models") / f"{file.stem}_saliency.safetensors"
        with counting() as progress:
            bars = {name: progress.add_task(name, total=None) for name in ("encoding episodes", "training steps")}
            check = train_saliency(
                load_policy(file),
                demonstrations,
                chosen,
                target,
                seed,
                lambda name, done, total: progress.update(bars[name], completed=done, total=total),
            )
    Console().print(f"{check.sentence()}\nthe predictor is in {target}", soft_wrap=True)
