"""Measures what a trained gate is worth to the policy: memory tasks and MT10 in closed loop, cache by cache.

Every finished episode is a line of memory_episodes.jsonl; a second call goes on where the first one ended. An episode
of other weights or another wait counts as another one.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import ten_hours
import typer
from plots import draw_memory

from kv_cache.tensor_file import file_digest
from streaming_vla.engine.options import CacheOptions
from streaming_vla.policies.compact.checkpoint import load_policy
from streaming_vla.policies.models import find_model
from streaming_vla.sim.tasks import HELD_OUT_SEED, TASKS, select_tasks
from streaming_vla.workbench.evaluation.cache_options import choose_cache, gated_cache, with_gate_digest
from streaming_vla.workbench.evaluation.closed_loop import Trial, evaluate
from streaming_vla.workbench.evaluation.closed_loop_runner import RunnerOptions
from streaming_vla.workbench.evaluation.command import parse_waits
from streaming_vla.workbench.processes import RESUMED, map_in_processes
from streaming_vla.workbench.progress import counting
from streaming_vla.workbench.report.statistics import wilson_interval

HERE = Path(__file__).parent
KEYED = ("policy", "sinks", "recent", "chunk", "budget", "capacity", "gate", "threshold", "keep_rate")
EVERYTHING = 16_384  # tokens: room for every summary
MT10_POLICIES = ("full", "window", "gated")
MT10_WINDOW = 100  # tokens of history with which the policy is measured in benchmarks/policy


@dataclass(frozen=True)
class Condition:
    """Episodes of one kind: a task under a cache.

    Args:
        name: of the cache in the results.
        wait_steps: of a memory task.
    """

    task: str
    name: str
    cache: CacheOptions
    wait_steps: tuple[int, int]

    def key(self, weights: str) -> str:
        """Return what tells an episode of this condition from others of the file."""
        cache = with_gate_digest(self.cache).values()
        sizes = {name: cache[f"cache_{name}"] for name in KEYED}
        if sizes["threshold"] < 0.0:  # as calibrated
            sizes["threshold"] = None
        whole = json.dumps([weights, self.task, self.wait_steps, sizes])
        return f"{self.task} {self.cache.cache_policy} {hashlib.sha256(whole.encode()).hexdigest()[:12]}"


class Episodes:
    """The finished episodes: a file of lines, by condition and seed."""

    def __init__(self, path: Path, checkpoint: Path, processes: int) -> None:
        self._path, self._checkpoint, self._processes = path, checkpoint, processes
        self._weights = file_digest(checkpoint)[:16]
        lines = path.read_text().splitlines() if path.exists() else []
        self._rows: dict[tuple[str, int], dict[str, Any]] = {}
        for line in lines:
            row = json.loads(line)
            self._rows[row["key"], row["seed"]] = row

    def run(self, condition: Condition, seeds: range) -> list[dict[str, Any]]:
        """Run what is missing of a condition; return the rows of all seeds."""
        key = condition.key(self._weights)
        trials = [
            Trial(condition.task, seed, wait_steps=condition.wait_steps)
            for seed in seeds
            if (key, seed) not in self._rows
        ]
        options = RunnerOptions(age=ten_hours.AGE, cache=condition.cache)
        found = (
            {"seed": result.trial.seed, "success": result.success, **asdict(result.memory)}
            for result in evaluate(str(self._checkpoint), trials, options, self._processes)
        )
        self._take(key, found if trials else (), f"{condition.task} {condition.name}", len(trials))
        return [self._rows[key, seed] for seed in seeds]

    def run_ten_hours(self, cache: CacheOptions, task: str, observations: int, seeds: range) -> list[dict[str, Any]]:
        """Run what is missing of the long memory; return the rows of all seeds."""
        key = f"{observations} observations, {Condition(task, '', cache, (0, 0)).key(self._weights)}"
        missing = [seed for seed in seeds if (key, seed) not in self._rows]
        if missing:
            work = functools.partial(
                ten_hours.run, checkpoint=self._checkpoint, cache=cache, task=task, observations=observations
            )
            done = (row for _, row in map_in_processes(work, missing, self._processes, again=RESUMED))
            self._take(key, done, f"{observations} observations", len(missing))
        return [self._rows[key, seed] for seed in seeds]

    def _take(self, key: str, found: Iterable[dict[str, Any]], description: str, total: int) -> None:
        with counting() as progress, self._path.open("a") as file:
            for row in progress.track(found, total=total, description=description):
                self._rows[key, row["seed"]] = row
                file.write(json.dumps({"key": key, **row}) + "\n")
                file.flush()


def main(
    gate: Annotated[list[str], typer.Option(help="the gate's name or file; again for those of further training seeds")],
    checkpoint: Annotated[list[str], typer.Option(help="the policy's, in the order of the gates")],
    episodes: Annotated[int, typer.Option(min=1, help="of every task and cache, seeds from 10000 on")] = 100,
    tasks: Annotated[str, typer.Option(help="names with commas between, or memory")] = "memory",
    policies: Annotated[
        str, typer.Option(help="caches beside gated; NAME:EPISODES for fewer")
    ] = "full,window,random,mean,attention:20,expected:20",
    wait_steps: Annotated[str, typer.Option(help="A:B, steps; ten make an observation of 25 tokens")] = "1000:1000",
    budget: Annotated[int, typer.Option(min=1, help="tokens, of the caches that have one")] = 82,
    mt10_episodes: Annotated[int, typer.Option(min=0, help="of every MT10 task; 0: none")] = 50,
    long_episodes: Annotated[int, typer.Option(min=0, help="of the long memory; 0: none")] = 30,
    long_observations: Annotated[int, typer.Option(min=1, help="between cue and choice")] = 10_000,
    processes: Annotated[int, typer.Option(min=1, help="one core each")] = 2,
    out: Annotated[Path, typer.Option(help="folder of results.json and memory.png")] = HERE,
) -> None:
    """Run what is missing and write it into results.json.

    The first gate and its policy run everything; those of further training seeds the memory tasks, gated and full.
    """
    warnings.filterwarnings("ignore")  # Meta-World's experts warn about constants at every step
    if len(gate) != len(checkpoint):
        raise typer.BadParameter(f"{len(gate)} gates and {len(checkpoint)} checkpoints: give every gate its policy's")
    waits, chosen = parse_waits(wait_steps), select_tasks(tasks)
    for policy in checkpoint:
        load_policy(find_model(policy))  # one that cannot be used is refused here, not in a process
    trained = [
        (Episodes(out / "memory_episodes.jsonl", find_model(policy), processes), gated_cache(find_model(name), budget))
        for name, policy in zip(gate, checkpoint, strict=True)
    ]
    (runs, gated), *others = trained
    seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + episodes)
    path = out / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    pairs = " ".join(f"--gate {name} --checkpoint {policy}" for name, policy in zip(gate, checkpoint, strict=True))
    results |= {
        "memory_command": f"python benchmarks/kv_cache/memory.py {pairs} --episodes {episodes} "
        f"--policies {policies} --wait-steps {wait_steps} --budget {budget}",
        "memory_weights": {
            "policy": file_digest(find_model(checkpoint[0])),
            "gate": file_digest(find_model(gate[0])),
        },
        "memory_tasks": {},
        "memory_seeds": [],
        "cue_kept": {},
        "paired": {},
    }

    def store() -> None:
        path.write_text(json.dumps(results, indent=1) + "\n")

    for task in chosen:
        rows = measure(runs, task, gated, waits, seeds, policies.split(","))
        results["memory_tasks"][task] = {name: figures(of_cache) for name, of_cache in rows.items()}
        results["cue_kept"][task] = cue_kept(rows["gated"])
        results["paired"][task] = paired(rows)
        store()
    draw_memory(results["memory_tasks"], out)
    if mt10_episodes:
        results |= mt10(runs, gated, range(HELD_OUT_SEED, HELD_OUT_SEED + mt10_episodes))
        store()
    if long_episodes:
        long_rows = runs.run_ten_hours(
            gated, "cued-reach", long_observations, range(HELD_OUT_SEED, HELD_OUT_SEED + long_episodes)
        )
        results[f"recall_after_{long_observations}"] = figures(long_rows) | {"cue_kept": cue_kept(long_rows)}
        store()
    for other, cache in others:
        of_tasks = {task: measure(other, task, cache, waits, seeds, ["full"]) for task in chosen}
        results["memory_seeds"].append(
            {
                task: {name: figures(of_cache) for name, of_cache in rows.items()}
                | {"cue_kept": cue_kept(rows["gated"]), "paired": paired(rows)}
                for task, rows in of_tasks.items()
            }
        )
        store()


def measure(
    runs: Episodes, task: str, gated: CacheOptions, waits: tuple[int, int], seeds: range, policies: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a memory task with the gated cache and with those that are measured beside it."""
    rows = {"gated": runs.run(Condition(task, "gated", gated, waits), seeds)}
    for each in policies:
        name, _, fewer = each.partition(":")
        some = seeds[: int(fewer)] if fewer else seeds
        rows[name] = runs.run(Condition(task, name, beside(name, gated, rows["gated"]), waits), some)
    return rows


