"""Where the golden files are, and how copies of them are changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kv_cache.cache import CacheView, SessionCache
from kv_cache.policies import Full
from streaming_vla.policies.contract import PolicyObservation, Prefilled, prefill_whole

GOLDEN = Path(__file__).parent / "golden"
POLICIES = ("smolvla", "pi0", "pi05", "act")
FLOWS = POLICIES[:3]


def folder_of(policy_folder: Path) -> dict[str, Path]:
    """Return the option that names a policy's assets; ACT has none."""
    assets = policy_folder / "vlm"
    return {"assets": assets} if assets.is_dir() else {}


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what a JSON file holds."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def observed(policy: Any, seed: int = 0, instruction: str = "pick up the cube") -> PolicyObservation:
    """Return an observation of noise for a policy."""
    random, spec = np.random.default_rng(seed), policy.spec
    images = random.integers(0, 256, (len(spec.cameras), spec.image_size, spec.image_size, 3), dtype=np.uint8)
    state = random.normal(0.0, 20.0, spec.state_size).astype(np.float32)
    return PolicyObservation(images, state, instruction)


def prefilled(policy: Any, seed: int = 0, observations: int = 1) -> tuple[CacheView, Prefilled]:
    """Return the view behind some observations, and what the last prefill left."""
    cache = SessionCache(policy.spec.cache, Full(observations * policy.spec.tokens_per_observation))
    for number in range(observations):
        left = prefill_whole(policy, observed(policy, seed + number), cache.view())
        cache.append(left.keys, left.values)
    return cache.view(), left
