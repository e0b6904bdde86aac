"""What a server or a file says of its policy: read whole, or refused by the name of what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from remote_servers import OPENPI_KEYS, described

from streaming_vla.policies.contract import PolicySpec
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.layout import ActionLayout
from streaming_vla.policies.remote import wire
from streaming_vla.policies.remote.description import read_description, with_cameras
from streaming_vla.policies.remote.keys import generic_keys
from streaming_vla.policies.remote.messages import WireError
from streaming_vla.policies.remote.options import RemoteOptions
from streaming_vla.policies.remote.spec_metadata import spec_from_metadata, spec_to_metadata

LAYOUT = ActionLayout(("a", "b"), (False, True), (-1.0, 0.0), (1.0, 2.0), (0.0, 1.0))
SPEC = PolicySpec(
    "toy",
    ("front", "wrist"),
    64,
    3,
    LAYOUT,
    5,
    8,
    control_period_s=0.05,
    image_fit="letterbox",
    pad_value=7,
    state_names=("x", "y", "z"),
    action_units=("m", "rad"),
    denoise_steps=1,
)


def test_a_spec_goes_over_the_wire_whole() -> None:
    assert spec_from_metadata(wire.unpack(wire.pack(spec_to_metadata(SPEC)), 10_000)) == SPEC
    plain = replace(SPEC, control_period_s=None, state_names=(), action_units=())
    assert spec_from_metadata(wire.unpack(wire.pack(spec_to_metadata(plain)), 10_000)) == plain


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": 1 << 40}, "image_size is"),
        ({"image_size": "64"}, "image_size is '64'"),
        ({"cameras": []}, "cameras are"),
        ({"cameras": ["front", "front"]}, "cameras are"),
        ({"action_low": [0.0]}, "action_low has 1 values"),
        ({"action_low": [5.0, 5.0]}, "action_low of 'a'"),
        ({"action_high": [float("inf"), 1.0]}, "action_high.0 is inf"),
        ({"action_absolute": [0, 1]}, "action_absolute.0 is 0"),
        ({"trained_horizon": 2}, "trained_horizon 2 is below"),
        ({"trained_horizon": 1 << 30}, "trained_horizon is"),
        ({"control_period_s": float("nan")}, "control_period_s is nan"),
        ({"image_fit": "stretch"}, "image_fit is 'stretch'"),
        ({"state_names": ["x"]}, "state_names has 1 entries"),
        ({"action_names": ["a"] * 10_000}, "action_names is"),
        ({"tokens": 5}, "tokens is 5"),
        ({b"name": 1}, "name"),
    ],
)
def test_a_bad_spec_is_one_sentence(changes: dict[Any, Any], says: str) -> None:
    with pytest.raises(WireError) as refused:
        spec_from_metadata({**spec_to_metadata(SPEC), **changes}, "openpi://robot")
    said = str(refused.value)
    assert said.startswith("openpi://robot: ") and says in said and "\n" not in said and len(said) < 600


@pytest.mark.parametrize(
    "field", [name for name, value in spec_to_metadata(SPEC).items() if name.endswith(("size", "horizon"))]
)
def test_what_is_not_told_is_missed(field: str) -> None:
    told = spec_to_metadata(SPEC)
    del told[field]
    with pytest.raises(WireError, match=f"{field} is missing"):
        spec_from_metadata(told)


@pytest.mark.parametrize(
    ("name", "cameras", "state", "actions", "horizon"),
    [("libero", 2, 8, 7, 10), ("droid", 2, 8, 8, 15), ("aloha", 4, 14, 14, 50)],
)
def test_shipped_descriptions(name: str, cameras: int, state: int, actions: int, horizon: int) -> None:
    spec, keys = read_description(name)
    assert (len(spec.cameras), spec.state_size, spec.layout.size, spec.trained_horizon) == (
        cameras,
        state,
        actions,
        horizon,
    )
    assert spec.image_size == 224 and spec.image_fit == "letterbox" and keys.instruction == "prompt"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda told: told.pop("keys"), "expected a map"),
        (lambda told: told["keys"].pop("state"), "keys: state is missing"),
        (lambda told: told["keys"].update(rotate=True), "keys: rotate is True"),
        (lambda told: told["keys"].update(actions={"actions": 3}), "the keys of actions have 3 numbers, expected 2"),
        (lambda told: told["keys"].update(state={"a": 0}), "keys: state.a is 0"),
        (lambda told: told.update(state_size=9), "the keys of state have 3 numbers, expected 9"),
        (lambda told: told.update(cameras=["a", "b"]), "images are of front, wrist, cameras are a, b"),
        (lambda told: told.update(horizon=5), "horizon is 5"),
    ],
)
def test_a_bad_description_is_one_sentence(tmp_path: Path, change: Any, says: str) -> None:
    path = Path(described(tmp_path, OPENPI_KEYS))
    told = yaml.safe_load(path.read_text())
    change(told)
    path.write_text(yaml.safe_dump(told, sort_keys=False))
    with pytest.raises(CheckpointError) as refused:
        read_description(str(path))
    assert says in str(refused.value) and str(path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("robot", "is unknown: choose one of aloha, droid, libero, or give the path of a .yaml file"),
        ("/nowhere/robot.yaml", "cannot be read"),
    ],
)
def test_descriptions_that_are_not_there(name: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        read_description(name)


def test_no_yaml(tmp_path: Path) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text("a: [")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_description(str(path))


def test_cameras_have_the_robots_names_in_the_policys_order() -> None:
    options = RemoteOptions(cameras={"hand": "wrist", "top": "front"})
    spec, keys = with_cameras(SPEC, generic_keys(SPEC), options)
    assert spec.cameras == ("top", "hand")
    assert keys.images == {"top": "observation/images/front", "hand": "observation/images/wrist"}
    for cameras in ({"top": "front"}, {"top": "front", "hand": "front"}, {"a": "front", "b": "wrist", "c": "wrist"}):
        with pytest.raises(CheckpointError, match=r"expected each of front, wrist once behind ="):
            with_cameras(SPEC, generic_keys(SPEC), RemoteOptions(cameras=cameras))


def test_keys_are_read_from_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("secret \nmore\n")
    assert RemoteOptions(key_file=path).key() == "secret" and RemoteOptions().key() == ""
    for bad in ("", "\n", "a\tb", "a" * 5000):
        path.write_text(bad)
        with pytest.raises(CheckpointError, match="holds no key"):
            RemoteOptions(key_file=path).key()
    path.write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="cannot be read"):
        RemoteOptions(key_file=path).key()
    with pytest.raises(CheckpointError, match="cannot be read"):
        RemoteOptions(key_file=tmp_path / "none").key()
