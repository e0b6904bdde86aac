"""The flow's loss and its gradient, against a plain reference in float64, and against what a robot is answered."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import plain_smolvla as plain
import pytest
import torch
from safetensors.torch import load_file
from vla_runs import DATA

from streaming_vla.datasets.dataset import Dataset
from streaming_vla.policies.lerobot.load import WEIGHTS
from streaming_vla.training.vla.batches import Batch
from streaming_vla.training.vla.losses import chunk_loss, flow_loss, read_observations
from streaming_vla.training.vla.passes import Passes
from streaming_vla.training.vla.plan import VlaPlan
from streaming_vla.training.vla.trainer import set_learning
from streaming_vla.training.vla.windows import Answer, Moment, answer_at

EVERY = ("expert", "state", "text", "vision")
SEEN = ((0, 3, "go"), (1, 18, "put the cube into the bowl, then come back"))  # part, step, instruction
MOMENTS = ((0, 0.0, 0), (2, 0.37, 1), (5, 0.583, 3))  # begun, time, late


def drawn(run: Any) -> tuple[Batch, list[list[Moment]]]:
    """Return a batch whose moments are known; the second observation's reach behind the end of its episode."""
    random = np.random.default_rng(3)
    plan, units, batches = run.plan, run.batches._units, run.batches
    moments = [[Moment(*each, random.standard_normal(6)) for each in MOMENTS] for _ in SEEN]
    answers = [
        [answer_at(batches.paths[part], step, each, plan.horizon, plan.flow, units) for each in of]
        for (part, step, _), of in zip(SEEN, moments, strict=True)
    ]
    fields = [np.array([[getattr(each, name) for each in of] for of in answers]) for name in Answer._fields]
    parts = batches._parts
    pictures = np.stack([parts[part].pictures(step) for part, step, _ in SEEN])
    states = np.stack([parts[part].state[step] for part, step, _ in SEEN])
    chunk = np.stack([batches.paths[part].chunk(step, plan.horizon, units.absolute) for part, step, _ in SEEN])
    said = tuple(text for _, _, text in SEEN)
    return Batch(pictures, states, said, Answer(*fields), chunk.astype(np.float32)), moments


def stir(run: Any) -> None:
    """Give the flow head's last layer numbers; it begins as zero, behind which nothing learns at first."""
    random = torch.Generator().manual_seed(5)
    for value in run.fresh.parameters():
        value.data = 0.3 * torch.randn(value.shape, generator=random)


def computed(run: Any, batch: Batch, twice: bool = False) -> torch.Tensor:
    passes = Passes(run.policy.network, twice)
    generator = torch.Generator().manual_seed(0)
    context = read_observations(run.policy, passes, batch, run.plan.augment, generator)
    return flow_loss(run.policy, passes, run.fresh, batch, context)


def gradients(run: Any) -> dict[str, torch.Tensor]:
    network = run.policy.network
    return {name: value.grad for name, value in network.named_parameters() if value.grad is not None} | {
        f"fresh.{name}": value.grad for name, value in run.fresh.named_parameters()
    }


