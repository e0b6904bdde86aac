"""Tiny LeRobot checkpoints with random weights that fly: the golden ones, with a chunk as long as a real one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from streaming_vla.policies.contract import PolicySpec
from streaming_vla.policies.lerobot.check.formula import with_weights
from streaming_vla.policies.lerobot.load import load_lerobot
from streaming_vla.policies.lerobot.options import LoadOptions

GOLDEN = Path(__file__).parents[1] / "policies" / "lerobot" / "golden"
ROWS = 50  # of a chunk, as LeRobot's published checkpoints have it: the golden ones have 12, shorter than their latency
PERIOD_S = 0.05
STATE = [0.0, -60.0, 60.0, 40.0, 0.0, 10.0]  # of the joints, degrees
START_S = 120.0  # of a server on a busy machine
PROFILE = """
description: a model that takes 300 ms to a chunk
control_period_ms: 50.0
observe: {median_ms: 290.0, p99_ms: 290.0}
flow_step: {median_ms: 1.0, p99_ms: 1.0}
transport: {median_ms: 0.0, p99_ms: 0.0}
"""


def checkpoint(policy: str, into: Path) -> tuple[Path, Path | None]:
    """Make a checkpoint in a folder that does not exist yet; return it and its assets, None where it needs none."""
    shutil.copytree(GOLDEN / policy, into)
    made, assets = into / "checkpoint", into / "vlm"
    if policy == "act":  # its queries are weights: one for each row
        listing = json.loads((into / "weights.json").read_text(encoding="utf-8"))
        listing["tensors"]["model.decoder_pos_embed.weight"]["shape"][0] = ROWS
        listing["tensors"]["model.vae_encoder_pos_enc"]["shape"][1] = ROWS + 2
        (into / "weights.json").write_text(json.dumps(listing), encoding="utf-8")
        made = with_weights(made, into / "weights.json", into / "act")
    config = json.loads((made / "config.json").read_text(encoding="utf-8"))
    config |= {"chunk_size": ROWS, "n_action_steps": ROWS}
    (made / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return made, assets if assets.is_dir() else None


def spec_of(made: Path, assets: Path | None) -> PolicySpec:
    """Return what a checkpoint says of itself."""
    return load_lerobot(made, LoadOptions(assets=assets)).spec


def parameters(model: str, spec: PolicySpec, folder: Path, **inference: Any) -> str:
    """Return the parameter file of a robot without physics for a policy, with 300 ms injected for each chunk.

    Args:
        folder: gets the latency profile.
        inference: parameters of that node.
    """
    profile = folder / "slow.yaml"
    profile.write_text(PROFILE, encoding="utf-8")
    layout, size = spec.layout, spec.layout.size
    sections: dict[str, dict[str, Any]] = {
        "/**": {
            "control_period_s": PERIOD_S,
            "action_names": list(layout.names),
            "action_absolute": list(layout.absolute),
            "action_low": list(layout.low),
            "action_high": list(layout.high),
            "action_initial": list(layout.initial),
        },
        "/**/observer": {
            "cameras": list(spec.cameras),
            "camera_topics": ["camera/corner2/image", "camera/gripperPOV/image"],
            "image_size": spec.image_size,
            "image_fit": spec.image_fit,
            "image_pad_value": spec.pad_value,
        },
        "/**/executor": {
            "scale": [1.0] * size,
            "maximum_lead": [1e4] * size,
            "keep_when_stopped": [False] * size,
            "velocity_limit": [1e5] * size,
            "jump_limit": [1e5] * size,
            "hold_s": 100.0,  # a server that is killed is waited for
        },
        "/**/inference": {"model": model, "latency_profile": str(profile), **inference},
    }
    return yaml.safe_dump({name: {"ros__parameters": values} for name, values in sections.items()})


class Server:
    """`streaming-vla serve` in a process of its own."""

    def __init__(self, made: Path, assets: Path | None, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        model = [f"lerobot:{made}", *(("--assets", str(assets)) if assets else ())]
        self._command = [sys.executable, "-m", "streaming_vla", "serve", *model, "--port", str(self.port)]
        self._log = log
        self.start()

    def start(self) -> None:
        """Start it; it listens when this returns."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        end_s = time.monotonic() + START_S
        while (said := self._log.read_text()).count("Serving") == said.count("(killed)"):
            if time.monotonic() > end_s or self._process.poll() is not None:
                self.kill()
                raise AssertionError(f"the server does not start: {said}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
        with self._log.open("a") as log:
            log.write("(killed)\n")
