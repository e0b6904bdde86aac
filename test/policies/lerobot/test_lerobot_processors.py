"""What happens to an observation before the network, and to a chunk behind it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import edit, folder_of, observed
from safetensors.torch import load_file, save_file

from streaming_vla.policies.chunk import ChunkAsStream
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.lerobot.load import load_lerobot
from streaming_vla.policies.lerobot.normalisation import affine, limits_of
from streaming_vla.policies.lerobot.options import LoadOptions
from streaming_vla.policies.lerobot.pictures import letterbox, without_letterbox
from streaming_vla.policies.lerobot.text import with_new_line, with_state

Copied = Callable[[str], Path]
LOW, HIGH = np.array([-2.0, 3.0], dtype=np.float32), np.array([6.0, 3.0], dtype=np.float32)
STATISTICS = {"mean": LOW, "std": np.array([4.0, 0.0], dtype=np.float32)}
STATISTICS |= {
    name: each
    for pair in (("min", "max"), ("q01", "q99"), ("q10", "q90"))
    for name, each in zip(pair, (LOW, HIGH), strict=True)
}


def loaded(folder: Path, **options: Any) -> Any:
    return load_lerobot(folder / "checkpoint", LoadOptions(**folder_of(folder), **options))


@pytest.mark.parametrize("mode", ["MIN_MAX", "QUANTILES", "QUANTILE10"])
def test_a_range_becomes_minus_one_to_one(mode: str) -> None:
    found = affine(mode, STATISTICS, 1e-8)
    assert found.normalise(np.array([-2.0, 3.0])).tolist() == [-1.0, -1.0]  # a span of 0 divides by epsilon
    assert found.normalise(np.array([6.0, 3.0]))[0] == 1.0
    assert found.normalise(np.array([14.0, 3.0]))[0] == 3.0  # nothing is clipped
    assert found.restore(np.array([0.5, -1.0])).tolist() == [4.0, 3.0]


def test_mean_and_deviation() -> None:
    found = affine("MEAN_STD", STATISTICS, 0.5)
    assert found.normalise(np.array([7.0, 4.0])).tolist() == [2.0, 2.0]  # epsilon is added on the way in
    assert found.restore(np.array([2.0, 2.0])).tolist() == [6.0, 3.0]  # and not on the way out


def test_identity_and_the_format_stay() -> None:
    found = affine("IDENTITY", {}, 1e-8)
    values = np.array([1.5, -7.25], dtype=np.float32)
    assert found.normalise(values).tolist() == values.tolist() == found.restore(values).tolist()
    assert affine("QUANTILES", STATISTICS, 1e-8).normalise(values).dtype == np.float32


def test_limits_are_wider_than_the_data() -> None:
    low, high = limits_of(STATISTICS)
    assert low.tolist() == pytest.approx([-2.8, 2.9999]) and high.tolist() == pytest.approx([6.8, 3.0001])
    low, high = limits_of({name: STATISTICS[name] for name in ("mean", "std")})
    assert low.tolist() == pytest.approx([-18.0, 2.996]) and high.tolist() == pytest.approx([14.0, 3.004])


def test_texts() -> None:
    assert with_new_line("go") == with_new_line("go\n") == "go\n"
    state = np.array([-1.0, -1.01, 0.0, 0.999, 1.0, 7.0], dtype=np.float32)
    said = with_state(" put the red_block\ndown\n", state)
    assert said == "Task: put the red block down, State: 0 -1 128 255 255 255;\nAction: "


@pytest.mark.parametrize(
    ("centred", "rows", "columns"),
    [(False, (3, 10), (0, 10)), (True, (1, 8), (0, 10))],
    ids=["left_top", "both_sides"],
)
def test_a_letterbox_pads_where_it_should(centred: bool, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    fitted = letterbox(torch.ones(1, 3, 29, 40), 10, 10, centred)[0, 0]  # 29 / 4 is cut to 7 rows, 3 are left
    filled = fitted > 0
    assert filled[rows[0] : rows[1], columns[0] : columns[1]].all() and filled.sum() == 70


def test_a_letterbox_that_fits_changes_nothing() -> None:
    picture = torch.rand(1, 3, 10, 10)
    assert letterbox(picture, 10, 10, True) is picture
    square = np.zeros((8, 8, 3), dtype=np.uint8)
    square[1:7] = 7
    assert without_letterbox(square, 6, 8).shape == (6, 8, 3) and (without_letterbox(square, 6, 8) == 7).all()
    assert without_letterbox(square[:6], 6, 8).shape == (6, 8, 3)


def test_renamed_cameras_come_under_the_robots_names(copied: Copied) -> None:
    folder = copied("smolvla")
    renamed = {"observation.images.front": "observation.images.top"}
    edit(
        folder / "checkpoint" / "policy_preprocessor.json",
        lambda content: content["steps"][0]["config"].update(rename_map=renamed),
    )
    assert loaded(folder).spec.cameras == ("front", "wrist")
    chosen = {"left": "observation.images.wrist", "right": "observation.images.front"}
    assert loaded(folder, cameras=chosen).spec.cameras == ("right", "left")  # the policy's order


NAMES = ["shoulder", "lift", "elbow", "flex", "roll", "main_Gripper"]


def make_relative(folder: Path) -> None:
    """Make the actions of pi0's checkpoint relative to the state, all but the gripper's."""
    edit(
        folder / "checkpoint" / "config.json",
        lambda content: content.update(use_relative_actions=True, action_feature_names=NAMES),
    )
    relative = {"enabled": True, "action_names": NAMES, "exclude_joints": ["gripper"]}
    edit(
        folder / "checkpoint" / "policy_preprocessor.json",
        lambda content: content["steps"][5]["config"].update(relative),
    )
    edit(
        folder / "checkpoint" / "policy_postprocessor.json",
        lambda content: content["steps"][1]["config"].update(enabled=True),
    )


def test_relative_actions_begin_at_the_state(copied: Copied) -> None:
    folder = copied("pi0")
    plain = loaded(folder)
    make_relative(folder)
    policy = loaded(folder)
    state = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype=np.float32)
    chunk = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    moved = policy.after.actions(chunk, state) - plain.after.actions(chunk, state)
    assert moved == pytest.approx(np.tile([1.0, 2.0, 3.0, 4.0, 5.0, 0.0], (12, 1)), abs=1e-4)
    back = policy.after.normalised(policy.after.actions(chunk, state), state)
    assert back == pytest.approx(chunk, abs=1e-5)
    assert policy.spec.layout.names == tuple(NAMES)


def test_targets_of_relative_actions_are_limited_by_the_data_of_the_state(copied: Copied) -> None:
    folder = copied("pi0")
    make_relative(folder)
    [file] = (folder / "checkpoint").glob("policy_post*_unnormalizer_processor.safetensors")
    held = load_file(file)
    for name in ("min", "max", "mean", "q01", "q10", "q50", "q90", "q99"):  # of differences, a few degrees
        held[f"action.{name}"][:5] = {"min": -5.0, "max": 5.0, "q01": -4.0, "q99": 4.0}.get(name, 0.0)
    save_file(held, file)
    policy = loaded(folder)
    low, high = held["observation.state.min"].numpy(), held["observation.state.max"].numpy()
    pose = (high - 0.01 * (high - low)).astype(np.float32)  # where the arm has been in training
    streamed = ChunkAsStream(policy)
    sent = streamed._checked(policy.after.actions(np.zeros((12, 6), dtype=np.float32), pose))
    wanted = pose + policy.after.actions(np.zeros((12, 6), dtype=np.float32), np.zeros(6, dtype=np.float32))
    assert sent[:, :5] == pytest.approx(wanted[:, :5], abs=1e-3), "a target beside the pose is not clipped"
    layout = policy.spec.layout
    wide = 0.1 * (high - low)
    assert layout.low[:5] == pytest.approx((low - wide)[:5]) and layout.high[:5] == pytest.approx((high + wide)[:5])
    grip = [float(held[f"action.{name}"][5]) for name in ("min", "max")]
    assert layout.low[5] < grip[0] < grip[1] < layout.high[5]
    assert layout.initial[:5] == pytest.approx(held["observation.state.mean"].tolist()[:5])


def test_relative_actions_without_statistics_of_the_state_are_not_limited(
    copied: Copied, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied("pi0")
    make_relative(folder)
    mapping = {"VISUAL": "IDENTITY", "STATE": "IDENTITY", "ACTION": "MEAN_STD"}
    edit(folder / "checkpoint" / "config.json", lambda content: content.update(normalization_mapping=mapping))
    for name, number in (("policy_preprocessor.json", 6), ("policy_postprocessor.json", 0)):
        edit(
            folder / "checkpoint" / name,
            lambda content, at=number: content["steps"][at]["config"].update(norm_map=mapping),
        )
    [file] = (folder / "checkpoint").glob("policy_pre*_normalizer_processor.safetensors")
    save_file({name: each for name, each in load_file(file).items() if "state" not in name}, file)
    policy = loaded(folder)
    assert policy.spec.layout.low[:5] == (-1000.0,) * 5 and policy.spec.layout.low[5] > -1000.0
    assert policy.after.data.known.tolist() == [False] * 5 + [True]
    assert "No statistics tell the range of shoulder, lift, elbow" in caplog.text


def test_relative_actions_are_no_changes(copied: Copied) -> None:
    folder = copied("pi0")
    make_relative(folder)
    with pytest.raises(CheckpointError, match="model_action_absolute is false, but the checkpoint adds the state"):
        loaded(folder, action_absolute=False)


def test_every_mode_is_read_from_a_checkpoint(copied: Copied) -> None:
    folder = copied("pi05")
    mapping = {"VISUAL": "IDENTITY", "STATE": "MIN_MAX", "ACTION": "QUANTILE10"}
    edit(folder / "checkpoint" / "config.json", lambda content: content.update(normalization_mapping=mapping))
    for name, number in (("policy_preprocessor.json", 3), ("policy_postprocessor.json", 0)):
        edit(
            folder / "checkpoint" / name,
            lambda content, at=number: content["steps"][at]["config"].update(norm_map=mapping),
        )
    policy = loaded(folder)
    file = next((folder / "checkpoint").glob("policy_pre*_normalizer_processor.safetensors"))
    held = {name.removeprefix("observation.state."): each.numpy() for name, each in load_file(file).items()}
    observation = observed(policy)
    expected = 2 * (observation.state - held["min"]) / (held["max"] - held["min"]) - 1
    assert policy.sample(observation).state == pytest.approx(expected, abs=1e-6)


def test_statistics_of_pictures_may_be_flat(copied: Copied) -> None:
    folder = copied("act")
    before = loaded(folder).sample(observed(loaded(folder)))
    file = next((folder / "checkpoint").glob("policy_pre*_normalizer_processor.safetensors"))
    flat = {name: each.reshape(-1) if each.shape == (3, 1, 1) else each for name, each in load_file(file).items()}
    save_file(flat, file)
    after = loaded(folder).sample(observed(loaded(folder)))
    for name, picture in before.pictures.items():
        assert torch.equal(picture, after.pictures[name])


def test_a_tokenizer_inside_of_the_checkpoint_needs_no_assets(copied: Copied) -> None:
    folder = copied("pi05")
    (folder / "vlm").rename(folder / "checkpoint" / "tokenizer")
    (folder / "geometry.json").rename(folder / "checkpoint" / "geometry.json")
    inside = {"tokenizer_name": "tokenizer"}
    edit(
        folder / "checkpoint" / "policy_preprocessor.json", lambda content: content["steps"][5]["config"].update(inside)
    )
    policy = loaded(folder)
    assert len(policy.sample(observed(policy)).tokens) > 10


def test_an_instruction_that_is_cut_is_said(copied: Copied, caplog: pytest.LogCaptureFixture) -> None:
    policy = loaded(copied("pi0"))
    sample = policy.sample(observed(policy, instruction="up " * 60))
    assert len(sample.tokens) == 48 and "the rest is cut" in caplog.text
