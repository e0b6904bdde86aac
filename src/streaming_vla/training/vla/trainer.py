"""Trains a head of a VLA: one process, on a GPU where there is one. A run can be stopped at any time and goes on from
its last checkpoint as if it had never been stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from streaming_vla.policies.lerobot.flow_head.fresh_body import FreshBody
from streaming_vla.policies.lerobot.layers import RMSNorm
from streaming_vla.policies.lerobot.load import PRECISE, TIME
from streaming_vla.policies.lerobot.vla_policy import VlaPolicy
from streaming_vla.training.checkpoint import follow, load_checkpoint, save_checkpoint
from streaming_vla.training.losses import check_finite
from streaming_vla.training.run_folder import CHECKPOINT, claim
from streaming_vla.training.trainer import learning_rate
from streaming_vla.training.vla.batches import Batch, Batches, ahead
from streaming_vla.training.vla.losses import chunk_loss, flow_loss, read_observations
from streaming_vla.training.vla.passes import Passes
from streaming_vla.training.vla.plan import VlaPlan

REPORT_EVERY = 50
SAVE_EVERY_S = 300.0
LOG = "log.jsonl"
PARTS = {
    "expert": ("expert_layers", "expert_norm", "action_in_proj", "action_out_proj", *TIME),
    "state": ("state_proj",),
    "text": ("embed_tokens", "text_layers"),
    "vision": ("vision_model", "connector", "vision_tower", "projector"),
}
"""Modules of SmolVLA's and pi0.5's networks, by the parts of a plan's `learns`."""
FRESH = "fresh"
Show = Callable[[int, int, float], None]


@dataclass(frozen=True)
class VlaRun:
    """What a training run is made of.

    Args:
        policy: whose network is trained, in float32.
        fresh: the flow head's own tensors; None: the chunk head is trained.
        facts: what makes the run, see run_folder.claim.
        folder: of checkpoint.safetensors, run.json and log.jsonl.
    """

    policy: VlaPolicy
    fresh: FreshBody | None
    batches: Batches
    plan: VlaPlan
    seed: int
    facts: Mapping[str, object]
    folder: Path


class VlaTrainer:
    """One run.

    Attributes:
        learned: what learns, by its name in the network, "." written as "/".
        average: of it over the steps, which is what is kept.
        step: number of the steps that were taken.

    Raises:
        ValueError: the folder holds another run, or the network lacks all of a part that is to learn.
    """

    def __init__(self, run: VlaRun) -> None:
        claim(run.folder, run.facts)
        self._run, plan = run, run.plan
        network: Any = run.policy.network
        self._device = run.policy.sizes.device
        learning = set_learning(network, plan.learns)
        if run.fresh is not None:
            run.fresh.to(self._device).requires_grad_(True)
            learning |= {f"{FRESH}.{name}": value for name, value in run.fresh.named_parameters()}
        if self._device.type == "cuda":
            _narrow_frozen(network)
        self._reads = bool({"state", "text", "vision"} & set(plan.learns))
        self.learned = nn.ParameterDict({name.replace(".", "/"): value for name, value in learning.items()})
        self._parameters = list(self.learned.values())
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=plan.optimiser.learning_rate,
            weight_decay=plan.optimiser.weight_decay,
            betas=(0.9, 0.95),
        )
        self.average = {name: value.clone() for name, value in self.learned.state_dict().items()}
        self._checkpoint = run.folder / CHECKPOINT
        self.step = load_checkpoint(self._checkpoint, self.learned, self.average, self._optimizer, self._parameters)
        self._passes = Passes(network, plan.checkpointing)
        _forget_after(run.folder / LOG, self.step)

    def train(self, show: Show, until: int | None = None) -> None:
        """Train to the plan's last step, or to before step `until`.

        Args:
            show: is told how many steps were taken, of how many, and the loss.

        Raises:
            ValueError: a loss is not finite.
        """
        run, options = self._run, self._run.plan.optimiser
        last = options.steps if until is None else min(until, options.steps)
        total, steps, began_s = 0.0, 0, time.monotonic()
        saved_s = began_s
        for step, batch in ahead(run.batches.make, self.step, last, run.plan.workers):
            loss = self._learn(step, batch)
            self.step, total, steps = step + 1, total + loss, steps + 1
            now_s = time.monotonic()
            if self.step % REPORT_EVERY == 0 or self.step == options.steps:
                name = "chunk" if run.fresh is None else "flow"
                self._log({name: total / steps, "seconds_per_step": (now_s - began_s) / steps})
                total, steps, began_s = 0.0, 0, now_s
            if now_s - saved_s > SAVE_EVERY_S or self.step == last:
                self._save()
                saved_s = time.monotonic()
            show(self.step, options.steps, loss)

    def _learn(self, step: int, batch: Batch) -> float:
        """Take an optimiser step; return its loss."""
        run, options = self._run, self._run.plan.optimiser
        generator = torch.Generator(self._device).manual_seed(run.seed * 1_000_003 + step)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(step, options)
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            with torch.set_grad_enabled(self._reads):
                context = read_observations(run.policy, self._passes, batch, run.plan.augment, generator)
            if run.fresh is None:
                loss = chunk_loss(run.policy, self._passes, batch, context, generator)
            else:
                loss = flow_loss(run.policy, self._passes, run.fresh, batch, context)
        check_finite(loss, step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, options.clip)
        self._optimizer.step()
        follow(self.average, self.learned, options.average, step)
        return float(loss.detach())

    def _save(self) -> None:
        save_checkpoint(self._checkpoint, self.learned, self.average, self._optimizer, self._parameters, self.step)

    def _log(self, figures: Mapping[str, float]) -> None:
        with (self._run.folder / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps({"step": self.step, **figures}) + "\n")


def set_learning(network: nn.Module, parts: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """Let parts of a network learn, and nothing else; return their tensors by name.

    Raises:
        ValueError: the network has nothing of a part.
    """
    network.requires_grad_(False)
    found: dict[str, nn.Parameter] = {}
    for part in parts:
        modules = [name for name in PARTS[part] if hasattr(network, name)]
        if not modules:
            raise ValueError(f"the plan's learns has '{part}', which this policy does not have: take it out")
        for name in modules:
            network.get_submodule(name).requires_grad_(True)
            found |= {f"{name}.{each}": value for each, value in network.get_submodule(name).named_parameters()}
    return found


def _narrow_frozen(network: nn.Module) -> None:
    """Keep what does not learn in bfloat16, as it is computed in; norms and small projections stay precise."""
    for name, module in network.named_modules():
        own = list(module.parameters(recurse=False))
        precise = isinstance(module, RMSNorm) or name in (*PRECISE, *TIME)
        if own and not precise and not any(value.requires_grad for value in own):
            for value in own:
                value.data = value.data.to(torch.bfloat16)


def _forget_after(log: Path, step: int) -> None:
    """Take what a run that was killed has logged behind its last checkpoint out of the log: it comes again."""
    if log.exists():
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
        log.write_text("".join(line for line in lines if json.loads(line)["step"] <= step), encoding="utf-8")
