"""The predictor learns what actions do to tokens, and its loss leaves the policy alone."""

from __future__ import annotations

import pytest
import torch

from streaming_vla.saliency.predictor import ChangePredictor, norm, predictor_loss, typical_change

torch.set_num_threads(1)
T, F, A = 5, 12, 4


def pairs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return tokens, actions and later tokens: the actions move the first token, in proportion."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(count, T, F, generator=generator)
    actions = torch.randn(count, A, generator=generator)
    later = tokens.clone()
    later[:, 0, :A] += 0.5 * actions
    return tokens, actions, later


def test_an_untrained_predictor_says_that_nothing_changes() -> None:
    predictor = ChangePredictor(T, F, A)
    tokens, actions, _ = pairs(3, 0)
    assert predictor(tokens, actions).shape == (3, T, F)
    assert predictor.saliency(tokens, actions).tolist() == [0.0, 0.0, 0.0]
    assert predictor.saliency(tokens[0], actions[0]).shape == ()


def test_training_explains_the_change_and_saliency_follows_it() -> None:
    torch.manual_seed(1)
    predictor = ChangePredictor(T, F, A, width=32)
    optimiser = torch.optim.Adam(predictor.parameters(), 3e-3)
    tokens, actions, later = pairs(512, 2)
    before = predictor_loss(predictor, tokens, actions, later).item()
    for _ in range(250):
        optimiser.zero_grad()
        predictor_loss(predictor, tokens, actions, later).backward()
        optimiser.step()
    held_out = pairs(128, 3)
    assert predictor_loss(predictor, *held_out).item() < 0.2 * before
    predictor.scale.copy_(typical_change(tokens, later))
    with torch.no_grad():
        said = predictor.saliency(held_out[0], held_out[1])
    true = norm(held_out[2] - held_out[0])
    assert float(torch.corrcoef(torch.stack((said, true)))[0, 1]) > 0.9
    assert float(said.median()) == pytest.approx(1.0, abs=0.25)


def test_the_loss_gives_no_gradient_to_the_policys_tokens() -> None:
    predictor = ChangePredictor(T, F, A)
    tokens, actions, later = (value.requires_grad_() for value in pairs(4, 4))
    loss = predictor_loss(predictor, tokens, actions, later)
    assert loss.shape == ()
    loss.backward()
    assert tokens.grad is None and later.grad is None
    assert predictor.head.weight.grad is not None and bool(predictor.head.weight.grad.abs().sum() > 0)


def test_the_scale_travels_with_the_weights() -> None:
    predictor = ChangePredictor(T, F, A)
    predictor.scale.fill_(3.0)
    other = ChangePredictor(T, F, A)
    other.load_state_dict(predictor.state_dict())
    assert float(other.scale) == 3.0
