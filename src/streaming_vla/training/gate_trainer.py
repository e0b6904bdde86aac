"""Trains the gate of a compact policy's cache on the policy's demonstrations; one process, one thread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kv_cache.gate import Gate, GateConfig
from kv_cache.gate_file import save_gate
from kv_cache.sampling import ramp
from kv_cache.training.draws import Draw, draw_hard, keep_none
from streaming_vla.policies.compact.checkpoint import load_policy, save_policy
from streaming_vla.training.checkpoint import follow
from streaming_vla.training.dataset import fingerprint
from streaming_vla.training.gate_data import GateDemonstrations, split_episodes
from streaming_vla.training.gate_loop import GateLoop, Progress
from streaming_vla.training.gate_losses import Probe, embed, gate_loss
from streaming_vla.training.gate_network import FullNetwork, GatedNetwork, Network
from streaming_vla.training.gate_plan import GatePlan
from streaming_vla.training.gate_validation import calibrate
from streaming_vla.training.losses import check_finite
from streaming_vla.training.plan import Augment, Source
from streaming_vla.training.run_folder import claim, weights_of
from streaming_vla.training.schedule import cosine

AT_ONCE = 6  # validation sequences: with their full history each takes much memory


@dataclass(frozen=True)
class GateRun:
    """What a training run is made of.

    Args:
        policy: the checkpoint that the gate is for.
        folder: of checkpoint.safetensors and log.jsonl.
    """

    policy: Path
    demonstrations: Path
    plan: GatePlan
    folder: Path
    seed: int = 0


class GateTrainer(GateLoop):
    """One training run; makes one when there is none in the folder, or goes on."""

    def __init__(self, run: GateRun, progress: Progress) -> None:
        self.run = run
        plan = self.plan = run.plan
        torch.set_num_threads(1)
        torch.manual_seed(run.seed)
        self.model = load_policy(run.policy).model.requires_grad_(False)
        gate = Gate(GateConfig.of(self.model.config.cache, **plan.gate.model_dump()))
        self.network = GatedNetwork(self.model, gate, plan.cache.sizes)
        check_judged(plan, self.model.config.tokens_per_observation)
        parts = split_episodes(run.demonstrations, plan)
        self._facts: dict[str, Any] = {
            "plan": plan.model_dump(mode="json"),
            "seed": run.seed,
            "demonstrations": fingerprint(sorted(file for part in parts for file in part)),
            "initial": weights_of(run.policy),
        }
        claim(run.folder, self._facts)
        self._data, self._held_out = (
            GateDemonstrations(run.demonstrations, self.model.config, plan.flow, files) for files in parts
        )
        mean, scale = (torch.from_numpy(each[:2]) for each in self._data.statistics("scene"))
        self.probe = Probe(self.model.config.width, mean, scale)
        learning = plan.learning
        groups = [(gate, learning.gate_rate), (self.probe, learning.probe_rate)]
        self._learned: list[nn.Parameter] = []
        if learning.policy_rate:
            # not of the picture encoder, for which a look-ahead predictor has been trained
            self._learned = [v for name, v in self.model.named_parameters() if not name.startswith("cameras.")]
            for value in self._learned:
                value.requires_grad_(True)
        rates: list[dict[str, Any]] = [{"params": list(module.parameters()), "lr": rate} for module, rate in groups]
        if self._learned:
            rates.append({"params": self._learned, "lr": learning.policy_rate})
        modules = nn.ModuleDict({"gate": gate, "probe": self.probe, "model": self.model})
        average = {name: value.clone() for name, value in self.model.state_dict().items()}
        super().__init__(run.folder, learning.steps, progress, modules, average, rates)

    def advance(self) -> dict[str, float]:
        """Take one step; return the parts of its loss. What is drawn follows from the seed and the step's number."""
        learning = self.plan.learning
        random = np.random.default_rng((self.run.seed, self.step))
        generator = torch.Generator().manual_seed(self.run.seed + 104_729 * self.step)
        if self._learned:
            self._optimizer.param_groups[-1]["lr"] = learning.policy_rate * cosine(self.step / learning.steps)
        self._optimizer.zero_grad(set_to_none=True)
        parts: dict[str, float] = {}
        for number, source in enumerate(self.plan.sources):
            of_source = self._learn(source, random, generator)
            parts |= {f"{name}{number or ''}": value for name, value in of_source.items()}
        nn.utils.clip_grad_norm_(self.network.gate.parameters(), learning.clip)
        nn.utils.clip_grad_norm_(self._learned, 1.0)
        self._optimizer.step()
        if self._learned:
            follow(self._average, self.model, learning.average, self.step)
        self.step += 1
        return parts

    def finish(self, output: Path, policy_output: Path | None) -> dict[str, Any]:
        """Calibrate the threshold, write the gate with all of it, and the policy if it has learned too.

        Raises:
            ValueError: the policy has learned and there is no file to write it to, or the other way round.
        """
        if bool(self._learned) != (policy_output is not None):
            raise ValueError(
                "gate: a file for the policy is needed where learning.policy_rate is above 0, and only there"
            )
        if self._learned:
            self.model.load_state_dict(self._average)
        random = np.random.default_rng(self.run.seed)
        batches = [
            self._held_out.draw(min(AT_ONCE, self.plan.validation.sequences - begin), source, random)
            for source in self.plan.sources
            for begin in range(0, self.plan.validation.sequences, AT_ONCE)
            if source.memory
        ]
        calm, generator = Augment(shift=0, colour=0.0, state_noise=0.0, blank=(0.0,)), torch.Generator()
        with torch.inference_mode():
            embedded = [(batch, embed(self.model, batch, calm, generator)) for batch in batches]
        threshold, figures = calibrate(self.network, self.probe, embedded, self.plan)
        self.write(output, policy_output, threshold, figures)
        self._log({"validation": figures})
        return figures

    def write(self, output: Path, policy_output: Path | None, threshold: float, figures: dict[str, Any]) -> None:
        """Write the gate with its threshold and all that made it, and the policy where there is a file for it."""
        about: dict[str, Any] = self._facts | {"validation": figures}
        if policy_output is not None:
            save_policy(policy_output, self.model.config, self._average, about)
        about["policy"] = weights_of(policy_output or self.run.policy)
        save_gate(output, self.network.gate, threshold, about)

    def draw(self, generator: torch.Generator) -> Draw:
        """Return what says in training which chunks are kept: hard draws with the noise of `generator`."""
        return draw_hard(generator)

    def _learn(self, source: Source, random: np.random.Generator, generator: torch.Generator) -> dict[str, float]:
        """Add the gradient of one batch."""
        plan = self.plan
        counts = {"gated": source.sequences, "full": 0}
        if self._learned:
            # a fraction of a sequence is drawn, so that sources of one sequence have their share too
            counts["full"] = int(plan.learning.full * source.sequences + random.random())
            counts["gated"] -= counts["full"]
        parts: dict[str, float] = {}
        networks: dict[str, tuple[Network, Draw]] = {
            "gated": (self.network, self.draw(generator)),
            "full": (FullNetwork(self.model), keep_none),
        }
        for name, count in counts.items():
            if not count:
                continue
            batch = self._data.draw(count, source, random, plan.keep.without_cue if source.memory else 0.0)
            penalty = plan.keep.penalty * ramp(self.step, plan.learning.steps)
            tokens = embed(self.model, batch, plan.augment, generator)
            loss, _, figures = gate_loss(*networks[name], self.probe, batch, tokens, plan, penalty, generator)
            check_finite(loss, self.step)
            (source.weight * count / source.sequences * loss).backward()
            parts |= {f"{name}_{key}": value for key, value in figures.items()}
        return parts


def check_judged(plan: GatePlan, block: int) -> None:
    """Check, before hours of training, that there is something to learn for a gate.

    Args:
        block: tokens of an observation.

    Raises:
        ValueError: no sequence of a memory source is long enough for a chunk to leave the window.
    """
    sizes, longest = plan.cache.sizes, max(source.length for source in plan.sources if source.memory)
    stays = sizes.sinks + sizes.recent + sizes.chunk
    if longest * block < stays:
        raise ValueError(
            f"gate: no chunk leaves the window of {stays} tokens in any sequence of a memory source, the longest has "
            f"{longest} observations of {block} tokens: make sources.length larger or cache.recent smaller"
        )
