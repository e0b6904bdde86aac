"""What distilling a gate from a Hugging Face decoder is made of: the model, sequences, and lessons kept on disk."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from kv_cache.huggingface_spec import spec_of
from kv_cache.spec import CacheSpec
from kv_cache.tensor_file import file_digest
from streaming_vla.training.curves import draw_losses
from streaming_vla.training.distill_plan import DistillPlan
from streaming_vla.training.gate_loop import LOG, GateLoop, Progress
from streaming_vla.training.recall_text import with_recall
from streaming_vla.training.run_folder import claim
from streaming_vla.training.token_files import Tokenize, cut, find_files, spread, tokens_of

SCHEME = "hf:"
LESSONS = "lessons"


@dataclass(frozen=True)
class DistillRun:
    """What a training run is made of.

    Args:
        model: folder of a Hugging Face model in safetensors, with its tokenizer where sequences are text.
        sequences: files or folders.
        folder: of checkpoint, log, picture and lessons.
    """

    model: Path
    sequences: tuple[Path, ...]
    plan: DistillPlan
    folder: Path
    seed: int = 0


class Distillation(GateLoop):
    """One training run; makes one when there is none in the folder, or goes on."""

    def __init__(self, run: DistillRun, progress: Progress) -> None:
        self.run, plan = run, run.plan
        torch.set_num_threads(1)
        torch.manual_seed(run.seed)
        files = spread(find_files(run.sequences), plan.most)  # more are not needed
        self.model, tokenize = load_decoder(run.model)
        self.spec = spec_of(self.model)
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        pieces = cut((row for file in files for row in tokens_of(file, tokenize, vocabulary)), plan.length, plan.most)
        if tokenize is not None:
            random = np.random.default_rng(run.seed)
            pieces = [with_recall(each, tokenize, random) if random.random() < plan.recall else each for each in pieces]
        self._pieces = pieces
        every = min(plan.validation, len(pieces))
        self.held_out = list(range(every - 1, len(pieces), every))
        self.learned = sorted(set(range(len(pieces))) - set(self.held_out))
        self._facts: dict[str, Any] = {
            "plan": plan.model_dump(mode="json"),
            "seed": run.seed,
            "sequences": {file.name: file_digest(file) for file in files},
            "model": {"name": run.model.name, "sha256": [file_digest(file) for file in weights_in(run.model)]},
        }
        claim(run.folder, self._facts)
        (run.folder / LESSONS).mkdir(exist_ok=True)
        self.gate = self.make_gate(self.spec)
        rates = [{"params": list(self.gate.parameters()), "lr": plan.learning.gate_rate}]
        super().__init__(run.folder, plan.learning.steps, progress, nn.ModuleDict({"gate": self.gate}), {}, rates)

    @abstractmethod
    def make_gate(self, spec: CacheSpec) -> nn.Module:
        """Return a gate that knows nothing yet."""

    @abstractmethod
    def teach(self, tokens: Tensor, number: int) -> dict[str, Tensor]:
        """Return what the teacher says of tokens [1, T], the sequence `number`."""

    @abstractmethod
    def finish(self, output: Path) -> dict[str, Any]:
        """Judge the gate on sequences that it has not learned from, write it, and return the figures."""

    def tokens(self, number: int) -> Tensor:
        """Return the tokens of a sequence, [1, T]."""
        return torch.from_numpy(self._pieces[number]).unsqueeze(0)

    def lesson(self, number: int) -> dict[str, Tensor]:
        """Return what the teacher says of a sequence; it says it once, and what it said is read from disk."""
        path = self.run.folder / LESSONS / f"{number:05d}.safetensors"
        if not path.exists():
            partial = path.with_suffix(".partial")
            made = self.teach(self.tokens(number), number)
            save_file({name: value.contiguous() for name, value in made.items()}, partial)
            partial.replace(path)
        return load_file(path)

    def step_gate(self) -> None:
        """Move the gate along the gradient that was gathered."""
        nn.utils.clip_grad_norm_(self.gate.parameters(), self.run.plan.learning.clip)
        self._optimizer.step()
        self.step += 1

    def picture(self) -> Path:
        """Draw losses and kept rate over the steps; return the file."""
        path = self.run.folder / "losses.png"
        draw_losses(self.run.folder / LOG, path)
        return path


def weights_in(folder: Path) -> list[Path]:
    """Return a model's safetensors files."""
    return sorted(folder.glob("*.safetensors"))


def load_decoder(folder: Path) -> tuple[PreTrainedModel, Tokenize | None]:
    """Load a decoder in float32 and its tokenizer, from disk only; nothing unpickles.

    Raises:
        ValueError: there is no model of safetensors in the folder, or transformers does not know it.
    """
    if not (folder / "config.json").is_file() or not weights_in(folder):
        raise ValueError(
            f"model '{SCHEME}{folder}': expected a folder with config.json and *.safetensors, as save_pretrained writes"
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"model '{SCHEME}{folder}' cannot be loaded: {error}") from error
    if not (folder / "tokenizer.json").is_file():
        return model, None
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    return model, tokenize
