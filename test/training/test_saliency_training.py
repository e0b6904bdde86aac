"""Training of the look-ahead predictor: the pairs it learns from, and that it beats what knows less."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import load_file
from typer.testing import CliRunner

from streaming_vla.cli import app
from streaming_vla.policies.compact.checkpoint import save_policy
from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.language import UNKNOWN
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.policies.compact.policy import CompactPolicy
from streaming_vla.saliency.loading import load_predictor
from streaming_vla.sim.frames import encode_frame
from streaming_vla.training.plan import read_plan
from streaming_vla.training.saliency import train_saliency
from streaming_vla.training.saliency_data import Followed, PairSampler, chosen_files, encode, is_held_out
from streaming_vla.training.saliency_plan import SaliencyPlan

torch.set_num_threads(1)
CONFIG = CompactConfig(words=(UNKNOWN, "go"), width=48, layers=2, image_size=32)
PLAN = SaliencyPlan(longest_wait=8, held_out=0.3, width=32, steps=250, batch=64, check_pairs=200)
ABSOLUTE = (False, False, False, True)
STEPS = 40


def policy() -> CompactPolicy:
    """Return a policy of random weights: a random encoder shows where a bright square is as well."""
    torch.manual_seed(0)
    return CompactPolicy(CompactModel(CONFIG), "toy")


def write_episode(folder: Path, seed: int) -> None:
    """Record a bright square that moves as the actions say."""
    random = np.random.default_rng(seed)
    executed = random.uniform(-1.0, 1.0, (STEPS, 4)).astype(np.float32)
    executed[:, :2] = np.repeat(random.uniform(-1.0, 1.0, (STEPS // 8, 2)), 8, axis=0)
    place = np.clip(16 + np.cumsum(np.concatenate((np.zeros((1, 2)), executed[:, :2])), axis=0), 4, 27)
    blob, offsets, steps = bytearray(), [], np.arange(0, STEPS, 2, dtype=np.int32)
    for step in steps:
        picture = np.zeros((32, 32, 3), dtype=np.uint8)
        row, column = place[step].round().astype(int)
        picture[row - 3 : row + 4, column - 3 : column + 4] = 255
        data = encode_frame(picture, 32)
        offsets.append([(0, 0), (len(blob), len(blob) + len(data))])
        blob += data
    arrays = {
        "step": steps,
        "executed": executed,
        "jpeg": np.frombuffer(bytes(blob), dtype=np.uint8),
        "offset": np.array(offsets, dtype=np.int64),
    }
    # the base camera is not the first one of the recording
    save_file(arrays, folder / f"reach_0_{seed:05d}.safetensors", {"cameras": "gripperPOV,corner2"})


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of episodes."""
    folder = tmp_path_factory.mktemp("demonstrations")
    for seed in range(24):
        write_episode(folder, seed)
    return folder


def test_pairs_hold_the_actions_between_two_frames_of_one_episode() -> None:
    """Tokens are the number of their frame, so that a pair tells where it comes from."""
    random = np.random.default_rng(0)
    episodes = []
    for number, step in enumerate((np.arange(0, 20, 2), np.array([0, 50]), np.arange(1, 16, 3))):
        tokens = (100 * number + torch.arange(len(step))).half().view(-1, 1, 1)
        episodes.append(Followed(tokens, step, random.uniform(-1, 1, (60, 4)).astype(np.float32)))
    pairs = PairSampler(episodes, longest_wait=6, absolute=ABSOLUTE).draw(400, random)
    waits = set()
    for before, actions, after in zip(pairs.tokens[:, 0, 0], pairs.actions, pairs.later[:, 0, 0], strict=True):
        number, first = divmod(int(before), 100)
        assert int(after) // 100 == number != 1, "frames of episode 1 are too far apart"
        begin, end = (int(episodes[number].step[place]) for place in (first, int(after) % 100))
        waits.add(end - begin)
        executed = episodes[number].executed[begin:end]
        assert actions[:3].numpy() == pytest.approx(executed[:, :3].sum(0), abs=1e-5)
        assert float(actions[3]) == pytest.approx(executed[-1, 3]), "the newest value where it is no change"
    assert waits == {2, 3, 4, 6}


def test_frames_are_those_of_the_base_camera(demonstrations: Path) -> None:
    made = policy()
    followed = encode(chosen_files(demonstrations, 1)[0], made)
    assert followed.tokens.shape == (STEPS // 2, CONFIG.tokens_per_camera, CONFIG.width)
    with pytest.raises(ValueError, match="the policy needs eye"):
        other = CompactPolicy(CompactModel(CompactConfig(words=(UNKNOWN,), cameras=("eye",), width=48)), "other")
        encode(chosen_files(demonstrations, 1)[0], other)


def test_training_beats_what_knows_less_and_is_the_same_again(demonstrations: Path, tmp_path: Path) -> None:
    made = policy()
    checks = [
        train_saliency(made, demonstrations, PLAN, tmp_path / f"{run}.safetensors", 3, lambda *_: None)
        for run in range(2)
    ]
    assert checks[0] == checks[1]
    assert checks[0].error < 0.8 * checks[0].error_nothing and checks[0].rank > 0.3
    assert checks[0].error_linear < checks[0].error_nothing
    first, second = (load_file(tmp_path / f"{run}.safetensors") for run in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with safe_open(tmp_path / "0.safetensors", framework="pt") as file:
        training = json.loads(file.metadata()["training"])
    assert training["plan"]["longest_wait"] == 8 and training["demonstrations"]["episodes"] == 24
    assert training["check"]["error"] == checks[0].error
    made.predictor = load_predictor(tmp_path / "0.safetensors", made)
    seen = encode(chosen_files(demonstrations, 1)[0], made).tokens[3].float()
    still, far = (made.look_ahead(seen, np.array([x, x, 0.0, 0.0])) for x in (0.0, 6.0))
    assert 0.0 <= still < far


def test_held_out_episodes_stay_held_out_when_others_are_added() -> None:
    files = [Path(f"reach_0_{seed:05d}.safetensors") for seed in range(2000)]
    assert sum(is_held_out(file, 0.1) for file in files) == pytest.approx(200, abs=60)


def test_the_command_writes_a_predictor_and_refuses_in_one_sentence(demonstrations: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_policy(tmp_path / "toy.safetensors", CONFIG, CompactModel(CONFIG).state_dict(), {})
    plan = tmp_path / "plan.yaml"
    plan.write_text("steps: 5\nlongest_wait: 8\nheld_out: 0.3\ncheck_pairs: 100\n")
    given = ["train", "saliency", "--model", str(tmp_path / "toy.safetensors"), "--plan", str(plan)]
    output = tmp_path / "toy_saliency.safetensors"
    done = CliRunner().invoke(app, [*given, "--demonstrations", str(demonstrations), "--output", str(output)])
    assert done.exit_code == 0 and output.is_file() and "nothing changes" in done.output
    refused = CliRunner().invoke(app, [*given, "--demonstrations", str(tmp_path / "none"), "--output", str(output)])
    assert refused.exit_code == 1 and "no demonstrations in" in refused.output
    plan.write_text("step: 5\n")
    with pytest.raises(ValueError, match="step: Extra inputs"):
        read_plan(plan, SaliencyPlan)
