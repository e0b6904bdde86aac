"""python measure_loading.py FOLDER DTYPE: how much memory loading a larger pi0.5 takes at most, in bytes, as JSON."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from pathlib import Path

import torch
from golden_files import GOLDEN
from safetensors.torch import save_file

from streaming_vla.policies.lerobot import pi
from streaming_vla.policies.lerobot.geometry import Geometry
from streaming_vla.policies.lerobot.load import load_lerobot
from streaming_vla.policies.lerobot.options import LoadOptions
from streaming_vla.policies.lerobot.weights import build


def make(folder: Path) -> None:
    """Write a checkpoint of some 250 MB; the names are pi0.5's."""
    shutil.copytree(GOLDEN / "pi05", folder)
    (folder / "vlm" / "config.json").unlink()
    sizes = json.loads((folder / "geometry.json").read_text())["fixture"]
    sizes["text"].update(width=1024, mlp=8192, depth=2)
    sizes["expert"].update(width=512, mlp=2048, depth=2)
    (folder / "geometry.json").write_text(json.dumps(sizes))
    geometry = Geometry(**sizes)
    network = build(lambda: pi.Pi(geometry, pi.PiShape(True, 12, 32, 32, 4e-3, 4.0)))
    names = pi.names_of(geometry, True)
    shapes = {names.in_file(name): value.shape for name, value in network.state_dict().items()} | dict(names.required)
    save_file(
        {name: torch.full(tuple(shape), 0.01) for name, shape in shapes.items()},
        folder / "checkpoint" / "model.safetensors",
    )


def peak() -> int:
    """Return the largest size that this process has had, bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    large = Path(sys.argv[1])
    options = {"assets": GOLDEN / "pi05" / "vlm"}
    load_lerobot(GOLDEN / "pi05" / "checkpoint", LoadOptions(**options))  # libraries take their part before
    before = peak()
    policy = load_lerobot(large / "checkpoint", LoadOptions(assets=large / "vlm", dtype=sys.argv[2]))
    weights = sum(value.numel() * value.element_size() for value in policy.network.state_dict().values())
    print(json.dumps({"weights": weights, "taken": peak() - before}))
