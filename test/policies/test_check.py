"""A robot's parameters against what a policy needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from streaming_vla.policies.check import check_policy
from streaming_vla.policies.contract import PolicySpec
from streaming_vla.policies.layout import ActionLayout

LAYOUT = ActionLayout(("dx", "grip"), (False, True), (-1.0, -1.0), (1.0, 1.0), (0.0, 0.0))
SPEC = PolicySpec("toy", ("front", "wrist"), 96, 2, LAYOUT, 4, 8, control_period_s=0.05)
FITTING: dict[str, Any] = {
    "cameras": ("front", "wrist"),
    "image_size": 96,
    "image_fit": "crop",
    "pad_value": 0,
    "control_period_s": 0.05,
    "layout": LAYOUT,
    "state_joints": (),
}


@pytest.mark.parametrize(
    "changes", [{}, {"control_period_s": 0.0502}, {"cameras": ["front", "wrist"]}, {"state_joints": "ab"}]
)
def test_a_robot_that_fits_is_told_nothing(changes: dict[str, Any]) -> None:
    assert check_policy(SPEC, **(FITTING | changes)) == []


def test_limits_of_the_robot_may_be_its_own() -> None:
    assert check_policy(SPEC, **(FITTING | {"layout": replace(LAYOUT, low=(-0.5, -1.0))})) == []


def test_a_policy_that_does_not_say_how_long_an_action_lasts_takes_any() -> None:
    assert check_policy(replace(SPEC, control_period_s=None), **(FITTING | {"control_period_s": 9.0})) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cameras": ("wrist", "front")}, "cameras are wrist, front, policy toy needs front, wrist, in that order"),
        ({"cameras": ()}, "cameras are none, policy toy needs front, wrist, in that order"),
        ({"state_joints": ("a",)}, "robot_state_joints are a, the state of policy toy has 2 numbers"),
        (
            {"layout": replace(LAYOUT, low=(-1.0, 80.0), high=(1.0, 90.0))},
            "action_low to action_high of 'grip' is 80 to 90, policy toy acts from -1 to 1: none of its actions would "
            "be played as it is, are the units the same?",
        ),
        ({"image_fit": "letterbox"}, "image_fit is letterbox, policy toy needs crop"),
        ({"image_size": 64}, "image_size is 64 pixels, policy toy needs 96"),
        (
            {"control_period_s": 0.02},
            "control_period_s is 0.02, an action of policy toy lasts 0.05 s: its actions would be played too fast",
        ),
        (
            {"control_period_s": 0.1},
            "control_period_s is 0.1, an action of policy toy lasts 0.05 s: its actions would be played too slowly",
        ),
        (
            {"layout": replace(LAYOUT, names=("grip", "dx"))},
            "action_names are grip, dx, policy toy acts in dx, grip",
        ),
        (
            {"layout": replace(LAYOUT, absolute=(True, True))},
            "action_absolute is wrong for dx: targets of policy toy are grip, the others are changes",
        ),
    ],
)
def test_each_parameter_that_does_not_fit_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    assert check_policy(SPEC, **(FITTING | changes)) == [sentence]


def test_the_padding_counts_where_there_is_one() -> None:
    padded = replace(SPEC, image_fit="letterbox", pad_value=128)
    assert check_policy(SPEC, **(FITTING | {"pad_value": 7})) == []
    assert check_policy(padded, **(FITTING | {"image_fit": "letterbox"})) == [
        "image_pad_value is 0, policy toy needs 128"
    ]


def test_all_that_does_not_fit_is_told() -> None:
    layout = ActionLayout(("x",), (False,), (-1.0,), (1.0,), (0.0,))
    assert len(check_policy(SPEC, ("top",), 8, "letterbox", 0, 1.0, layout, "abc")) == 6
