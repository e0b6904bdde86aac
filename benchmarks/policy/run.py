"""Measures the shipped policy alone, condition by condition, on held-out seeds; writes results.json and results.md.

A condition that is in results.json already is left out, so that a run can be stopped and continued. Results of other
weights or seeds are forgotten.
"""

from __future__ import annotations

import json
import statistics
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from probe import probe

from kv_cache.cache import SessionCache
from kv_cache.policies import make_policy
from kv_cache.tensor_file import file_digest
from streaming_vla.engine.options import CacheOptions
from streaming_vla.policies.compact.checkpoint import load_policy
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, prefill_whole
from streaming_vla.policies.models import find_model
from streaming_vla.sim.memory_rules import EPISODES
from streaming_vla.sim.memory_tasks import MEMORY_TASKS
from streaming_vla.sim.metaworld import MetaWorldRobot
from streaming_vla.sim.tasks import TASKS
from streaming_vla.workbench.evaluation.cache_options import FULL
from streaming_vla.workbench.evaluation.closed_loop import Trial, evaluate
from streaming_vla.workbench.evaluation.closed_loop_runner import RunnerOptions
from streaming_vla.workbench.evaluation.command import DEFAULT_SEEDS, parse_seeds
from streaming_vla.workbench.evaluation.policy_report import tabulate, to_markdown
from streaming_vla.workbench.progress import counting

FOLDER = Path(__file__).parent
HISTORY_TOKENS = 100  # four observations of the shipped policy
HISTORY = CacheOptions(cache_recent=HISTORY_TOKENS)
TIMED = 200
PROBED = 5  # episodes of each task for the stuck-state probe

# result field: how the policy flies, and which wording it is given
CONDITIONS: dict[str, tuple[RunnerOptions, str]] = {
    "mt10_mean": (RunnerOptions(cache=HISTORY), "default"),
    "mt10_chunk_mean": (RunnerOptions(cache=HISTORY, head="chunk"), "default"),
    "single_frame_mean": (RunnerOptions(), "default"),
    "wrong_instruction": (RunnerOptions(cache=HISTORY), "wrong"),
    "held_out_paraphrase": (RunnerOptions(cache=HISTORY), "held_out"),
    "blank_wrist": (RunnerOptions(cache=HISTORY, blank=("gripperPOV",)), "default"),
    "blank_corner": (RunnerOptions(cache=HISTORY, blank=("corner2",)), "default"),
    "delay4_mean": (RunnerOptions(cache=HISTORY, age=4), "default"),
    "late4_mean": (RunnerOptions(cache=HISTORY, late=4), "default"),
}
# actions that a picture is old when its context takes over, the newest observation alone
AGES = {age: RunnerOptions(age=min(age, 8), late=max(0, age - 8)) for age in (0, 4, 8, 12)}
# of the memory tasks: everything, and a window that has lost the cue
MEMORY = {"full": RunnerOptions(cache=FULL), "window": RunnerOptions(cache=HISTORY)}


def main(
    checkpoint: Annotated[str, typer.Option(help="a model's name or file")] = "compact_mt10",
    second: Annotated[str | None, typer.Option(help="the same training with another seed")] = None,
    seeds: Annotated[str, typer.Option(help="A:B")] = DEFAULT_SEEDS,
    conditions: Annotated[str, typer.Option(help="names with commas between, or all")] = "all",
    processes: Annotated[int, typer.Option(min=1)] = 2,
    output: Annotated[Path, typer.Option()] = FOLDER / "results.json",
) -> None:
    """Run every condition that is not in the results yet."""
    warnings.filterwarnings("ignore")  # Meta-World's experts warn about constants at every step
    known = [*CONDITIONS, "memory", "age"]
    wanted = known if conditions == "all" else conditions.split(",")
    if unknown := sorted(set(wanted) - set(known)):
        raise typer.BadParameter(f"unknown condition {', '.join(unknown)}: choose from {', '.join(known)}, or all")
    results: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    file, chosen = find_model(checkpoint), parse_seeds(seeds)
    subject = {"sha256": file_digest(file), "seeds": [chosen.start, chosen.stop]}
    if {name: results.get(name) for name in subject} != subject:
        results = subject
    results |= {"episodes_per_task": len(chosen)} | _latencies(file)
    tables: dict[str, Any] = results.setdefault("tables", {})
    for name in wanted:
        if name == "memory":
            _measure_memory(results, file, chosen, processes, output)
        elif name == "age":
            _measure_ages(results, file, chosen, processes, output)
        elif name not in tables:
            tables[name] = _run(file, *CONDITIONS[name], TASKS, chosen, processes, name)
            results[name] = tables[name]["mean"]
            _write(results, output)
    if second is not None and results.get("second_sha256") != file_digest(find_model(second)):
        table = _run(find_model(second), *CONDITIONS["mt10_mean"], TASKS, chosen, processes, "second seed")
        tables["second_seed_mean"], results["second_seed_mean"] = table, table["mean"]
        results["second_sha256"] = file_digest(find_model(second))
    if "stuck_probe" not in results:
        found = probe(
            load_policy(file), MetaWorldRobot(192), [(task, seed) for task in TASKS for seed in chosen[:PROBED]]
        )
        results["stuck_probe"] = {"share": found.share, **vars(found)}
    _write(results, output)


