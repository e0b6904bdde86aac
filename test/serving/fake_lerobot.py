"""Writes a package `lerobot` with the names of 0.6.1 that the child program uses, in the real one's place.

Its policy's actions tell what it has seen, so that the tests see what travels.
"""

from __future__ import annotations

from pathlib import Path

CONFIGS = """
import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

class FeatureType(str, Enum):
    STATE = "STATE"
    VISUAL = "VISUAL"
    ACTION = "ACTION"

class PreTrainedConfig(SimpleNamespace):
    @classmethod
    def from_pretrained(cls, folder):
        told = json.loads((Path(folder) / "config.json").read_text())
        for key in ("input_features", "output_features"):
            told[key] = {
                name: SimpleNamespace(type=FeatureType(each["type"]), shape=tuple(each["shape"]))
                for name, each in told[key].items()
            }
        return cls(**told)
"""
FACTORY = """
import os, time
import torch

print("Reducing the number of layers ...")  # as lerobot does, on stdout

class Policy:
    def __init__(self, config):
        self.config, self._queue = config, []
        self._weight = torch.zeros(2)

    @classmethod
    def from_pretrained(cls, folder, config):
        return cls(config)

    def eval(self):
        return self

    def state_dict(self):
        return {"weight": self._weight, "tied": self._weight}

    def reset(self):
        self._queue = []

    def predict_action_chunk(self, batch):
        assert self.config.n_obs_steps == 1, "its queue holds two observations"
        if batch["task"] == "fail":
            raise RuntimeError("it failed\\nin two lines")
        if batch["task"] == "die":
            os._exit(3)
        seen = batch["observation.images.top"].mean(), batch["observation.images.wrist"].shape[-1] / 100.0
        rows = torch.zeros(1, self.config.chunk_size, 6)
        rows[..., 0], rows[..., 1], rows[..., 2] = *seen, batch["observation.state"].sum()
        rows[..., 3] = torch.arange(self.config.chunk_size)
        return rows

    def select_action(self, batch):
        if not self._queue:
            self._queue = list(torch.arange(8.0))
        return torch.full((1, 6), float(self._queue.pop(0)))

def get_policy_class(name):
    return Policy

def make_pre_post_processors(config, pretrained_path=None, preprocessor_overrides=None):
    assert preprocessor_overrides["device_processor"] == {"device": config.device}
    def before(seen):
        assert all(0.0 <= seen[n].min() and seen[n].max() <= 1.0 for n in seen if "images" in n)
        return {name: value if name == "task" else value.unsqueeze(0) for name, value in seen.items()}
    return before, lambda rows: rows * 1.0
"""


def write_lerobot(into: Path) -> Path:
    """Write the package into a folder; return the folder for PYTHONPATH."""
    for name, text in (
        ("__init__", ""),
        ("configs/__init__", ""),
        ("configs/policies", CONFIGS),
        ("policies/__init__", ""),
        ("policies/factory", FACTORY),
    ):
        file = into / "lerobot" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return into
