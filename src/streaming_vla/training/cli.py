"""`streaming-vla train`: demonstrations and the policy."""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

app = typer.Typer(no_args_is_help=True, help="Make demonstrations and train the compact policy on them.")
DEMONSTRATIONS = Path("data/demonstrations")
RUN = Path("data/policy")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    )


@contextmanager
def _one_sentence() -> Iterator[None]:
    """End the command with the sentence of a refusal instead of a traceback."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        print(f"streaming-vla: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


@app.command()
def demos(
    folder: Annotated[Path, typer.Option(help="where the episodes go")] = DEMONSTRATIONS,
    episodes: Annotated[int, typer.Option(min=1, help="episodes per task")] = 110,
    processes: Annotated[int, typer.Option(min=1, help="processes; one core each")] = 2,
) -> None:
    """Record the scripted experts of the ten tasks; what exists is not recorded again."""
    from streaming_vla.robots.tasks import TASKS
    from streaming_vla.training.demonstrations import DemonstrationOptions, record, shard_path

    warnings.filterwarnings("ignore")  # Meta-World's experts warn about constants at every step
    with _one_sentence():
        options = DemonstrationOptions(episodes=episodes)
    there = sum(shard_path(folder, task, seed).exists() for task in TASKS for seed in range(episodes))
    with _progress() as progress:
        bar = progress.add_task("episodes", total=episodes * len(TASKS), completed=there)
        for task, seed in record(folder, options, processes):
            progress.update(bar, advance=1, description=f"{task} {seed}")


@app.command()
def policy(
    folder: Annotated[Path, typer.Option(help="where checkpoints and the log go; a run there is resumed")] = RUN,
    demonstrations: Annotated[Path, typer.Option(help="what 'train demos' made")] = DEMONSTRATIONS,
    output: Annotated[Path, typer.Option(help="the finished policy")] = Path("models/compact_mt10.safetensors"),
    steps: Annotated[int, typer.Option(min=1)] = 14000,
    sequences: Annotated[int, typer.Option(min=1, help="sequences per step, over all processes")] = 20,
    processes: Annotated[int, typer.Option(min=1, help="processes; one core each")] = 2,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train the compact policy; about 75 minutes on two free cores."""
    from streaming_vla.training.dataset import check_demonstrations
    from streaming_vla.training.policy import TrainingOptions, export, train
    from streaming_vla.training.setup import mt10_config

    options = TrainingOptions(steps=steps, sequences=sequences, processes=processes, seed=seed)
    with _one_sentence():
        check_demonstrations(demonstrations)
    train(mt10_config(), demonstrations, options, folder)
    export(folder, mt10_config(), output)
    Console().print(f"the policy is in {output}; its losses are in {folder / 'log.jsonl'}")


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="a model's name or file")] = "compact_mt10",
    episodes: Annotated[int, typer.Option(min=1, help="held-out episodes per task")] = 20,
    age: Annotated[int, typer.Option(min=0, help="actions executed after an observation until its own begin")] = 2,
    recent: Annotated[int, typer.Option(min=0, help="tokens of history; 0: the newest observation only")] = 0,
    processes: Annotated[int, typer.Option(min=1)] = 2,
    output: Annotated[Path | None, typer.Option(help="JSON file for the results")] = None,
) -> None:
    """Run a policy alone against the simulation on held-out seeds: no ROS, no wall clock."""
    from streaming_vla.evaluation.closed_loop import ClosedLoopOptions
    from streaming_vla.evaluation.closed_loop import evaluate as run
    from streaming_vla.evaluation.statistics import wilson_interval
    from streaming_vla.policy.loading import load_policy
    from streaming_vla.policy.models import find_model
    from streaming_vla.robots.tasks import HELD_OUT_SEED, TASKS

    warnings.filterwarnings("ignore")
    seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + episodes)
    jobs = [(task.name, seed, task.instructions[0]) for task in TASKS.values() for seed in seeds]
    options = ClosedLoopOptions(age=age, recent=recent)
    with _one_sentence():
        file = find_model(checkpoint)
        load_policy(file)
    done: dict[str, list[bool]] = {task: [] for task in TASKS}
    with _progress() as progress:
        bar = progress.add_task("episodes", total=len(jobs))
        for result in run(file, jobs, options, processes):
            done[result.task].append(result.success)
            progress.update(bar, advance=1, description=f"{result.task} {sum(done[result.task])}")
    table = {task: f"{sum(outcomes)}/{len(outcomes)}" for task, outcomes in done.items()}
    total = sum(sum(outcomes) for outcomes in done.values())
    low, high = wilson_interval(total, len(jobs))
    Console().print(table, f"{total}/{len(jobs)} = {total / len(jobs):.3f} [{low:.3f}, {high:.3f}]")
    if output is not None:
        record = {"options": dataclasses.asdict(options), "first_seed": HELD_OUT_SEED, "successes": table}
        output.write_text(json.dumps(record | {"mean": total / len(jobs), "interval": [low, high]}, indent=1) + "\n")
