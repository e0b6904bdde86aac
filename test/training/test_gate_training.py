"""Training a gate: one pass is what the cache does online, cues may be missing, a stopped run goes on as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from kv_cache import Full, Gate, GateConfig, Gated, SessionCache
from kv_cache.gate_file import load_gate
from kv_cache.policies import CachePolicy
from kv_cache.policies.base import Sizes
from kv_cache.training.draws import Draw, keep_all, keep_from, keep_none
from streaming_vla.cli import app
from streaming_vla.policies.compact.checkpoint import load_policy, save_policy
from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.experts import Moment
from streaming_vla.policies.compact.language import UNKNOWN
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.policies.compact.policy import CompactPolicy
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, prefill_whole, run_slices
from streaming_vla.training.dataset import check_demonstrations
from streaming_vla.training.gate_data import NOTHING, GateBatch, GateDemonstrations, split_episodes
from streaming_vla.training.gate_losses import Probe, chunks_where, embed, gate_loss
from streaming_vla.training.gate_network import FullNetwork, GatedNetwork
from streaming_vla.training.gate_plan import GatePlan
from streaming_vla.training.gate_trainer import GateRun, GateTrainer
from streaming_vla.training.plan import Augment, Flow, Source, read_plan
from streaming_vla.training.run_folder import CHECKPOINT, FILE, claim
from streaming_vla.training.setup import GATE_PLAN

torch.set_num_threads(1)
CONFIG = CompactConfig(
    words=(UNKNOWN, "the", "window"), width=48, layers=3, image_size=32, channels=(8, 8, 8, 8), keypoints=(4, 4)
)
BLOCK = CONFIG.tokens_per_observation
SOURCE = Source(tasks={"window-open": 1.0}, length=10, stride=(4, 4), memory=True, sequences=3, wrong_instruction=0.0)
PLAN = GatePlan.model_validate(
    {
        "gate": {"width": 8, "hidden": 8},
        "cache": {"recent": BLOCK, "chunk": BLOCK},
        "sources": [SOURCE.model_dump()],
        "validation": {"every": 2, "sequences": 8},
        "learning": {"steps": 4},
    }
)


def wild_network(sizes: Sizes, summary: str = "mean") -> GatedNetwork:
    """Return random networks whose gate keeps about half of the chunks."""
    torch.manual_seed(0)
    model = CompactModel(CONFIG).eval().requires_grad_(False)
    gate = Gate(GateConfig.of(CONFIG.cache, width=8, hidden=8, summary=summary)).eval().requires_grad_(False)
    gate.head.weight.mul_(10.0)
    gate.head.bias.zero_()
    for parameter in gate.summary.parameters():
        parameter.normal_(std=0.1)
    return GatedNetwork(model, gate, sizes)


@pytest.mark.parametrize(
    ("sizes", "summary"),
    [
        (Sizes(0, BLOCK, BLOCK), "mean"),
        (Sizes(0, 2 * BLOCK, BLOCK), "attention"),
        (Sizes(4, BLOCK + 7, 10), "mlp"),
    ],
)
@torch.inference_mode()
def test_one_pass_is_what_the_policy_does_online(sizes: Sizes, summary: str) -> None:
    network, random = wild_network(sizes, summary), np.random.default_rng(0)
    policy = CompactPolicy(network.model, "wild")
    seen = [
        PolicyObservation(
            random.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8), random.normal(size=4).astype(np.float32), "window"
        )
        for _ in range(7)
    ]
    tokens = torch.cat([run_slices(policy.encode(each)) for each in seen], dim=1)
    scores = network.run(tokens, keep_none).logits.sigmoid().flatten().sort().values
    threshold = float(scores[len(scores) // 2 - 1 :][:2].mean())  # between two scores
    kept = Gated(sizes.sinks, sizes.recent, sizes.chunk, budget=400, gate=network.gate, threshold=threshold)
    keep = compare_with_online(network, policy, seen, tokens, kept, keep_from(threshold))
    assert 0 < int(keep.sum()) < keep.shape[1]
    compare_with_online(FullNetwork(network.model), policy, seen, tokens, Full(len(seen) * BLOCK), keep_none)


def compare_with_online(
    network: GatedNetwork | FullNetwork,
    policy: CompactPolicy,
    seen: list[PolicyObservation],
    tokens: Tensor,
    kept: CachePolicy,
    draw: Draw,
) -> Tensor:
    """Compare actions after every observation with those of a cache that grows online; return what is kept."""
    cache, online = SessionCache(CONFIG.cache, kept), []
    now = np.array([1.5, -2.0, 0.5, 1.0], dtype=np.float32)
    for each in seen:
        cache.append(*prefill_whole(policy, each, cache.view())[:2])
        online += [policy.flow_step(FlowQuery(cache.view(), now, index, state=now)) for index in (0, 3)]
    passed = network.run(tokens, draw)
    states, age = torch.from_numpy(now).expand(1, len(online), -1), torch.tensor([0, 3]).repeat(1, len(seen))
    moment = network.model.moment(states, torch.zeros_like(states), age)
    answer = network.flow(passed, torch.arange(len(seen)), moment)
    wanted = torch.from_numpy(np.stack(online)).float()
    torch.testing.assert_close(answer[0].clamp(-1.0, 1.0), wanted, rtol=1e-4, atol=1e-5)
    some = network.flow(passed, torch.tensor([1, 4]), Moment(*(part[:, :4] for part in moment)))
    torch.testing.assert_close(some[0], answer[0, [2, 3, 8, 9]], rtol=1e-4, atol=1e-5)
    held = [number for number, _ in cache.kept_chunks()]
    assert held == passed.fate.keep[0].nonzero().flatten().tolist()
    return passed.fate.keep


def windows_of(folder: Path) -> GateDemonstrations:
    """Return the demonstrations of window-open."""
    files = [file for file in check_demonstrations(folder) if "window" in file.name]
    return GateDemonstrations(folder, CONFIG, Flow(draws=1), files)


def test_tokens_are_those_of_the_policy_and_pictures_are_disturbed_anew(folder: Path) -> None:
    model, batch = CompactModel(CONFIG).eval(), windows_of(folder).draw(6, SOURCE, np.random.default_rng(3))
    assert batch.given["pictures"].dtype == torch.uint8
    calm, generator = Augment(shift=0, colour=0.0, state_noise=0.0, blank=(0.0,)), torch.Generator()
    tokens = embed(model, batch, calm, generator).view(6, -1, BLOCK, CONFIG.width)
    pictures = batch.given["pictures"][2, 4].permute(0, 3, 1, 2).unsqueeze(0).float() / 127.5 - 1.0
    wanted = model.encode(pictures, batch.given["state"][2, 4:5], batch.given["words"][2:3])
    torch.testing.assert_close(tokens[2, 4], wanted[0])
    shaken = [embed(model, batch, PLAN.augment, generator) for _ in range(2)]
    assert not torch.equal(*shaken), "every step sees other pictures"


def test_a_sequence_without_its_cue_begins_in_the_wait(folder: Path) -> None:
    episodes = windows_of(folder)
    source = SOURCE.model_copy(update={"length": 16})
    with_cue = episodes.draw(16, source, np.random.default_rng(0))
    assert with_cue.cue[:, 0].all() and set(with_cue.recall.flatten().tolist()) <= {0, 1}
    assert torch.equal(with_cue.taught, with_cue.present) and set(with_cue.tasks) == {"window-open"}
    without = episodes.draw(16, source, np.random.default_rng(0), without_cue=1.0)
    assert not without.cue.any() and (without.recall == NOTHING).all()
    first = with_cue.cue.sum(dim=1)
    for row, begin in enumerate(first.tolist()):
        torch.testing.assert_close(without.given["state"][row, 0], with_cue.given["state"][row, begin])
    assert torch.equal(without.present.sum(dim=1), with_cue.present.sum(dim=1) - first)
    assert without.taught[:, 0].all() and (without.taught <= without.present).all()
    assert without.taught.sum() < without.present.sum(), "what to choose cannot be known"


def test_the_last_observations_act_and_some_of_the_others(folder: Path) -> None:
    episodes = windows_of(folder)
    source = SOURCE.model_copy(update={"length": 16, "acted": 5})
    batch = episodes.draw(16, source, np.random.default_rng(0))
    assert (batch.taught.sum(dim=1) == 5).all() and (batch.taught <= batch.present).all()
    last = batch.present.sum(dim=1, keepdim=True) - 1
    assert batch.taught.gather(1, last).all() and batch.taught.gather(1, last - 1).all()
    assert batch.taught[:, :8].any(dim=0).sum() > 2, "the others are drawn"


def test_episodes_for_validation_are_not_learned_from(folder: Path) -> None:
    learned, held_out = split_episodes(folder, PLAN)
    assert [file.name for file in learned] == ["window-open_0_00000.safetensors", "window-open_0_00002.safetensors"]
    assert [file.name for file in held_out] == ["window-open_0_00001.safetensors"]
    for tasks, use in (
        ({"window-open": 1.0, "count": 1.0}, "count to learn from"),
        ({"reach": 1.0}, "reach for valid"),
    ):
        source = PLAN.sources[0].model_copy(update={"tasks": tasks})
        plan = PLAN.model_copy(update={"sources": (source,), "validation": PLAN.validation.model_copy()})
        if "reach" in tasks:
            (folder / "reach_0_00001.safetensors").unlink()
        with pytest.raises(ValueError, match=f"no demonstrations of {use}"):
            split_episodes(folder, plan)


def test_chunks_are_those_that_hold_a_token_of_an_observation() -> None:
    cue = torch.tensor([[True, False, False, True, False, False]])
    assert chunks_where(cue, 10, Sizes(0, 20, 10)).tolist() == [[True, False, False, True]]
    assert chunks_where(cue, 10, Sizes(4, 20, 5)).tolist() == [[True, True, False, False, False, True, True]]
    assert chunks_where(cue, 10, Sizes(0, 20, 20)).tolist() == [[True, True]]


def policy_file(folder: Path) -> Path:
    """Write a random policy."""
    torch.manual_seed(1)
    path = folder / "policy.safetensors"
    save_policy(path, CONFIG, CompactModel(CONFIG).state_dict(), {})
    return path


@pytest.mark.parametrize("rate", [0.0, 1e-3])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(folder: Path, tmp_path: Path, rate: float) -> None:
    plan = PLAN.model_copy(update={"learning": PLAN.learning.model_copy(update={"policy_rate": rate})})
    run = GateRun(policy_file(tmp_path), folder, plan, tmp_path / "whole")
    GateTrainer(run, lambda *_: None).train()
    stopped = replace(run, folder=tmp_path / "stopped")
    first = GateTrainer(stopped, lambda *_: None)
    for _ in range(2):
        first.advance()
    first.save()
    GateTrainer(stopped, lambda *_: None).train()
    files = (tmp_path / name / "checkpoint.safetensors" for name in ("stopped", "whole"))
    torch.testing.assert_close(*map(load_file, files))


def test_the_tasks_loss_teaches_the_gate(folder: Path, tmp_path: Path) -> None:
    """Without a penalty only what the policy loses by a chunk that was dropped can move the gate."""
    plan = PLAN.model_copy(update={"keep": PLAN.keep.model_copy(update={"penalty": 0.0})})
    trainer = GateTrainer(GateRun(policy_file(tmp_path), folder, plan, tmp_path / "run"), lambda *_: None)
    gate = trainer.network.gate
    before = {name: value.clone() for name, value in gate.state_dict().items()}
    trainer.advance()
    for name, value in gate.named_parameters():
        assert value.grad is not None and float(value.grad.abs().sum()) > 0.0, name
        assert not torch.equal(value, before[name]), name


def test_the_command_writes_a_gate_with_all_that_made_it(folder: Path, tmp_path: Path) -> None:
    plan, policy, output = tmp_path / "plan.yaml", policy_file(tmp_path), tmp_path / "gate.safetensors"
    plan.write_text(json.dumps(PLAN.model_dump(mode="json")))
    arguments = ["train", "gate", "--policy", str(policy), "--plan", str(plan), "--demonstrations", str(folder)]
    arguments += ["--output", str(output), "--folder", str(tmp_path / "run")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    loaded = load_gate(output)
    assert loaded.training["plan"] == PLAN.model_dump(mode="json") and loaded.training["seed"] == 0
    figures = loaded.training["validation"]
    assert isinstance(figures, dict) and set(figures["caches"]) == {"all", "full", "gated", "window"}
    assert figures["threshold"] == loaded.threshold and set(figures["cue_kept"]) == {"window-open.1"}
    assert figures["caches"]["full"]["tokens"] > figures["caches"]["window"]["tokens"] == BLOCK
    refused = CliRunner().invoke(app, [*arguments, "--policy-output", str(tmp_path / "other.safetensors")])
    assert refused.exit_code == 1 and "--policy-output goes with a plan" in refused.output + (refused.stderr or "")


def test_a_policy_that_learns_too_is_written(folder: Path, tmp_path: Path) -> None:
    policy = policy_file(tmp_path)
    plan = PLAN.model_copy(update={"learning": PLAN.learning.model_copy(update={"policy_rate": 1e-2})})
    trainer = GateTrainer(GateRun(policy, folder, plan, tmp_path / "run"), lambda *_: None)
    trainer.train()
    trainer.finish(tmp_path / "gate.safetensors", tmp_path / "learned.safetensors")
    before, after = (load_policy(file).model.state_dict() for file in (policy, tmp_path / "learned.safetensors"))
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"word", "word_place", "word_query", "word_mlp", "state", "trunk_layers", "flow", "chunk"}
    identity = load_gate(tmp_path / "gate.safetensors").training["policy"]
    assert isinstance(identity, dict) and identity["name"] == "learned"


def test_a_training_may_draw_otherwise(folder: Path, tmp_path: Path) -> None:
    drawn: list[Draw] = []

    class KeepsAll(GateTrainer):
        def draw(self, generator: torch.Generator) -> Draw:
            drawn.append(keep_all)
            return keep_all

    KeepsAll(GateRun(policy_file(tmp_path), folder, PLAN, tmp_path / "run"), lambda *_: None).advance()
    assert drawn, "benchmarks/kv_cache/every_chunk.py trains so"


def test_a_gate_that_judges_all_chunks_alike_is_refused(folder: Path, tmp_path: Path) -> None:
    trainer = GateTrainer(GateRun(policy_file(tmp_path), folder, PLAN, tmp_path / "run"), lambda *_: None)
    torch.nn.init.zeros_(trainer.network.gate.head.weight)
    with pytest.raises(ValueError, match="has not learned what to keep: train again with another seed"):
        trainer.finish(tmp_path / "gate.safetensors", None)


def test_a_plan_in_which_no_chunk_is_ever_judged_is_refused_before_training(folder: Path, tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"cache": PLAN.cache.model_copy(update={"recent": 10 * BLOCK})})
    with pytest.raises(ValueError, match=r"no chunk leaves the window of \d+ tokens in any sequence"):
        GateTrainer(GateRun(policy_file(tmp_path), folder, plan, tmp_path / "run"), lambda *_: None)


def test_a_folder_of_another_run_is_not_resumed(folder: Path, tmp_path: Path) -> None:
    run = GateRun(policy_file(tmp_path), folder, PLAN, tmp_path / "run")
    GateTrainer(run, lambda *_: None)
    GateTrainer(run, lambda *_: None)
    other = tmp_path / "other.safetensors"
    save_policy(other, CONFIG, CompactModel(CONFIG).state_dict(), {})
    with pytest.raises(ValueError, match="holds a run with another seed and another initial: choose another --folder"):
        GateTrainer(replace(run, policy=other, seed=1), lambda *_: None)
    (tmp_path / "unknown").mkdir()
    (tmp_path / "unknown" / CHECKPOINT).touch()
    with pytest.raises(ValueError, match=f"holds {CHECKPOINT} and no {FILE} that tells of which run"):
        claim(tmp_path / "unknown", {})


def test_chunks_behind_the_end_and_observations_that_learn_nothing_cost_nothing(folder: Path) -> None:
    network, episodes = wild_network(Sizes(0, BLOCK, BLOCK)), windows_of(folder)
    batch = episodes.draw(2, SOURCE.model_copy(update={"length": 6, "sequences": 2}), np.random.default_rng(0))
    probe = Probe(CONFIG.width, torch.zeros(2), torch.ones(2))
    plan = PLAN.model_copy(update={"keep": PLAN.keep.model_copy(update={"count": 0.5})})
    calm = Augment(shift=0, colour=0.0, state_noise=0.0, blank=(0.0,))

    def penalty(given: GateBatch) -> tuple[float, dict[str, float]]:
        tokens = embed(network.model, given, calm, torch.Generator())
        losses = [
            gate_loss(network, keep_none, probe, given, tokens, plan, weight, torch.Generator().manual_seed(0))
            for weight in (0.0, 1.0)
        ]
        return float((losses[1][0] - losses[0][0]).detach()), losses[0][2]

    whole, _ = penalty(batch)
    short = replace(batch, given=batch.given | {"present": batch.present & (torch.arange(6) < 4)})
    cut = replace(
        batch,
        given={
            name: value[:, :4] if value.dim() > 1 and value.shape[1] == 6 else value
            for name, value in batch.given.items()
        },
        taught=batch.taught[:, :4],
        cue=batch.cue[:, :4],
    )
    assert penalty(short)[0] == pytest.approx(penalty(cut)[0], rel=1e-4) != pytest.approx(whole, rel=1e-4)
    _, parts = penalty(replace(batch, taught=torch.zeros_like(batch.taught)))
    assert parts["flow"] == 0.0 and np.isfinite(parts["recall"])


def test_a_plan_without_a_source_of_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="sources has none with memory: true"):
        GatePlan.model_validate({"sources": [SOURCE.model_copy(update={"memory": False}).model_dump()]})


def test_a_window_below_an_observation_is_refused() -> None:
    with pytest.raises(ValueError, match=f"recent is {BLOCK - 1} tokens, below the {BLOCK}"):
        wild_network(Sizes(0, BLOCK - 1, BLOCK))


def test_the_shipped_plan_is_valid_and_fits_the_shipped_policy() -> None:
    plan = read_plan(Path(__file__).parents[2] / GATE_PLAN, GatePlan)
    assert any(source.memory for source in plan.sources)
    assert plan.cache.chunk == CompactConfig(words=(UNKNOWN,)).tokens_per_observation
