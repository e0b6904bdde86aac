"""Trains the compact policy on demonstrations by action flow matching, on one or several CPU processes."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn

from streaming_vla.policy.compact.config import CompactConfig
from streaming_vla.policy.compact.model import CompactModel
from streaming_vla.policy.loading import save_policy
from streaming_vla.training.augment import AugmentOptions, augment_pictures, history_mask
from streaming_vla.training.dataset import Batch, Demonstrations, SequenceOptions
from streaming_vla.training.flow_targets import FlowOptions, draw_targets

REPORT_EVERY = 50
SAVE_EVERY = 500


@dataclass(frozen=True)
class TrainingOptions:
    """One training run; saved beside its checkpoints.

    Args:
        steps: optimiser steps.
        sequences: sequences per step, over all processes.
        learning_rate: peak; cosine to a hundredth after a linear warm-up of `warm_up` steps.
        average: decay of the exponential moving average of the weights, which is what is kept.
        processes: CPU processes of one thread each, gradients averaged.
    """

    steps: int = 8000
    sequences: int = 20
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up: int = 200
    average: float = 0.998
    clip: float = 1.0
    seed: int = 0
    processes: int = 1
    sequence: SequenceOptions = field(default_factory=SequenceOptions)
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    flow: FlowOptions = field(default_factory=FlowOptions)


def block_mask(seen: Tensor, rows: int, columns: int) -> Tensor:
    """Blow a mask of observations [B, T, T] up to tokens, [B, 1, T * rows, T * columns]."""
    return seen.repeat_interleave(rows, dim=1).repeat_interleave(columns, dim=2).unsqueeze(1)


def policy_loss(
    model: CompactModel, batch: Batch, options: TrainingOptions, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of one batch and its parts for the log."""
    config = model.config
    pictures = augment_pictures(torch.from_numpy(batch.pictures), options.augment, generator)
    count, length = pictures.shape[:2]
    state = torch.from_numpy(batch.state).flatten(0, 1)
    state = state + options.augment.state_noise * model.state_scale * torch.randn(state.shape, generator=generator)
    words = torch.from_numpy(batch.words).repeat_interleave(length, dim=0)
    tokens = model.encode(pictures.flatten(0, 1), state, words)
    block = config.tokens_per_observation
    seen = history_mask(torch.from_numpy(batch.present), options.augment, generator)
    cache = model.trunk(tokens.view(count, length * block, -1), block_mask(seen, block, block))

    targets = draw_targets(
        torch.from_numpy(batch.actions).flatten(0, 1),
        torch.from_numpy(batch.previous).flatten(0, 1),
        torch.from_numpy(batch.clean * batch.present).flatten(),
        model.absolute,
        options.flow,
        generator,
    )
    draws = options.flow.draws
    # a flow token stands right behind its own observation
    places = (torch.arange(1, length + 1) * block).repeat_interleave(draws)
    answer = model.expert(
        targets.position.view(count, length * draws, -1),
        targets.time.view(count, length * draws),
        cache,
        places,
        block_mask(seen, draws, block),
        targets.known.view(count, length * draws),
    )
    error = (answer.view(targets.target.shape) - targets.target).square()
    weight = targets.weight / targets.weight.sum().clamp(min=1.0)
    summed = (error[..., ~model.absolute].mean(-1) * weight).sum()
    absolute = (error[..., model.absolute].mean(-1) * weight).sum()
    loss = summed + options.flow.absolute_weight * absolute
    hidden = weight * ~targets.known / (weight * ~targets.known).sum().clamp(min=1e-6)
    blind = (error[..., ~model.absolute].mean(-1) * hidden).sum()
    parts = {"flow": summed, "absolute": absolute, "hidden": blind}
    return loss, {name: float(value.detach()) for name, value in parts.items()}


def learning_rate(step: int, options: TrainingOptions) -> float:
    """Return the learning rate of `step`: linear warm-up, then a cosine."""
    if step < options.warm_up:
        return options.learning_rate * (step + 1) / options.warm_up
    progress = (step - options.warm_up) / max(1, options.steps - options.warm_up)
    return options.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


