"""A folder of small recorded episodes: random pictures, a wait in the middle, and something to remember."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from streaming_vla.sim.frames import encode_frame
from streaming_vla.training.shard import Shard

TASKS = ("window-open", "reach")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three episodes of each task; the last one has failed."""
    folder = tmp_path / "demonstrations"
    folder.mkdir()
    random = np.random.default_rng(0)
    for task in TASKS:
        for seed in range(3):
            blob, offsets = bytearray(), []
            for _ in range(30):
                spans = []
                for _ in range(2):
                    data = encode_frame(random.integers(0, 256, (32, 32, 3), dtype=np.uint8), 32)
                    spans.append((len(blob), len(blob) + len(data)))
                    blob += data
                offsets.append(spans)
            arrays = {
                "step": np.arange(1, 61, 2, dtype=np.int32),
                "state": random.normal(size=(30, 4)).astype(np.float32),
                "previous": random.uniform(-1, 1, (30, 4)).astype(np.float32),
                "window": random.uniform(-1, 1, (30, 16, 4)).astype(np.float32),
                "scene": random.normal(size=(30, 6)).astype(np.float32),
                "recall": np.full(30, -1 if task == "reach" else seed),
                "waiting": np.arange(30) // 10 == 1,
                "jpeg": np.frombuffer(bytes(blob), dtype=np.uint8),
                "offset": np.array(offsets),
                "executed": random.uniform(-1, 1, (61, 4)).astype(np.float32),
                "path": random.normal(size=(61, 4)).astype(np.float32),
                "answer": random.uniform(-1, 1, (61, 4)).astype(np.float32),
                "success": np.array([seed != 2]),
            }
            save_file(arrays, Shard(folder, task, seed).path, metadata={"task": task, "seed": str(seed)})
    return folder