def beside(name: str, gated: CacheOptions, rows: list[dict[str, Any]]) -> CacheOptions:
    """Return the cache that is measured beside a gated one: of its sizes, with as many tokens and summaries."""
    kept, dropped = (sum(row[field] for row in rows) for field in ("kept", "dropped"))
    if name == "random":
        return gated.changed(cache_policy=name, cache_gate="", cache_keep_rate=kept / max(1, kept + dropped))
    if name in ("attention", "expected"):  # they keep by score what the budget has room for
        return gated.changed(cache_policy=name, cache_gate="")
    # these have no budget to share: what is measured of them holds beside every budget
    plain = gated.changed(cache_policy=name, cache_gate="", cache_budget=EVERYTHING)
    if name == "window":
        held = sum(row["tokens"] for row in rows) / len(rows)
        return plain.changed(cache_recent=max(gated.cache_recent, math.ceil(held)))
    return plain


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return success with Wilson's interval, and means of what was held at the end."""
    good, count = sum(row["success"] for row in rows), len(rows)
    low, high = wilson_interval(good, count)
    means = {
        name: sum(row[name] for row in rows) / count
        for name in ("tokens", "bytes", "allocated_bytes", "full_tokens", "kept", "evicted")
    }
    factor = means["full_tokens"] / means["tokens"]
    return {"success": good / count, "low": low, "high": high, "episodes": count, **means, "memory_factor": factor}


