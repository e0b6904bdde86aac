"""Measures what a compressed cache costs and saves: latency, FLOPs and bytes against the length of the history.

Times are CPU time of the one thread that computes, so other work on the machine counts little. Every measured point is
written at once; a second call goes on where the first one ended.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import measure
import torch
import typer
from plots import draw
from rich.progress import Progress

HERE = Path(__file__).parent
LENGTHS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)
LAYER_LENGTHS = (512, 4096)
OBSERVATIONS = 100_000  # of the flatness run
AT = 4096  # tokens of history at which the headline figures are taken


def main(
    out: Annotated[Path, typer.Option(help="Folder of results.json and the plots.")] = HERE,
    repeats: Annotated[int, typer.Option(min=3, help="Timed runs per point; the median counts.")] = 31,
) -> None:
    """Measure every point that results.json does not have yet, then draw the plots."""
    torch.set_num_threads(1)
    path = out / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    made_by = {
        "command": f"python benchmarks/kv_cache/run.py --repeats {repeats}",
        "device": f"{platform.processor() or platform.machine()}, one thread, CPU time, torch {torch.__version__}",
    }
    for name, value in made_by.items():
        if results.setdefault(name, value) != value:
            raise typer.BadParameter(f"{path} has {name} '{results[name]}', this is '{value}': give another --out")
    points = results.setdefault("latency", [])
    layers = results.setdefault("paligemma_layer", [])
    done, done_layers = ({point["tokens"] for point in of} for of in (points, layers))

    def store(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            work()
            path.write_text(json.dumps(results, indent=1) + "\n")

        return run

    jobs = [
        store(lambda tokens=tokens: points.extend(measure.compact(tokens, repeats)))  # type: ignore[misc]
        for tokens in LENGTHS
        if tokens not in done
    ]
    if "flops" not in results:
        jobs.append(store(lambda: results.update(flops=measure.flops(AT))))
    if "long" not in results:
        jobs.append(store(lambda: results.update(long=measure.long(AT, 64, repeats))))
    if "gate_ms" not in results:
        jobs.append(store(lambda: results.update(measure.gate(repeats))))
    if "flat_after_100k" not in results:
        jobs.append(store(lambda: results.update(flat_after_100k=measure.flat(OBSERVATIONS))))
    jobs += [
        store(lambda tokens=tokens: layers.extend(measure.layer(tokens, repeats)))  # type: ignore[misc]
        for tokens in LAYER_LENGTHS
        if tokens not in done_layers
    ]
    with Progress() as progress:
        for job in progress.track(jobs, description="measuring"):
            job()
    summarise(results)
    path.write_text(json.dumps(results, indent=1) + "\n")
    draw(results, out)


def summarise(results: dict[str, Any]) -> None:
    """Add the headline figures to the results."""
    at = {(point["policy"], point["tokens"]): point for point in results["latency"]}
    full, gated = at["full", AT], at["gated", AT]
    steps = results["flops"]["flow_steps"]

    def whole(point: dict[str, Any]) -> float:
        return float(point["prefill_ms"] + steps * point["flow_step_ms"])

    results["memory_factor_4096"] = full["bytes"] / gated["bytes"]
    results["reserved_memory_factor_4096"] = full["bytes"] / gated["reserved_bytes"]
    results["speedup_4096"] = whole(full) / whole(gated)
    results["flops_saving_4096"] = 1.0 - results["flops"]["gated"] / results["flops"]["full"]
    results["gate_share_of_prefill"] = results["gate_ms"] / gated["prefill_ms"]
    results["step_time_at_64_times"] = results["long"]["step_time_ratio"]
    results["faster_from_tokens"] = min(
        (tokens for tokens in LENGTHS if whole(at["gated", tokens]) < whole(at["full", tokens])), default=None
    )
    large = {(point["policy"], point["tokens"]): point for point in results["paligemma_layer"]}
    results["paligemma_speedup_4096"] = whole(large["full", AT]) / whole(large["gated", AT])


if __name__ == "__main__":
    typer.run(main)
