"""Distilling a gate for a Hugging Face decoder: one command, resumed bit for bit, and input that cannot be used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from kv_cache.gate_file import load_gate, load_head_gate
from streaming_vla.cli import app
from streaming_vla.training.distill_plan import DistillPlan
from streaming_vla.training.distill_run import Distillation, DistillRun, load_decoder
from streaming_vla.training.distill_trainer import ModelGateTrainer
from streaming_vla.training.head_trainer import HeadGateTrainer
from streaming_vla.training.plan import read_plan
from streaming_vla.training.recall_text import with_recall
from streaming_vla.training.setup import DISTILL_PLAN
from streaming_vla.training.token_files import cut, find_files, tokens_of

TRAINERS = {"head": HeadGateTrainer, "model": ModelGateTrainer}
PLAN = {
    "gate": {"width": 8, "hidden": 8},
    "cache": {"sinks": 2, "recent": 8},
    "learning": {"steps": 4, "count": 8.0, "gate_rate": 0.01, "batch": 2, "tokens": 16},
    "length": 48,
    "piece": 8,
    "validation": 3,
}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small decoder of random weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=40, num_key_value_heads=1, initializer_range=0.4, **sizes)
    folder = tmp_path_factory.mktemp("decoder")
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """Write sequences as a token file."""
    path = tmp_path / "tokens.npy"
    np.save(path, np.random.default_rng(0).integers(0, 40, (6, 100)))
    return path


def run_of(decoder: Path, tokens: Path, folder: Path, per: str) -> DistillRun:
    """Return a run."""
    return DistillRun(decoder, (tokens,), DistillPlan.model_validate(PLAN | {"per": per}), folder)


def trainer(run: DistillRun) -> Distillation:
    """Return the trainer of a run's kind."""
    return TRAINERS[run.plan.per](run, lambda *_: None)


@pytest.mark.parametrize("per", TRAINERS)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(decoder: Path, tokens: Path, tmp_path: Path, per: str) -> None:
    run = run_of(decoder, tokens, tmp_path / "whole", per)
    trainer(run).train()
    stopped = replace(run, folder=tmp_path / "stopped")
    first = trainer(stopped)
    for _ in range(2):
        first.advance()
    first.save()
    trainer(stopped).train()
    files = [load_file(tmp_path / name / "checkpoint.safetensors") for name in ("stopped", "whole")]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])
    with pytest.raises(ValueError, match="holds a run with another seed: choose another --folder"):
        trainer(replace(run, seed=1))


@pytest.mark.parametrize("per", TRAINERS)
def test_one_command_writes_a_gate_and_a_picture(decoder: Path, tokens: Path, tmp_path: Path, per: str) -> None:
    plan, folder = tmp_path / "plan.yaml", tmp_path / "run"
    plan.write_text(json.dumps(PLAN | {"per": per, "learning": PLAN["learning"] | {"steps": 20}}))  # type: ignore[operator]
    arguments = ["train", "gate", "--model", f"hf:{decoder}", "--sequences", str(tokens), "--plan", str(plan)]
    result = CliRunner().invoke(app, [*arguments, "--folder", str(folder)])
    assert result.exit_code == 0, result.output + str(result.exception)
    assert (folder / "losses.png").stat().st_size > 1000
    path = folder / "gate.safetensors"
    if per == "head":
        assert load_head_gate(path).config.longest == 48
    else:
        assert set(load_gate(path).training["validation"]["caches"]) >= {"gated", "oldest", "newest", "random"}  # type: ignore[index]
    refused = CliRunner().invoke(app, arguments[:4])
    assert refused.exit_code == 1 and "--model and --sequences go together" in refused.output + (refused.stderr or "")


def test_attention_is_foretold_better_than_by_age_or_chance(decoder: Path, tokens: Path, tmp_path: Path) -> None:
    run = run_of(decoder, tokens, tmp_path / "run", "head")
    learning = run.plan.learning.model_copy(update={"steps": 150, "tokens": 64})
    made = trainer(replace(run, plan=run.plan.model_copy(update={"learning": learning})))
    made.train()
    figures = made.finish(tmp_path / "gate.safetensors")["one_in_4"]
    assert figures["future"] >= figures["gated"] > 1.1 * max(figures["newest"], figures["random"])


def test_files_that_cannot_be_used_are_refused_in_one_sentence(decoder: Path, tmp_path: Path) -> None:
    def refused(name: str, content: object, sentence: str) -> None:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif name.endswith(".npy"):
            np.save(path, content, allow_pickle=True)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=sentence):
            [tokens_of(file, list, 40) for file in find_files([path])]  # type: ignore[arg-type]

    refused("none.txt", None, "none.txt' does not exist; give text files")
    refused("picture.png", b"x", "is of no kind that is read: .txt, .md")
    refused("latin.txt", b"\xff\xfe\xfa", "is not UTF-8 text")
    refused("pickle.npy", np.array([{}], dtype=object), "cannot be read as npy")
    refused("cut.safetensors", b"\x00" * 3, "cannot be read as safetensors")
    refused("large.npy", np.array([3, 40]), "holds tokens 3 to 40, the model has 0 to 39")
    refused("real.npy", np.array([0.5]), r"holds float64 of shape \(1,\), expected whole numbers")
    with pytest.raises(ValueError, match="0 pieces of 8 tokens are found, expected two or more"):
        cut([np.arange(7)], 8, 4)
    with pytest.raises(ValueError, match="is text and the model's folder has no tokenizer"):
        (tmp_path / "a.txt").write_text("words")
        tokens_of(tmp_path / "a.txt", None, 40)
    with pytest.raises(ValueError, match=r"expected a folder with config.json and \*.safetensors"):
        load_decoder(tmp_path)
    assert load_decoder(decoder)[1] is None


def test_rows_of_token_files_are_sequences(tmp_path: Path) -> None:
    save_file({"a": torch.arange(6).view(2, 3), "b": torch.arange(4)}, tmp_path / "x.safetensors")
    assert [len(row) for row in tokens_of(tmp_path / "x.safetensors", None, 40)] == [3, 3, 4]


def test_facts_come_first_and_their_answers_behind() -> None:
    random = np.random.default_rng(0)
    made = with_recall(np.zeros(4000, dtype=np.int64), lambda text: [ord(each) for each in text], random)
    text = "".join(map(chr, made))
    assert len(made) == 4000 and np.count_nonzero(made[:2000]) > 100 and np.count_nonzero(made[2000:]) > 100
    assert text.count("\n") >= 10


def test_the_shipped_plan_is_valid() -> None:
    assert read_plan(Path(__file__).parents[2] / DISTILL_PLAN, DistillPlan).per == "head"