class Trainer:
    """One process of a training run; the first one writes checkpoints, which a new run resumes from."""

    def __init__(self, config: CompactConfig, data: Demonstrations, options: TrainingOptions, folder: Path) -> None:
        self.options, self.folder, self.data = options, folder, data
        self.rank = distributed.get_rank()
        torch.manual_seed(options.seed)
        self.model = CompactModel(config)
        mean, scale = data.state_statistics()
        self.model.state_mean.copy_(torch.from_numpy(mean))
        self.model.state_scale.copy_(torch.from_numpy(scale))
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=options.learning_rate, weight_decay=options.weight_decay, betas=(0.9, 0.99)
        )
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.step = 0
        self._resume()

    def run(self) -> None:
        """Train to the last step; the first process writes figures to log.jsonl and to the terminal."""
        options = self.options
        random = np.random.default_rng((options.seed, self.rank, self.step))
        generator = torch.Generator().manual_seed(options.seed + 7919 * self.rank + self.step)
        share = options.sequences // options.processes
        sums: dict[str, float] = {}
        began = time.monotonic()
        while self.step < options.steps:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.step, options)
            batch = self.data.sample(share, options.sequence, random)
            loss, parts = policy_loss(self.model, batch, options, generator)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._average_gradients()
            torch.nn.utils.clip_grad_norm_(self.parameters, options.clip)
            self.optimizer.step()
            self._average_weights()
            self.step += 1
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value / REPORT_EVERY
            if self.step % REPORT_EVERY == 0 and self.rank == 0:
                sums["seconds_per_step"] = (time.monotonic() - began) / REPORT_EVERY
                self._log(sums)
                sums, began = {}, time.monotonic()
            if self.step % SAVE_EVERY == 0 or self.step == options.steps:
                self._save()

    def _log(self, figures: dict[str, float]) -> None:
        left_min = (self.options.steps - self.step) * figures["seconds_per_step"] / 60
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps({"step": self.step, **figures}) + "\n")
        losses = "  ".join(f"{name} {figures[name]:.4f}" for name in ("flow", "hidden", "absolute"))
        print(f"step {self.step}/{self.options.steps}  {losses}  {left_min:.0f} min left", flush=True)

    def _average_gradients(self) -> None:
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        packed = torch.cat([gradient.flatten() for gradient in gradients])  # one all-reduce a step
        distributed.all_reduce(packed)
        packed /= self.options.processes
        parts = packed.split([p.numel() for p in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def _average_weights(self) -> None:
        decay = min(self.options.average, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)

    def _save(self) -> None:
        if self.rank != 0:
            return
        tensors = {f"average.{name}": value for name, value in self.average.items()}
        tensors |= {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, parameter in enumerate(self.parameters):
            state = self.optimizer.state[parameter]
            tensors |= {
                f"moment.{index}.{key}": state[key] for key in ("exp_avg", "exp_avg_sq", "step") if key in state
            }
        partial = self.folder / "checkpoint.partial"
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial, {"step": str(self.step)})
        os.replace(partial, self.folder / "checkpoint.safetensors")

    def _resume(self) -> None:
        file = self.folder / "checkpoint.safetensors"
        if not file.exists():
            return
        tensors = load_file(file)
        self.model.load_state_dict({n[6:]: v for n, v in tensors.items() if n.startswith("model.")})
        self.average = {n[8:]: v for n, v in tensors.items() if n.startswith("average.")}
        for index, parameter in enumerate(self.parameters):
            prefix = f"moment.{index}."
            state = {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
            if state:
                self.optimizer.state[parameter] = state
                self.step = int(state["step"])


def train(config: CompactConfig, demonstrations: Path, options: TrainingOptions, folder: Path) -> None:
    """Train in `folder` (checkpoint.safetensors, training.json, log.jsonl), resuming what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "training.json").write_text(json.dumps(asdict(options), indent=1))
    store = str(folder.absolute() / f"rendezvous-{os.getpid()}")
    spawn(_work, (config, demonstrations, options, folder, store), options.processes)


def _work(
    rank: int, config: CompactConfig, demonstrations: Path, options: TrainingOptions, folder: Path, store: str
) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=options.processes)
    Trainer(config, Demonstrations(demonstrations, config), options, folder).run()
    distributed.destroy_process_group()


def export(folder: Path, config: CompactConfig, output: Path) -> None:
    """Write the averaged weights of the run in `folder` as a policy in half precision.

    Raises:
        FileNotFoundError: there is no checkpoint in `folder`.
    """
    tensors = load_file(folder / "checkpoint.safetensors")
    average = {name[8:]: value for name, value in tensors.items() if name.startswith("average.")}
    save_policy(output, config, average, json.loads((folder / "training.json").read_text()))
