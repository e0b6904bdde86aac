"""`streaming-vla evaluate`: a policy against the simulated robot, without ROS and without a wall clock."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from streaming_vla.evaluation.progress import counting

DEFAULT_SEEDS = "10000:10050"


def parse_seeds(text: str) -> range:
    """Return the seeds of "A:B", B not included.

    Raises:
        ValueError: it is no such range.
    """
    begin, _, end = text.partition(":")
    if not (begin.isdigit() and end.isdigit() and int(begin) < int(end)):
        raise ValueError(f"seeds '{text}' are no range: give A:B with A below B, for example {DEFAULT_SEEDS}")
    return range(int(begin), int(end))


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="a model's name or file")] = "compact_mt10",
    closed_loop: Annotated[bool, typer.Option("--closed-loop", help="let the policy act in the simulation")] = False,
    seeds: Annotated[str, typer.Option(help="A:B places the objects; from 10000 on no training has seen them")] = (
        DEFAULT_SEEDS
    ),
    episodes: Annotated[int | None, typer.Option(min=1, help="of each task; the first of the seeds")] = None,
    tasks: Annotated[str, typer.Option(help="names with commas between, or mt10, memory, all")] = "mt10",
    head: Annotated[str, typer.Option(help="flow or chunk")] = "flow",
    age: Annotated[int, typer.Option(min=0, help="control steps that an observation is old at its hand-over")] = 2,
    late: Annotated[int, typer.Option(min=0, help="control steps that every context comes late (overrun)")] = 0,
    recent: Annotated[int, typer.Option(min=0, help="tokens of history; 0: the newest observation only")] = 0,
    blank: Annotated[list[str] | None, typer.Option(help="camera that shows black; again for another")] = None,
    instruction: Annotated[str, typer.Option(help="default, held_out or wrong")] = "default",
    maximum_steps: Annotated[int, typer.Option(min=1, help="an episode fails when it lasts longer")] = 300,
    processes: Annotated[int, typer.Option(min=1, help="one core each")] = 2,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="write the figures there, and a .md beside it")
    ] = None,
    strips: Annotated[Path | None, typer.Option(help="folder for film strips of failures")] = None,
) -> None:
    """Run a policy alone in the simulation and count its successes."""
    from streaming_vla.evaluation import closed_loop as loop
    from streaming_vla.evaluation.filmstrip import draw_filmstrip
    from streaming_vla.evaluation.pilot import PilotOptions
    from streaming_vla.evaluation.policy_report import tabulate, to_markdown
    from streaming_vla.policy.loading import load_policy
    from streaming_vla.policy.models import find_model
    from streaming_vla.robots.tasks import select_tasks

    warnings.filterwarnings("ignore")  # Meta-World's experts warn about constants at every step
    try:
        if not closed_loop:
            raise ValueError("evaluate needs --closed-loop: a policy can only be judged by what comes of its actions")
        chosen = parse_seeds(seeds)[:episodes]
        options = PilotOptions(age=age, late=late, recent=recent, head=head, blank=tuple(blank or ()))
        file = find_model(checkpoint)
        options.check(load_policy(file))
        trials = [loop.Trial(task, seed, instruction, maximum_steps) for task in select_tasks(tasks) for seed in chosen]
        loop.wording(trials[0])
    except ValueError as error:
        print(f"streaming-vla: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    results = []
    with counting() as progress:
        bar = progress.add_task("episodes", total=len(trials))
        for result in loop.evaluate(file, trials, options, processes, pictures=strips is not None):
            results.append(result)
            good = sum(each.success for each in results)
            progress.update(bar, advance=1, description=f"{result.trial.task}: {good}/{len(results)} in all")
            if strips is not None and result.record is not None and not result.success:
                strips.mkdir(parents=True, exist_ok=True)
                draw_filmstrip(result.record, strips / f"{result.trial.task}_{result.trial.seed}.png")
    results.sort(key=lambda result: trials.index(result.trial))
    table = tabulate(results, options)
    Console().print(to_markdown(table))
    if json_file is not None:
        try:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(table, indent=1) + "\n")
            json_file.with_suffix(".md").write_text(to_markdown(table))
        except OSError as error:
            print(f"streaming-vla: '{json_file}' cannot be written: {error.strerror}", file=sys.stderr)
            raise typer.Exit(1) from error
