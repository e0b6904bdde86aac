"""`streaming-vla evaluate`: a policy against the simulated robot, without ROS and without a wall clock."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from streaming_vla.engine.options import CacheOptions
from streaming_vla.refusal import refuse
from streaming_vla.sim.options import RobotName
from streaming_vla.workbench.progress import counting

DEFAULT_SEEDS = "10000:10050"
DEFAULT_WAIT = "40:400"
CACHE = CacheOptions()


def parse_seeds(text: str) -> range:
    """Return the seeds of "A:B", B not included.

    Raises:
        ValueError: it is no such range.
    """
    begin, _, end = text.partition(":")
    if not (begin.isdigit() and end.isdigit() and int(begin) < int(end)):
        raise ValueError(f"seeds '{text}' are no range: give A:B with A below B, for example {DEFAULT_SEEDS}")
    return range(int(begin), int(end))


def parse_waits(text: str) -> tuple[int, int]:
    """Return the shortest and the longest wait of "A:B", in steps.

    Raises:
        ValueError: it is no such range.
    """
    low, _, high = text.partition(":")
    if not (low.isdigit() and high.isdigit() and int(low) <= int(high)):
        raise ValueError(f"wait_steps '{text}' are no range: give A:B, A at most B, for example {DEFAULT_WAIT}")
    return int(low), int(high)


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="a model's name or file")] = "compact_mt10",
    closed_loop: Annotated[bool, typer.Option("--closed-loop", help="let the policy act in the simulation")] = False,
    seeds: Annotated[str, typer.Option(help="A:B places the objects; from 10000 on no training has seen them")] = (
        DEFAULT_SEEDS
    ),
    episodes: Annotated[int | None, typer.Option(min=1, help="of each task; the first of the seeds")] = None,
    robot: Annotated[RobotName, typer.Option(help="the simulated robot")] = "metaworld",
    tasks: Annotated[
        str, typer.Option(help="names with commas between, or mt10, memory, all", show_default="mt10, of so101 all")
    ] = "",
    head: Annotated[str, typer.Option(help="flow or chunk")] = "flow",
    age: Annotated[int, typer.Option(min=0, help="control steps that an observation is old at its hand-over")] = 2,
    late: Annotated[int, typer.Option(min=0, help="control steps that every context comes late (overrun)")] = 0,
    cache: Annotated[str, typer.Option(help="full, window, gated, mean, random, attention or expected")] = "window",
    recent: Annotated[
        int | None, typer.Option(min=0, help="newest tokens kept as they are; 0: one observation [default: see --gate]")
    ] = None,
    sinks: Annotated[
        int | None, typer.Option(min=0, help="first tokens kept as they are [default: see --gate]")
    ] = None,
    chunk: Annotated[
        int | None, typer.Option(min=0, help="tokens judged together; 0: one observation [default: see --gate]")
    ] = None,
    budget: Annotated[int, typer.Option(min=1, help="most tokens of a cache with summaries")] = CACHE.cache_budget,
    capacity: Annotated[
        int | None, typer.Option(min=1, help="tokens that cache full can hold [default: those of any episode]")
    ] = None,
    gate: Annotated[
        str, typer.Option(help="of cache gated: a name or a file; sizes default to those it was trained for")
    ] = "",
    threshold: Annotated[
        float | None, typer.Option(min=0, help="least score that gated keeps; without it as calibrated with the gate")
    ] = None,
    keep_rate: Annotated[
        float, typer.Option(min=0, max=1, help="share of the chunks that random keeps")
    ] = CACHE.cache_keep_rate,
    blank: Annotated[list[str] | None, typer.Option(help="camera that shows black; again for another")] = None,
    start: Annotated[
        str, typer.Option(help="what the flow's sum counts from: rezero, episode or pending, as it was trained")
    ] = "rezero",
    instruction: Annotated[str, typer.Option(help="default, held_out or wrong")] = "default",
    maximum_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="an episode fails when it lasts longer; one of a memory task ends by itself",
            show_default="300, of so101 the task's time limit",
        ),
    ] = None,
    wait_steps: Annotated[
        str, typer.Option(help="A:B, shortest and longest wait of a memory task in steps")
    ] = DEFAULT_WAIT,
    processes: Annotated[int, typer.Option(min=1, help="one core each")] = 2,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="write the figures there, and a .md beside it")
    ] = None,
    strips: Annotated[Path | None, typer.Option(help="folder for film strips of failures")] = None,
    memory_map: Annotated[
        Path | None, typer.Option(help="picture of what the cache kept; of several episodes one each, by its name")
    ] = None,
) -> None:
    """Run a policy alone in the simulation and count its successes."""
    from kv_cache import CacheFullError
    from streaming_vla.engine.cache import differences, engine_options
    from streaming_vla.policies.models import find_model
    from streaming_vla.policies.registry import load_policy, model_files
    from streaming_vla.workbench.evaluation import closed_loop as loop
    from streaming_vla.workbench.evaluation.cache_options import choose_cache
    from streaming_vla.workbench.evaluation.closed_loop_runner import RunnerOptions
    from streaming_vla.workbench.evaluation.memory_map import check_picture, draw_memory_map
    from streaming_vla.workbench.evaluation.policy_report import tabulate, to_markdown, to_table
    from streaming_vla.workbench.processes import WorkerLost
    from streaming_vla.workbench.report.filmstrip import draw_filmstrip
    from streaming_vla.workbench.robots import ROBOTS

    warnings.filterwarnings("ignore")  # Meta-World's experts warn about constants at every step
    try:
        if not closed_loop:
            raise ValueError("evaluate needs --closed-loop: a policy can only be judged by what comes of its actions")
        chosen, waits = parse_seeds(seeds)[:episodes], parse_waits(wait_steps)
        kept = choose_cache(cache, find_model(gate) if gate else None, budget, sinks, recent, chunk)
        given = {"cache_capacity": capacity, "cache_threshold": threshold, "cache_keep_rate": keep_rate}
        kept = kept.changed(**{name: value for name, value in given.items() if value is not None})
        options = RunnerOptions(age=age, late=late, cache=kept, head=head, blank=tuple(blank or ()), start=start)
        policy = load_policy(checkpoint, saliency_model="")
        options.check(policy)
        if memory_map is not None:
            check_picture(memory_map)
        arm = ROBOTS[robot]
        names = arm.select(tasks) if tasks else arm.tasks
        steps = {task: maximum_steps or arm.steps(task) for task in names}
        trials = [loop.Trial(task, seed, instruction, steps[task], waits, robot) for task in names for seed in chosen]
        loop.wording(trials[0])
        engine = engine_options(kept, policy.spec.tokens_per_observation)
        if engine.gate is not None:
            for sentence in differences(engine.gate.training, engine.cache, model_files(checkpoint)):
                typer.echo(f"warning: {sentence}", err=True)
    except ValueError as error:
        refuse(error)
    results: list[loop.EpisodeResult] = []
    broken: Exception | None = None
    try:
        with counting() as progress:
            bar = progress.add_task("episodes", total=len(trials))
            wanted = loop.Wanted(strips is not None, memory_map is not None)
            for result in loop.evaluate(checkpoint, trials, options, processes, wanted):
                results.append(result)
                good = sum(each.success for each in results)
                progress.update(bar, advance=1, description=f"{result.trial.task}: {good}/{len(results)} in all")
                if strips is not None and result.record is not None and not result.success:
                    strips.mkdir(parents=True, exist_ok=True)
                    draw_filmstrip(result.record, strips / f"{result.trial.task}_{result.trial.seed}.png")
                if memory_map is not None and result.memory_map is not None:
                    name = f"{memory_map.stem}_{result.trial.task}_{result.trial.seed}{memory_map.suffix}"
                    draw_memory_map(result.memory_map, memory_map if len(trials) == 1 else memory_map.with_name(name))
    except (WorkerLost, CacheFullError, ValueError, OSError) as error:
        if not results:
            refuse(error)
        broken = error  # what is finished is told all the same
    results.sort(key=lambda result: trials.index(result.trial))
    table = tabulate(results, options)
    Console().print(to_table(table))
    if json_file is not None:
        try:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(table, indent=1) + "\n")
            json_file.with_suffix(".md").write_text(to_markdown(table))
        except OSError as error:
            refuse(f"'{json_file}' cannot be written: {error.strerror}")
    if broken is not None:
        refuse(f"{len(results)} of {len(trials)} episodes were run: {broken}")
