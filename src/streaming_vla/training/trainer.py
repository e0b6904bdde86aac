"""Trains the compact policy: CPU processes with one thread each and averaged gradients, or one process on a GPU.

A run can be stopped at any time and goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from streaming_vla.policies.compact.checkpoint import facts_in, load_model, save_policy
from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.training.checkpoint import follow, load_average, load_checkpoint, save_checkpoint
from streaming_vla.training.dataset import Demonstrations, check_demonstrations, check_sources, fingerprint
from streaming_vla.training.losses import Auxiliary, batch_loss, check_finite
from streaming_vla.training.plan import Optimiser, TrainingPlan
from streaming_vla.training.run_folder import CHECKPOINT, claim, facts_of, weights_of
from streaming_vla.training.schedule import cosine
from streaming_vla.workbench.processes import end_with_parent

REPORT_EVERY = 50
SAVE_EVERY = 250


def learning_rate(step: int, options: Optimiser) -> float:
    """Return the learning rate of `step`: linear warm-up, then a cosine."""
    if step < options.warm_up:
        return options.learning_rate * (step + 1) / options.warm_up
    progress = (step - options.warm_up) / max(1, options.steps - options.warm_up)
    return options.learning_rate * cosine(progress)


@dataclass(frozen=True)
class Run:
    """What a training run is made of.

    Args:
        folder: of checkpoint.safetensors, run.json and log.jsonl.
        processes: CPU processes of one thread each, gradients averaged.
        initial: a policy's weights to start from, instead of random ones.
    """

    config: CompactConfig
    demonstrations: Path
    plan: TrainingPlan
    folder: Path
    seed: int = 0
    processes: int = 1
    initial: Path | None = None

    def facts(self, files: Sequence[Path]) -> dict[str, object]:
        """Return what makes the run, for the metadata of its policy; `files` are its demonstrations."""
        return {
            "plan": self.plan.model_dump(mode="json"),
            "seed": self.seed,
            "demonstrations": fingerprint(files),
            "initial": None
            if self.initial is None
            else {**weights_of(self.initial), "training": facts_in(self.initial)},
        }


class Trainer:
    """One process of a training run; the first one writes checkpoints, which a new run resumes from."""

    def __init__(self, run: Run) -> None:
        self.plan, self.folder, self.seed, self.processes = run.plan, run.folder, run.seed, run.processes
        plan, config, seed, initial = run.plan, run.config, run.seed, run.initial
        self.data = Demonstrations(run.demonstrations, config, plan.flow, looks=plan.weights.doubt > 0.0)
        self.rank = distributed.get_rank()
        torch.manual_seed(seed)
        self.model = CompactModel(config)
        self.auxiliary = Auxiliary(config.width)
        for owner, field in ((self.model, "state"), (self.auxiliary, "scene")):
            mean, scale = self.data.statistics(field)
            getattr(owner, f"{field}_mean").copy_(torch.from_numpy(mean))
            getattr(owner, f"{field}_scale").copy_(torch.from_numpy(scale))
        self.model.pending_scale.copy_(torch.from_numpy(self.data.pending_scale()))
        if initial is not None:  # with its scales: what is not learned anew reads them as it did
            self.model.load_state_dict(load_model(initial).state_dict())
        if plan.learns:
            self.model.requires_grad_(False)
            for name in plan.learns:
                self.model.get_submodule(name).requires_grad_(True)
        self.model.flow.doubts.fill_(float(plan.weights.doubt > 0.0))  # a doubt is that of the flow it was learned for
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.modules = torch.nn.ModuleDict({"model": self.model, "auxiliary": self.auxiliary}).to(self.device)
        self.parameters = [value for value in self.modules.parameters() if value.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=plan.optimiser.learning_rate,
            weight_decay=plan.optimiser.weight_decay,
            betas=(0.9, 0.99),
        )
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self._checkpoint = run.folder / CHECKPOINT
        self.step = load_checkpoint(self._checkpoint, self.modules, self.average, self.optimizer, self.parameters)

    def run(self) -> None:
        """Train to the last step; the first process writes figures to log.jsonl and to the terminal."""
        plan = self.plan
        if self.rank == 0 and self.data.failed:
            print(f"{self.data.failed} episodes are left out: their expert failed", flush=True)
        random = np.random.default_rng((self.seed, self.rank, self.step))
        generator = torch.Generator(self.device).manual_seed(self.seed + 7919 * self.rank + 104_729 * self.step)
        sums: dict[str, float] = {}
        steps, began = 0, time.monotonic()
        while self.step < plan.optimiser.steps:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.step, plan.optimiser)
            self.optimizer.zero_grad(set_to_none=True)
            for number, source in enumerate(plan.sources):
                batch = self.data.sample(max(1, source.sequences // self.processes), source, random)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                    loss, parts = batch_loss(self.model, self.auxiliary, batch, source, plan, generator)
                check_finite(loss, self.step)
                (source.weight * loss).backward()
                for name, value in parts.items():
                    key = f"{name}{number or ''}"
                    sums[key] = sums.get(key, 0.0) + value
            self._average_gradients()
            torch.nn.utils.clip_grad_norm_(self.parameters, plan.optimiser.clip)
            self.optimizer.step()
            follow(self.average, self.model, plan.optimiser.average, self.step)
            self.step += 1
            steps += 1
            if self.step % REPORT_EVERY == 0 or self.step == plan.optimiser.steps:
                if self.rank == 0:
                    figures = {name: value / steps for name, value in sums.items()}
                    self._log(figures | {"seconds_per_step": (time.monotonic() - began) / steps})
                sums, steps, began = {}, 0, time.monotonic()
            if self.rank == 0 and (self.step % SAVE_EVERY == 0 or self.step == plan.optimiser.steps):
                save_checkpoint(
                    self._checkpoint, self.modules, self.average, self.optimizer, self.parameters, self.step
                )

    def _log(self, figures: dict[str, float]) -> None:
        left_min = (self.plan.optimiser.steps - self.step) * figures["seconds_per_step"] / 60
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps({"step": self.step, **figures}) + "\n")
        losses = "  ".join(f"{name} {value:.4f}" for name, value in figures.items() if name != "seconds_per_step")
        print(f"step {self.step}/{self.plan.optimiser.steps}  {losses}  {left_min:.0f} min left", flush=True)

    def _average_gradients(self) -> None:
        if self.processes == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        packed = torch.cat([gradient.flatten() for gradient in gradients])  # one all-reduce a step
        distributed.all_reduce(packed)
        packed /= self.processes
        parts = packed.split([p.numel() for p in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)


def check_initial(initial: Path, config: CompactConfig) -> None:
    """Check the policy to start from.

    Raises:
        ValueError: it is not one of `config`; the message names what differs.
    """
    wanted = asdict(config)
    if other := [name for name, value in asdict(load_model(initial).config).items() if value != wanted[name]]:
        raise ValueError(
            f"the policy '{initial}' to start from differs from the plan in {', '.join(other)}: choose one that was "
            "trained for the plan's robot, model and tasks, or train with --initial none"
        )


def train(run: Run) -> None:
    """Train to the plan's last step, resuming what is in the run's folder.

    Raises:
        ValueError: a task has no demonstrations, or the folder holds another run.
    """
    files = check_demonstrations(run.demonstrations)
    check_sources(files, run.plan.sources)
    claim(run.folder, run.facts(files))
    store = run.folder.absolute() / f"rendezvous-{os.getpid()}"
    store.unlink(missing_ok=True)  # of a run that was killed: process numbers come again
    spawn(_work, (run, str(store)), run.processes)


def _work(rank: int, run: Run, store: str) -> None:
    end_with_parent()  # else a run that is killed goes on, beside the one that is started in its folder then
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=run.processes)
    Trainer(run).run()
    distributed.destroy_process_group()


def export(run: Run, output: Path) -> None:
    """Write the averaged weights of a run as a policy in half precision, with how it was trained.

    Raises:
        FileNotFoundError: there is no checkpoint in the run's folder.
    """
    average = load_average(run.folder / CHECKPOINT)
    save_policy(output, run.config, average, facts_of(run.folder))
