"""Measures the LeRobot loaders (errors against lerobot's own numbers, the lean step, checkpoints that are refused) and
the clients of policy servers (servers that are refused, a round trip).

    python benchmarks/vla/run.py                 # all parts
    python benchmarks/vla/run.py --only lean

Times are CPU time of the one thread that computes, the fastest of many, both ways in turn: other work on the machine
counts little. A part that is not run keeps its numbers in results.json, and so do figures that others have put there.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from plain_step import plain_velocity
from servers import hostile_servers, round_trip
from torch import Tensor, nn

from kv_cache.cache import CacheView
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.lerobot.check.case import Case, check_case
from streaming_vla.policies.lerobot.check.formula import with_weights
from streaming_vla.policies.lerobot.config import SmolVLAConfig
from streaming_vla.policies.lerobot.expert import lay_out
from streaming_vla.policies.lerobot.layers import LayerSizes
from streaming_vla.policies.lerobot.load import load_lerobot
from streaming_vla.policies.lerobot.options import LoadOptions
from streaming_vla.policies.lerobot.smolvla import SmolVLA
from streaming_vla.policies.lerobot.vlm_config import VlmSizes
from streaming_vla.policies.lerobot.weights import build

HERE = Path(__file__).parent
TESTS = HERE.parents[1] / "test" / "policies" / "lerobot"
POLICIES = ("smolvla", "pi0", "pi05", "act")
CONTEXTS = (142, 568)  # tokens of one and of four observations of two cameras
SMOLVLA = LayerSizes(width=960, mlp=2560, heads=15, kv_heads=5, head_dim=64, norm_epsilon=1e-5)  # SmolVLM2-500M
TIMED = 60  # steps of each kind
TRACEBACKS = {"hostile_checkpoint_tracebacks", "hostile_server_tracebacks"}
SAME = 1e-4  # both ways agree to this share of the largest number, or the comparison means nothing


def main() -> int:
    """Run the parts that are asked for and write results.json beside this file."""
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "golden": golden,
        "lean": lean,
        "hostile": hostile,
        "servers": hostile_servers,
        "round_trip": round_trip,
    }
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=parts, help="run one part and keep the numbers of the others")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.out / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    results["command"] = "python benchmarks/vla/run.py"
    results["device"] = f"{platform.processor() or platform.machine()}, one thread, CPU time, torch {torch.__version__}"
    for name in (arguments.only,) if arguments.only else parts:
        results |= parts[name]()
        if results.keys() >= TRACEBACKS:
            results["tracebacks"] = sum(results[each] for each in TRACEBACKS)
        path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"Written: {path}")
    return 0


def golden() -> dict[str, Any]:
    """Return the worst error of any tensor of each policy's case, as golden/ measures it."""
    worst = {}
    for policy in POLICIES:
        folder = TESTS / "golden" / policy
        errors = check_case(folder, Case.read(folder / "case_0"))
        worst[policy] = max(errors.values())
    return {"golden_max_error": worst}


def lean() -> dict[str, Any]:
    """Return how much faster a step of one token is than the plain one, at SmolVLA's real size."""
    network, plain = real_expert(), real_expert()
    lay_out(network.expert)
    ratios, times = {}, {}
    for tokens in CONTEXTS:
        view = CacheView(*torch.randn(2, 16, SMOLVLA.kv_heads, tokens, SMOLVLA.head_dim), next_position=tokens)
        noisy = torch.randn(1, 32)
        with torch.inference_mode():
            context = network.prepare(view, tokens, torch.zeros(0))
            ways: dict[str, Callable[[], Tensor]] = {
                "lean": lambda noisy=noisy, context=context: network.velocity(noisy, 0.5, context),
                "plain": lambda noisy=noisy, view=view: plain_velocity(plain, SMOLVLA, noisy, 0.5, view),
            }
            difference = float((ways["lean"]() - ways["plain"]()).abs().max() / ways["plain"]().abs().max())
            if difference > SAME:
                raise RuntimeError(f"the two ways differ by {difference:.1e} at {tokens} tokens")
            taken = {name: min(each) for name, each in alternately(ways).items()}  # other work can only add
        ratios[str(tokens)] = taken["plain"] / taken["lean"]
        times[str(tokens)] = {name: 1000.0 * seconds for name, seconds in taken.items()}
    return {"lean_step_ratio": ratios, "step_ms": times}


def real_expert() -> SmolVLA:
    """Return SmolVLA with its action expert at its real size, always of the same weights.

    The other towers take no memory.
    """
    from transformers import SmolVLMConfig

    config = SmolVLAConfig.model_validate(json.loads((TESTS / "golden/smolvla/checkpoint/config.json").read_text()))
    config = config.model_copy(update={"num_vlm_layers": 16, "chunk_size": 1})
    sizes = SmolVLMConfig(text_config={"model_type": "llama", "hidden_size": SMOLVLA.width})
    network = build(lambda: SmolVLA(config, VlmSizes(SMOLVLA, 49_280, 4, sizes)))
    random = torch.Generator().manual_seed(0)
    for module in (network.expert_layers, network.expert_norm, network.action_in_proj, network.action_out_proj):
        drawn(module, random)
    for module in (network.action_time_mlp_in, network.action_time_mlp_out):
        drawn(module, random)
    return network


def drawn(module: nn.Module, random: torch.Generator) -> None:
    """Give a module memory and random weights of order one."""
    module.to_empty(device="cpu")
    for value in module.parameters():
        value.copy_(torch.randn(value.shape, generator=random) / value.shape[-1] ** 0.5)


def alternately(ways: dict[str, Callable[[], Tensor]]) -> dict[str, list[float]]:
    """Return the CPU seconds of each way, run in turn."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TIMED):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            taken[name].append(time.process_time() - begin)
    return taken


def hostile() -> dict[str, Any]:
    """Return how many of the tests' bad checkpoints are refused in one line, and how many end otherwise."""
    sys.path.insert(0, str(TESTS))
    from hostile import HOSTILE

    refused = otherwise = 0
    with tempfile.TemporaryDirectory() as place:
        act = with_weights(TESTS / "golden/act/checkpoint", TESTS / "golden/act/weights.json", Path(place) / "act")
        for number, bad in enumerate(HOSTILE):
            folder = Path(place) / str(number) / bad.policy
            shutil.copytree(TESTS / "golden" / bad.policy, folder)
            if bad.policy == "act":
                shutil.copyfile(act / "model.safetensors", folder / "checkpoint" / "model.safetensors")
            bad.spoil(folder)
            assets = folder / "vlm"
            try:
                load_lerobot(folder / "checkpoint", LoadOptions(assets=assets if assets.is_dir() else None))
            except CheckpointError as error:
                refused += "\n" not in str(error)
            except Exception:
                otherwise += 1
            shutil.rmtree(folder.parent)
    return {"hostile_checkpoints": refused, "hostile_checkpoint_tracebacks": otherwise}


if __name__ == "__main__":
    sys.exit(main())
