"""Trains the policy with every chunk summarised and none dropped, and measures it: what a gate saves at equal success.

The recipe is that of a gate's training, with its learned summary: only the choice is taken away. Threshold 0 and room
for every summary then make the same cache at run time.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from memory import EVERYTHING, HERE, Condition, Episodes, figures

from kv_cache.training.draws import Draw, keep_all
from streaming_vla.policies.models import find_model
from streaming_vla.sim.tasks import HELD_OUT_SEED, select_tasks
from streaming_vla.training.gate_plan import GatePlan
from streaming_vla.training.gate_trainer import GateRun, GateTrainer
from streaming_vla.training.plan import read_plan
from streaming_vla.workbench.evaluation.cache_options import gated_cache
from streaming_vla.workbench.evaluation.command import parse_waits
from streaming_vla.workbench.progress import counting

PLAN = Path("config/training/compact_gate.yaml")
GATE, POLICY = "summary.safetensors", "policy.safetensors"

app = typer.Typer(add_completion=False, help=__doc__)


class EveryChunk(GateTrainer):
    """A gate's training in which nothing is dropped: policy and summary learn, the scores mean nothing."""

    def draw(self, generator: torch.Generator) -> Draw:
        """Keep every chunk."""
        return keep_all


@app.command()
def train(
    folder: Annotated[Path, typer.Argument(help="of the run, which is resumed, and of the weights")],
    demonstrations: Annotated[Path, typer.Option(help="what 'streaming-vla train demos' made")],
    policy: Annotated[str, typer.Option(help="the policy that learns on")] = "compact_mt10",
    steps: Annotated[int, typer.Option(min=1)] = 600,
    seed: Annotated[int, typer.Option()] = 1,
) -> None:
    """Train policy and summary with the plan of the shipped gate, less its penalty."""
    plan = read_plan(PLAN, GatePlan)
    plan = plan.model_copy(
        update={
            "keep": plan.keep.model_copy(update={"penalty": 0.0}),
            "learning": plan.learning.model_copy(update={"steps": steps}),
        }
    )
    with counting() as progress:
        bar = progress.add_task("training", total=steps)
        run = GateRun(find_model(policy), demonstrations, plan, folder, seed)
        trainer = EveryChunk(run, lambda done, _: progress.update(bar, completed=done))
        trainer.train()
    trainer.write(folder / GATE, folder / POLICY, 0.0, {})


@app.command()
def measure(
    folder: Annotated[Path, typer.Argument(help="of the weights")],
    episodes: Annotated[int, typer.Option(min=1, help="of every task, seeds from 10000 on")] = 100,
    tasks: Annotated[str, typer.Option(help="names with commas between, or memory")] = "memory",
    wait_steps: Annotated[str, typer.Option(help="A:B, steps; ten make an observation of 25 tokens")] = "1000:1000",
    processes: Annotated[int, typer.Option(min=1, help="one core each")] = 2,
    out: Annotated[Path, typer.Option(help="folder of results.json")] = HERE,
) -> None:
    """Run what is missing of the memory tasks and write `every_chunk` into results.json."""
    warnings.filterwarnings("ignore")  # Meta-World's experts warn about constants at every step
    cache = gated_cache(folder / GATE, EVERYTHING).changed(cache_threshold=0.0)
    runs = Episodes(out / "memory_episodes.jsonl", folder / POLICY, processes)
    found: dict[str, Any] = {}
    for task in select_tasks(tasks):
        condition = Condition(task, "every", cache, parse_waits(wait_steps))
        found[task] = figures(runs.run(condition, range(HELD_OUT_SEED, HELD_OUT_SEED + episodes)))
    path = out / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(results | {"every_chunk": found}, indent=1) + "\n")


if __name__ == "__main__":
    app()