def test_loss_and_gradient_equal_a_plain_reference(made: Callable[..., Any]) -> None:
    run, _ = made("smolvla", "flow", learns=EVERY)
    stir(run)
    network, plan = run.policy.network, run.plan
    set_learning(network, EVERY)
    batch, moments = drawn(run)
    loss = computed(run, batch)
    loss.backward()

    stored = load_file(run.folder / "start" / WEIGHTS)
    stored |= {f"fresh.{name}": value.detach() for name, value in run.fresh.named_parameters()}
    t = {name: value.double().requires_grad_(True) for name, value in stored.items()}
    eyes = copy.deepcopy(torch.nn.ModuleDict({"v": network.vision_model, "c": network.connector})).double()
    eyes.zero_grad(set_to_none=True)
    with Dataset(DATA) as data:
        episodes = [data.episode(entry) for entry in data.entries]
    numbers = [(torch.from_numpy(e.action).double(), torch.from_numpy(e.state).double()) for e in episodes]
    states = np.concatenate([e.state for e in episodes]).astype(np.float64)
    changes = np.concatenate([np.diff(np.concatenate((e.state[:1], e.action)).astype(float), axis=0) for e in episodes])
    facts = {
        "horizon": plan.horizon,
        "noise": 0.16,
        "stability": 4.0,
        "scale": torch.from_numpy(np.abs(np.quantile(changes, (0.01, 0.99), axis=0)).max(axis=0)),
        "mean": torch.from_numpy(states.mean(axis=0).astype(np.float32)).double(),
        "std": torch.from_numpy(states.std(axis=0).astype(np.float32)).double(),
    }
    expected = []
    for row, (part, step, text) in enumerate(SEEN):
        pixels = torch.from_numpy(batch.pictures[row]).permute(0, 3, 1, 2).double() / 127.5 - 1.0
        pictures = eyes["c"](eyes["v"](pixels).last_hidden_state)
        state = (torch.from_numpy(batch.state[row]).double() - facts["mean"]) / (facts["std"] + 1e-8)
        words = run.policy.before.tokenizer(f"{text}\n")
        cache = plain.read(t, pictures, words, state)
        expected += [plain.moment_loss(t, cache, numbers[part], step, each, facts) for each in moments[row]]
    wanted = torch.stack(expected).mean()
    wanted.backward()

    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert 0.1 < float(wanted.detach()) < 100.0
    compared = 0
    of_eyes = {"vision_model": eyes["v"], "connector": eyes["c"]}
    for name, got in gradients(run).items():
        first, _, rest = name.partition(".")
        if first in of_eyes:
            want = of_eyes[first].get_parameter(rest).grad
        else:
            want = t[name if first == "fresh" else run.policy.names.in_file(name)].grad
        assert want is not None, name
        none = name.endswith("self_attn.k_proj.bias")  # a softmax does not see it: 0 but for rounding
        assert none or float(want.abs().max()) > 1e-5, name
        assert float((got.double() - want).abs().max()) <= (1e-6 if none else 1e-5 * float(want.abs().max())), name
        compared += 1
    assert compared > 90
    expert = [name for name in gradients(run) if name.startswith("expert_layers")]
    assert len(expert) == 4 * 9


@pytest.mark.parametrize("kind", ["smolvla", "pi05"])
def test_layers_that_are_computed_twice_give_the_same_gradient(made: Callable[..., Any], kind: str) -> None:
    run, _ = made(kind, "flow", learns=tuple(part for part in EVERY if kind == "smolvla" or part != "state"))
    stir(run)
    set_learning(run.policy.network, run.plan.learns)
    batch, _ = drawn(run)
    found = []
    for twice in (False, True):
        run.policy.network.zero_grad()
        run.fresh.zero_grad()
        computed(run, batch, twice).backward()
        found.append({name: value.clone() for name, value in gradients(run).items()})
    for name, once in found[0].items():
        torch.testing.assert_close(found[1][name], once)


@pytest.mark.parametrize("head", ["flow", "chunk"])
def test_a_gpus_number_formats_go_together(made: Callable[..., Any], head: str) -> None:
    """What does not learn is bfloat16 there, and autocast chooses the rest; here the CPU computes it so."""
    from streaming_vla.training.vla.trainer import _narrow_frozen

    run, _ = made("smolvla", "flow")
    set_learning(run.policy.network, ("expert",))
    batch, _ = drawn(run)
    exact = float(computed(run, batch).detach())
    _narrow_frozen(run.policy.network)
    assert run.policy.network.embed_tokens.weight.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        passes, generator = Passes(run.policy.network), torch.Generator().manual_seed(0)
        with torch.no_grad():
            context = read_observations(run.policy, passes, batch, run.plan.augment, generator)
        assert context.keys[0].dtype == torch.bfloat16
        if head == "flow":
            loss = flow_loss(run.policy, passes, run.fresh, batch, context)
            assert float(loss.detach()) == pytest.approx(exact, rel=0.1)
        else:
            loss = chunk_loss(run.policy, passes, batch, context, generator)
    assert loss.dtype == torch.float32
    loss.backward()
    learning = [value for value in run.policy.network.parameters() if value.requires_grad]
    assert all(value.dtype == torch.float32 for value in learning)
    assert any(float(value.grad.abs().max()) > 0 for value in learning if value.grad is not None)


def test_a_plan_says_what_does_not_go_together() -> None:
    with pytest.raises(ValueError, match="delay 12 must be"):
        VlaPlan(horizon=12, execution_horizon=6, flow={"delay": 12})