def paired(rows: dict[str, list[dict[str, Any]]]) -> dict[str, int]:
    """Return how many scenes only the gated cache solved, and how many only the full one, of those that both ran."""
    pairs = zip(rows["gated"], rows.get("full", []), strict=False)  # full may be left out, or have fewer episodes
    both = [(ours["success"], theirs["success"]) for ours, theirs in pairs]
    return {"gated_only": both.count((True, False)), "full_only": both.count((False, True))}


def cue_kept(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return for every class of the cue the share of the episodes in which all of it is held at the end."""
    classes: dict[str, list[bool]] = {}
    for row in rows:
        classes.setdefault(str(row["cue"]), []).append(row["cue_held"])
    return {name: sum(held) / len(held) for name, held in sorted(classes.items())}


def mt10(runs: Episodes, gated: CacheOptions, seeds: range) -> dict[str, Any]:
    """Return the success on MT10 of every cache, and how many points gated is above the best of the others."""
    caches = {
        "gated": gated,
        "full": beside("full", gated, []),
        "window": choose_cache("window", None, 256, recent=MT10_WINDOW),
    }
    tables = {}
    for name in MT10_POLICIES:
        waits = (0, 0)
        rows = {task: runs.run(Condition(task, name, caches[name], waits), seeds) for task in TASKS}
        everything = figures([row for of_task in rows.values() for row in of_task])
        tables[name] = everything | {"per_task": {task: figures(of_task)["success"] for task, of_task in rows.items()}}
    others = max(table["success"] for name, table in tables.items() if name != "gated")
    return {"mt10": tables, "mt10_delta_points": 100.0 * (tables["gated"]["success"] - others)}


if __name__ == "__main__":
    typer.run(main)