def _measure_memory(results: dict[str, Any], file: Path, seeds: range, processes: int, output: Path) -> None:
    """Run the memory tasks with each of MEMORY; chance is one of the goals."""
    for name, options in MEMORY.items():
        key = f"memory, {name}"
        if key in results["tables"]:
            continue
        table = results["tables"][key] = _run(file, options, "default", MEMORY_TASKS, seeds, processes, key)
        for task, row in table["per_task"].items():
            figures = results.setdefault("memory", {}).setdefault(task, {"chance": 1 / EPISODES[task].choices})
            figures[name] = row["success"]
        _write(results, output)


def _measure_ages(results: dict[str, Any], file: Path, seeds: range, processes: int, output: Path) -> None:
    """Run MT10 with pictures of each of AGES."""
    for age, options in AGES.items():
        key = f"age {age}"
        if key not in results["tables"]:
            table = results["tables"][key] = _run(file, options, "default", TASKS, seeds, processes, key)
            found = {"success": table["mean"], "median_steps": table["all"]["median_steps"]}
            results.setdefault("age", {})[str(age)] = found
            _write(results, output)


def _run(
    file: Path,
    options: RunnerOptions,
    instruction: str,
    tasks: Iterable[str],
    seeds: range,
    processes: int,
    name: str,
) -> dict[str, Any]:
    trials = [Trial(task, seed, instruction) for task in tasks for seed in seeds]
    done = []
    with counting() as progress:
        bar = progress.add_task(name, total=len(trials))
        for result in evaluate(str(file), trials, options, processes):
            done.append(result)
            progress.update(bar, advance=1, description=f"{name}: {sum(r.success for r in done)}/{len(done)}")
    done.sort(key=lambda result: trials.index(result.trial))
    return tabulate(done, options)


def _latencies(file: Path) -> dict[str, float]:
    """Time a flow step and the prefill of one observation behind HISTORY_TOKENS, one thread, medians in ms."""
    torch.set_num_threads(1)
    policy = load_policy(file)
    spec = policy.spec
    cache = SessionCache(spec.cache, make_policy("window", sinks=0, recent=HISTORY_TOKENS, capacity=1))
    images = np.zeros((len(spec.cameras), spec.image_size, spec.image_size, 3), dtype=np.uint8)
    observation = PolicyObservation(images, np.zeros(spec.state_size, dtype=np.float32), "open the drawer")
    prefills, steps = [], []
    for _ in range(TIMED):
        began = time.perf_counter()
        prefilled = prefill_whole(policy, observation, cache.view())
        cache.append(prefilled.keys, prefilled.values)
        prefills.append(time.perf_counter() - began)
        began = time.perf_counter()
        policy.flow_step(FlowQuery(cache.view(), spec.layout.start(), 3, prefilled.context))
        steps.append(time.perf_counter() - began)
    return {"prefill_ms": 1e3 * statistics.median(prefills), "flow_step_ms": 1e3 * statistics.median(steps)}


def _write(results: dict[str, Any], output: Path) -> None:
    tables = results["tables"]
    if "mt10_mean" in tables:
        results["per_task"] = {task: row["success"] for task, row in tables["mt10_mean"]["per_task"].items()}
    output.write_text(json.dumps(results, indent=1) + "\n")
    parts = [f"## {name}\n\n{to_markdown(table)}" for name, table in tables.items()]
    output.with_suffix(".md").write_text("\n".join(parts))


if __name__ == "__main__":
    typer.run(main)
