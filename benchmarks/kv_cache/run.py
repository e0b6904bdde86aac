"""Measures what a compressed cache costs and saves: latency, FLOPs and bytes against the length of the history.

Times are CPU time of the one thread that computes, so other work on the machine counts little. Every measured point is
written at once; a second call goes on where the first one ended.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import large
import measure
import torch
import typer
from plots import draw
from rich.progress import Progress

HERE = Path(__file__).parent
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)
LAYER_LENGTHS = (512, 4096, 16_384)
LARGE = {"layers": LAYER_LENGTHS, "counted": LENGTHS}  # of the large models
LAYER_SHARE = 3  # a layer of a large model is as slow as the whole small one: it gets a third of the repeats
OBSERVATIONS = 100_000  # of the flatness run
AT = 4096  # tokens of history at which the headline figures are taken


def main(
    out: Annotated[Path, typer.Option(help="Folder of results.json and the plots.")] = HERE,
    repeats: Annotated[int, typer.Option(min=9, help="Timed runs per point; the median counts.")] = 31,
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

    def store(field: str, work: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            found = work()
            results[field] = results.get(field, []) + found if isinstance(found, list) else found
            path.write_text(json.dumps(results, indent=1) + "\n")

        return run

    def missing(field: str, lengths: tuple[int, ...], **of: str) -> list[int]:
        done = [point["tokens"] for point in results.get(field, []) if of.items() <= point.items()]
        return [tokens for tokens in lengths if tokens not in done]

    jobs = [store("latency", partial(measure.compact, tokens, repeats)) for tokens in missing("latency", LENGTHS)]
    jobs += [store("flops", partial(measure.flops, tokens)) for tokens in missing("flops", LENGTHS)]
    single = {
        "long": partial(measure.long, AT, 64, repeats),
        "gate": partial(measure.gate, AT, repeats),
        "memory": partial(measure.memory, AT),
        "young": partial(measure.young, LENGTHS[0], repeats),
        "flat_after_100k": partial(measure.flat, OBSERVATIONS),
    }
    jobs += [store(field, work) for field, work in single.items() if field not in results]
    for model in large.SHAPES:
        timed, counted = (missing(of, lengths, model=model) for of, lengths in LARGE.items())
        jobs += [store("layers", partial(large.layer, model, tokens, repeats // LAYER_SHARE)) for tokens in timed]
        jobs += [store("counted", partial(large.counted, model, tokens)) for tokens in counted]
    with Progress() as progress:
        for job in progress.track(jobs, description="measuring"):
            job()
    summarise(results)
    path.write_text(json.dumps(results, indent=1) + "\n")
    draw(results, out)


def summarise(results: dict[str, Any]) -> None:
    """Add the headline figures to the results."""
    compact = [{"model": "compact", **point} for point in results["latency"]]
    at = {(point["model"], point["policy"], point["tokens"]): point for point in (*compact, *results["layers"])}
    flops = {point["tokens"]: point for point in results["flops"]}
    full, gated = at["compact", "full", AT], at["compact", "gated", AT]

    def speedup(model: str, tokens: int) -> float:
        whole = [
            at[model, policy, tokens]["prefill_ms"] + large.FLOW_STEPS * at[model, policy, tokens]["flow_step_ms"]
            for policy in ("full", "gated")
        ]
        return float(whole[0] / whole[1])

    results["speedup"] = {
        model: {str(tokens): speedup(model, tokens) for tokens in lengths}
        for model, lengths in (("compact", LENGTHS), *((model, LAYER_LENGTHS) for model in large.SHAPES))
    }
    results["memory_factor_4096"] = full["bytes"] / gated["bytes"]
    results["reserved_memory_factor_4096"] = full["bytes"] / gated["reserved_bytes"]
    results["speedup_4096"] = speedup("compact", AT)
    results["flops_saving_4096"] = flops[AT]["saving"]
    for part in ("gate", "summary", "append"):
        results[f"{part}_share_of_prefill"] = results["gate"][f"{part}_ms"] / results["gate"]["prefill_ms"]
    results["reserved_over_held"] = results["memory"]["reserved_over_held"]
    results["time_ratio_128"] = results["young"]["time_ratio"]
    results["step_time_at_64_times"] = results["long"]["step_time_ratio"]
    results["faster_from_tokens"] = min(
        (tokens for tokens in LENGTHS if speedup("compact", tokens) > 1.0), default=None
    )


if __name__ == "__main__":
    typer.run(main)
