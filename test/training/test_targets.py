"""Training targets and masks: what the network is taught is what the demonstration did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from streaming_vla.policy.compact.config import CompactConfig
from streaming_vla.policy.compact.language import UNKNOWN
from streaming_vla.policy.compact.model import CompactModel
from streaming_vla.robots.tasks import HELD_OUT_SEED
from streaming_vla.training.augment import AugmentOptions, augment_pictures, history_mask
from streaming_vla.training.dataset import Demonstrations, SequenceOptions
from streaming_vla.training.demonstrations import (
    DemonstrationOptions,
    Perturbation,
    encode_frame,
    shard_path,
)
from streaming_vla.training.flow_targets import FlowOptions, draw_targets
from streaming_vla.training.policy import TrainingOptions, learning_rate, policy_loss

CONFIG = CompactConfig(words=(UNKNOWN, "the", "window"), width=48, layers=2, image_size=32)
ABSOLUTE = torch.tensor([False, False, False, True])


def test_targets_without_noise_are_the_demonstration() -> None:
    actions = torch.randn(3, 16, 4)
    previous = torch.randn(3, 4)
    generator = torch.Generator().manual_seed(0)
    options = FlowOptions(sigma=0.0, draws=64)
    targets = draw_targets(actions, previous, torch.tensor([16, 5, 0]), ABSOLUTE, options, generator)
    step = (targets.time * 16 + 1e-4).floor().long().clamp(max=15)
    for row in range(3):
        for draw in range(64):
            j = int(step[row, draw])
            torch.testing.assert_close(targets.target[row, draw], actions[row, j])
            part = float(targets.time[row, draw]) * 16 - j
            moved = actions[row, :j, :3].sum(0) + part * actions[row, j, :3]
            torch.testing.assert_close(targets.position[row, draw, :3], moved, atol=1e-3, rtol=1e-3)
            before = previous[row, 3] if j == 0 else actions[row, j - 1, 3]
            torch.testing.assert_close(targets.position[row, draw, 3], before)
            assert targets.weight[row, draw] == float(j < (16, 5, 0)[row])


def test_noise_is_pulled_back() -> None:
    """With sigma the target leads back to the demonstration: mean error is removed within H / k steps."""
    generator = torch.Generator().manual_seed(0)
    targets = draw_targets(
        torch.zeros(200, 16, 4), torch.zeros(200, 4), torch.full((200,), 16), ABSOLUTE, FlowOptions(), generator
    )
    away = targets.position[..., :3]
    assert float(away.abs().mean()) > 0.005
    torch.testing.assert_close(targets.target[..., :3], torch.where(targets.known.unsqueeze(-1), -4.0 / 16 * away, 0))
    assert 0.4 < float(targets.known.float().mean()) < 0.6


def test_history_mask_is_causal_and_hides_what_was_not_there() -> None:
    present = torch.tensor([[False, True, True, True]]).repeat(200, 1)
    seen = history_mask(present, AugmentOptions(forget=0.3), torch.Generator().manual_seed(0))
    assert not seen.triu(1).any()
    assert seen.diagonal(dim1=1, dim2=2).all()
    assert not seen[:, 1:, 0].any()
    assert seen[:, 3, 1].any() and not seen[:, 3, 1].all()
    alone = history_mask(present, AugmentOptions(forget=1.0), torch.Generator().manual_seed(0))
    assert torch.equal(alone, torch.eye(4, dtype=torch.bool).expand(200, 4, 4))


def test_augmented_pictures_stay_in_range_and_blank_cameras_are_black() -> None:
    pictures = torch.randint(0, 256, (4, 2, 2, 16, 16, 3), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    out = augment_pictures(pictures, AugmentOptions(blank=(0.0, 1.0)), generator)
    assert out.shape == (4, 2, 2, 3, 16, 16)
    assert float(out.abs().max()) <= 1.0
    assert (out[:, :, 1] == -1.0).all() and not (out[:, :, 0] == -1.0).all()
    still = augment_pictures(pictures, AugmentOptions(shift=0, colour=0.0, blank=(0.0, 0.0)), generator)
    torch.testing.assert_close(still, pictures.permute(0, 1, 2, 5, 3, 4) / 127.5 - 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for seed in range(3):
        blob, offsets = bytearray(), []
        for _ in range(40):
            spans = []
            for _ in range(2):
                data = encode_frame(random.integers(0, 256, (32, 32, 3), dtype=np.uint8), 32)
                spans.append((len(blob), len(blob) + len(data)))
                blob += data
            offsets.append(spans)
        clean = np.ones(40, dtype=bool)
        clean[20:23] = False
        arrays = {
            "state": random.normal(size=(40, 4)).astype(np.float32),
            "action": random.uniform(-1, 1, (40, 4)).astype(np.float32),
            "clean": clean,
            "jpeg": np.frombuffer(bytes(blob), dtype=np.uint8),
            "offset": np.array(offsets),
            "success": np.array([seed != 2]),
        }
        save_file(
            arrays, shard_path(tmp_path, "window-open", seed), metadata={"task": "window-open", "seed": str(seed)}
        )
    return tmp_path


def test_dataset_leaves_failures_out_and_masks_disturbed_steps(folder: Path) -> None:
    data = Demonstrations(folder, CONFIG)
    assert data.seeds == {0, 1} and data.frames == 80
    batch = data.sample(64, SequenceOptions(), np.random.default_rng(0))
    assert batch.pictures.shape == (64, 4, 2, 32, 32, 3)
    assert batch.actions.shape == (64, 4, 16, 4)
    assert batch.clean.max() <= 20 and batch.clean.min() == 0
    assert not batch.present.all() and batch.present[:, -1].all()


def test_an_empty_folder_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="streaming-vla train demos"):
        Demonstrations(tmp_path, CONFIG)


def test_a_few_steps_lower_the_loss_and_reach_every_weight(folder: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = CompactModel(CONFIG)
    data = Demonstrations(folder, CONFIG)
    options = TrainingOptions(augment=AugmentOptions(blank=(0.0, 0.0)))
    random, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(25):
        loss, _ = policy_loss(model, data.sample(8, options.sequence, random), options, generator)
        optimizer.zero_grad()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []


def test_learning_rate_warms_up_and_falls() -> None:
    options = TrainingOptions(steps=1000, warm_up=100)
    assert learning_rate(0, options) < learning_rate(99, options) == pytest.approx(options.learning_rate)
    assert learning_rate(999, options) < 0.02 * options.learning_rate


def test_training_seeds_stay_away_from_evaluation() -> None:
    with pytest.raises(ValueError, match=str(HELD_OUT_SEED)):
        DemonstrationOptions(episodes=5, first_seed=HELD_OUT_SEED - 4)


def test_perturbation_marks_what_it_changed() -> None:
    perturbation = Perturbation(0.2, np.random.default_rng(0))
    expert = np.array([0.1, 0.2, 0.3, 1.0], dtype=np.float32)
    results = [perturbation.apply(expert) for _ in range(200)]
    clean = [is_clean for _, is_clean in results]
    assert 20 < sum(clean) < 180
    assert all(np.array_equal(action, expert) == is_clean for action, is_clean in results)
    assert all(np.isfinite(action).all() and np.abs(action).max() <= 1 for action, _ in results)
