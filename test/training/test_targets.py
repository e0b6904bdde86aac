"""Training targets and masks: what the network is taught is what the demonstration did."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from streaming_vla.policies.compact.checkpoint import save_policy
from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.language import UNKNOWN
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.sim.tasks import HELD_OUT_SEED
from streaming_vla.training.augment import augment_pictures, history_mask
from streaming_vla.training.dataset import Demonstrations, check_demonstrations, fingerprint
from streaming_vla.training.demonstrations import wanted_shards
from streaming_vla.training.episode import Perturbation
from streaming_vla.training.losses import Acted, Auxiliary, _acting, batch_loss, check_finite, doubt_loss, flow_loss
from streaming_vla.training.plan import Augment, Flow, Optimiser, Recording, Source, TrainingPlan, Weights, load_plan
from streaming_vla.training.setup import PLAN, compact_config
from streaming_vla.training.shard import Shard
from streaming_vla.training.trainer import check_initial, learning_rate

CONFIG = CompactConfig(words=(UNKNOWN, "the", "window"), width=48, layers=2, image_size=32)
SOURCE = Source(tasks={"window-open": 1.0, "reach": 1.0})


def test_history_mask_is_causal_and_hides_what_was_not_there() -> None:
    present = torch.tensor([[False, True, True, True]]).repeat(200, 1)
    seen = history_mask(present, SOURCE.model_copy(update={"forget": 0.3}), torch.Generator().manual_seed(0))
    assert not seen.triu(1).any()
    assert seen.diagonal(dim1=1, dim2=2).all()
    assert not seen[:, 1:, 0].any()
    assert seen[:, 3, 1].any() and not seen[:, 3, 1].all()
    alone = history_mask(present, SOURCE.model_copy(update={"forget": 1.0}), torch.Generator().manual_seed(0))
    assert torch.equal(alone, torch.eye(4, dtype=torch.bool).expand(200, 4, 4))
    whole = SOURCE.model_copy(update={"forget": 0.0, "whole_history": True})
    everything = history_mask(torch.ones(3, 4, dtype=torch.bool), whole, torch.Generator())
    assert torch.equal(everything, torch.ones(4, 4, dtype=torch.bool).tril().expand(3, 4, 4))


def test_augmented_pictures_stay_in_range_and_blank_cameras_are_black() -> None:
    pictures = torch.randint(0, 256, (4, 2, 2, 16, 16, 3), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    out = augment_pictures(pictures, Augment(blank=(0.0, 1.0)), generator)
    assert out.shape == (4, 2, 2, 3, 16, 16)
    assert float(out.abs().max()) <= 1.0
    assert (out[:, :, 1] == -1.0).all() and not (out[:, :, 0] == -1.0).all()
    still = augment_pictures(pictures, Augment(shift=0, colour=0.0, blank=(0.0, 0.0)), generator)
    torch.testing.assert_close(still, pictures.permute(0, 1, 2, 5, 3, 4) / 127.5 - 1)


def test_dataset_leaves_failures_out_and_marks_what_is_past_the_end(folder: Path) -> None:
    data = Demonstrations(folder, CONFIG, Flow(draws=1))
    names = [episode.name for episode in data.episodes]
    assert names == ["reach_0_00000", "reach_0_00001", "window-open_0_00000", "window-open_0_00001"]
    batch = data.sample(64, SOURCE.model_copy(update={"length": 8}), np.random.default_rng(0))
    assert batch.pictures.shape == (64, 8, 2, 32, 32, 3)
    assert batch.chunk.shape == (64, 8, 16, 4) and batch.age.shape == (64, 8, 1)
    assert batch.later.shape == batch.answer.shape == (64, 8, 1, 4)
    assert batch.present[:, 0].all() and not batch.present.all()


def test_a_sequence_may_be_far_longer_than_its_episode(folder: Path) -> None:
    source = SOURCE.model_copy(update={"length": 40, "stride": (14, 14)})
    batch = Demonstrations(folder, CONFIG, Flow(draws=1)).sample(16, source, np.random.default_rng(0))
    assert batch.present.sum(axis=1).max() <= 5  # 30 frames, one in seven of them


def test_a_wait_is_lengthened_and_what_is_remembered_stays(folder: Path) -> None:
    data = Demonstrations(folder, CONFIG, Flow(draws=1))
    source = Source(tasks={"window-open": 1.0}, length=40, stride=(4, 4), memory=True, wrong_instruction=0.0)
    batch = data.sample(64, source, np.random.default_rng(0))
    assert (batch.recall == batch.recall[:, :1]).all() and set(batch.recall[:, 0]) == {0, 1}
    lengths = batch.present.sum(axis=1)
    assert lengths.min() < 20 and lengths.max() > 35  # an episode alone has 15 observations
    first = {row.tobytes() for row in batch.state[:, 0]}
    assert len(first) == 2, "a sequence begins where its episode does"
    assert data.sample(1, source, np.random.default_rng(0)).present.all(), "nothing is padded that nobody has"


def test_a_wrong_instruction_teaches_to_stay(folder: Path) -> None:
    data = Demonstrations(folder, CONFIG, Flow(draws=1))
    random = np.random.default_rng(0)
    right = data.sample(8, SOURCE.model_copy(update={"wrong_instruction": 0.0}), random)
    assert np.abs(right.chunk[..., :3]).mean() > 0.1 and np.abs(right.answer[..., :3]).mean() > 0.1
    wrong = data.sample(8, SOURCE.model_copy(update={"wrong_instruction": 1.0}), random)
    assert not wrong.chunk[..., :3].any() and not wrong.answer[..., :3].any()
    assert wrong.chunk[..., 3].any()
    np.testing.assert_array_equal(wrong.chunk[..., 3], np.repeat(wrong.answer[..., 3], 16, axis=-1))


def test_the_fingerprint_knows_every_byte(folder: Path) -> None:
    before = fingerprint(check_demonstrations(folder))
    assert before["episodes"] == 6 and before["seeds"] == [0, 2]
    file = Shard(folder, "reach", 0).path
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert fingerprint(check_demonstrations(folder))["sha256"] != before["sha256"]


def test_the_fingerprint_does_not_know_the_order_in_which_a_header_was_written(folder: Path) -> None:
    """The library writes metadata in another order each time, and who trains on own data writes them at each start."""
    before = fingerprint(check_demonstrations(folder))
    file = Shard(folder, "reach", 0).path
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    turned = json.dumps(dict(reversed(header.items()))).encode()
    file.write_bytes(len(turned).to_bytes(8, "little") + turned + data[8 + length :])
    assert file.read_bytes() != data
    assert fingerprint(check_demonstrations(folder)) == before
    file.write_bytes(data[: 8 + length // 2])
    with pytest.raises(ValueError, match=r"reach.*is no safetensors file, or it (was cut off|is damaged)"):
        fingerprint(check_demonstrations(folder))


@pytest.mark.parametrize("absolute", [(True, True, True, True), (False, False, False, False)])
def test_a_robot_may_have_actions_of_one_kind_only(absolute: tuple[bool, ...]) -> None:
    model = CompactModel(replace(CONFIG, action_absolute=absolute))
    age, later, pending, answer = torch.randint(0, 32, (2, 1, 3)), *torch.randn(3, 2, 1, 3, 4)
    acted = Acted(age, later, pending, answer, torch.randn(2, 1, 6, 4), torch.full((2, 1), 0.5))
    losses = flow_loss(lambda moment: moment.state, acted, model, Augment(), torch.Generator())
    assert all(bool(torch.isfinite(loss)) for loss in losses)
    assert float(losses[0 if absolute[0] else 1]) == 0.0 < float(losses[1 if absolute[0] else 0])


def test_a_doubt_is_how_much_less_wrong_a_picture_of_then_makes_the_action() -> None:
    torch.manual_seed(0)
    model, state = CompactModel(CONFIG), torch.randn(3, 2, 1, 4)
    fresh, words = torch.rand(3, 2, 2, 3, CONFIG.image_size, CONFIG.image_size), torch.zeros(3, 2, 16, dtype=torch.long)
    age = torch.full((3, 2, 1), 5)
    with torch.no_grad():  # each picture alone, of age 0
        tokens = model.encode(fresh.flatten(0, 1), state.view(6, 4), words.flatten(0, 1))
        now = model.moment(state.view(6, 1, 4), torch.zeros(6, 1, 4), torch.zeros(6, 1))
        right = model.flow(now, model.trunk(tokens, None)[0], torch.tensor([tokens.shape[1]]), None).view(3, 2, 1, 4)
    acted = Acted(age, state, torch.zeros(3, 2, 1, 4), right, torch.zeros(3, 2, 6, 4), torch.full((3, 2), 1 / 6))
    for off in (0.0, 0.5):
        wrong, said = right[:, :, 0] + off, torch.full((3, 2), 0.2, requires_grad=True)
        loss = doubt_loss(model, wrong, said, acted, fresh, words)
        assert loss.item() == pytest.approx((0.2 - off) ** 2, abs=1e-5)
        loss.backward()
        assert said.grad is not None and all(value.grad is None for value in model.parameters())


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    check_finite(torch.tensor(1.0), 7)
    with pytest.raises(ValueError, match="the loss of step 7 is not finite"):
        check_finite(torch.tensor(float("nan")), 7)


def test_an_empty_folder_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="streaming-vla train demos"):
        Demonstrations(tmp_path, CONFIG, Flow(draws=1))


def test_some_observations_act_and_the_last_ones_always(folder: Path) -> None:
    source = SOURCE.model_copy(update={"acted": 4})
    generator = torch.Generator().manual_seed(0)
    drawn = [_acting(10, source, generator) for _ in range(50)]
    assert all(len(set(each.tolist())) == 4 and each[-2:].tolist() == [8, 9] for each in drawn)
    assert set(torch.cat(drawn).tolist()) == set(range(10))
    assert _acting(3, source, generator).tolist() == [0, 1, 2]
    torch.manual_seed(0)
    model, auxiliary, plan = CompactModel(CONFIG), Auxiliary(CONFIG.width), TrainingPlan(sources=(source,))
    batch = Demonstrations(folder, CONFIG, Flow(draws=1)).sample(
        2, source.model_copy(update={"length": 8}), np.random.default_rng(0)
    )
    _, parts = batch_loss(model, auxiliary, batch, source, plan, generator)
    assert np.isfinite(list(parts.values())).all()


def test_a_few_steps_lower_the_loss_and_reach_every_weight(folder: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, auxiliary = CompactModel(CONFIG), Auxiliary(CONFIG.width)
    data = Demonstrations(folder, CONFIG, Flow(draws=1), looks=True)
    plan = TrainingPlan(sources=(SOURCE,), augment=Augment(blank=(0.0, 0.0)), weights=Weights(doubt=0.1))
    random, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(25):
        loss, parts = batch_loss(model, auxiliary, data.sample(8, SOURCE, random), SOURCE, plan, generator)
        optimizer.zero_grad()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    assert set(parts) == {"flow", "absolute", "chunk", "doubt", "scene", "recall", "goals"}
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []


def test_learning_rate_warms_up_and_falls() -> None:
    options = Optimiser(steps=1000, warm_up=100)
    assert learning_rate(0, options) < learning_rate(99, options) == pytest.approx(options.learning_rate)
    assert learning_rate(999, options) < 0.02 * options.learning_rate


def test_training_seeds_stay_away_from_evaluation(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=str(HELD_OUT_SEED)):
        wanted_shards(tmp_path, Recording(episodes={"reach": 5}, first_seed=HELD_OUT_SEED - 4))


def test_shards_of_all_tasks_grow_together(tmp_path: Path) -> None:
    shards = wanted_shards(tmp_path, Recording(episodes={"reach": 7, "push": 3}, first_seed=10))
    assert [(shard.task, shard.seed) for shard in shards[:9]] == [
        *(("reach", seed) for seed in range(10, 15)),
        *(("push", seed) for seed in range(10, 13)),
        ("reach", 15),
    ]
    assert len({shard.path for shard in shards}) == 10


def test_perturbation_leaves_most_steps_alone() -> None:
    perturbation = Perturbation(0.1, np.random.default_rng(0))
    wanted = np.array([0.1, 0.2, 0.3, 1.0], dtype=np.float32)
    actions = np.stack([perturbation.apply(wanted) for _ in range(400)])
    disturbed = (actions != wanted).any(axis=1).mean()
    assert 0.1 < disturbed < 0.7
    assert np.isfinite(actions).all() and np.abs(actions).max() <= 1


def test_the_shipped_plan_is_valid_and_knows_all_words() -> None:
    plan = load_plan(Path(__file__).parents[2] / PLAN)
    assert plan.recordings and plan.sources
    assert {"drawer", "puck"} < set(compact_config(plan).words)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sources: [", "is not YAML"),
        ("speed: 3", "sources: Field required"),
        ("sources: []\nspeed: 3", "speed: Extra inputs"),
        ("sources: [{tasks: {reach: 1}, length: 0}]", "sources.0.length: Input should be greater"),
    ],
)
def test_a_wrong_plan_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence) as caught:
        load_plan(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value).strip()


def test_a_policy_of_other_words_is_no_start(tmp_path: Path) -> None:
    config, file = CONFIG, tmp_path / "start.safetensors"
    save_policy(file, config, CompactModel(config).state_dict(), {})
    check_initial(file, config)
    with pytest.raises(ValueError, match="to start from differs from the plan in words, layers: choose one that was"):
        check_initial(file, replace(config, words=(UNKNOWN, "the", "door"), layers=config.layers + 1))
