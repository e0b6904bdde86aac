"""Messages of openpi's robots: what their clients send is served under their keys, and what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import Served

from streaming_vla.policies.chunk import ChunkAsStream
from streaming_vla.policies.contract import PolicySpec, Prefilled, Slices
from streaming_vla.policies.remote.description import read_description
from streaming_vla.serving.command import _keys

Serve = Callable[..., Served]
ROBOTS = ("libero", "droid", "aloha")
PICTURES = {
    "libero": lambda picture: {"observation/image": picture, "observation/wrist_image": picture // 2},
    "droid": lambda picture: {
        "observation/exterior_image_1_left": picture,
        "observation/wrist_image_left": picture // 2,
    },
    "aloha": lambda picture: {
        "images": {
            f"cam_{name}": (picture // share).transpose(2, 0, 1)
            for name, share in (("high", 1), ("low", 2), ("left_wrist", 2), ("right_wrist", 2))
        }
    },
}
"""What openpi's examples send of each robot (examples/{libero,droid,aloha_real} of openpi)."""


class Telling:
    """A policy of a robot of openpi whose actions tell what it was fed: brightness of two cameras, and the state."""

    def __init__(self, spec: PolicySpec) -> None:
        self.spec = replace(spec, cameras=spec.cameras[::-1])  # a policy's order is its own

    def prefill(self, observation: Any, view: Any) -> Slices[Prefilled]:
        """Remember the observation."""
        yield
        empty = view.keys.new_zeros(1, 1, 1, 2)
        return Prefilled(empty, empty, None, observation)

    def denoise(self, view: Any, context: Any, *_: Any) -> Slices[Any]:
        """Tell it, in the first columns."""
        yield
        rows = np.zeros((self.spec.trained_horizon, self.spec.layout.size))
        rows[:, 0], rows[:, 1] = context.images[-1].mean() / 255.0, context.images[0].mean() / 255.0
        rows[:, 2] = context.state.sum()
        return rows


def served(serve: Serve, robot: str) -> tuple[Any, PolicySpec]:
    policy = Telling(read_description(robot)[0])
    return serve(ChunkAsStream(policy), keys=_keys(robot, policy.spec)).client(), policy.spec


def message(robot: str) -> dict[str, Any]:
    """Return what a client of openpi sends."""
    counts = read_description(robot)[1].state
    state = {key: np.full(count, 0.9 / sum(counts.values())) for key, count in counts.items()}
    return {**PICTURES[robot](np.full((224, 224, 3), 204, np.uint8)), **state, "prompt": "fold the towel"}


@pytest.mark.parametrize("robot", ROBOTS)
def test_a_client_of_openpi_is_served(serve: Serve, robot: str) -> None:
    client, spec = served(serve, robot)
    assert "streaming_vla" not in client.greeting and client.greeting["action_horizon"] == spec.trained_horizon
    rows = client.actions(message(robot))
    assert rows.shape == (spec.trained_horizon, spec.layout.size)
    assert rows[0, :3] == pytest.approx([0.8, 0.4, 0.9], abs=1e-6)


def test_what_does_not_fit_is_refused_by_name(serve: Serve) -> None:
    client, _ = served(serve, "aloha")
    lacking = message("aloha")
    del lacking["images"]["cam_low"]
    assert "the request has no images/cam_low: expected images/" in client.say(lacking)
    client, _ = served(serve, "aloha")
    assert "has no images/cam_right_wrist" in client.say({**message("aloha"), "images": 3})
    client, _ = served(serve, "libero")
    assert "has no observation/wrist_image, observation/image" in client.say(message("droid"))


def test_a_policy_of_another_robot_is_refused_at_start() -> None:
    spec, _ = read_description("droid")
    with pytest.raises(
        ValueError, match=r"--keys libero are of cameras agentview, wrist, policy .* has exterior, wrist"
    ):
        _keys("libero", spec)
    other = replace(read_description("libero")[0], state_size=7, state_names=())
    with pytest.raises(ValueError, match=r"the keys of state have 8 numbers, expected 7"):
        _keys("libero", other)
    with pytest.raises(ValueError, match="--keys 'mars' is unknown: choose one of aloha, droid, libero"):
        _keys("mars", spec)
    assert _keys("", spec) is None
