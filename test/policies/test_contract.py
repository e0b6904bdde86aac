"""The contract: what a policy says of itself is checked, and its slices can be run by anybody."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import replace

import pytest

from kv_cache import CacheSpec
from streaming_vla.policies.contract import FITS, PolicySpec, Slices, run_slices
from streaming_vla.policies.layout import ActionLayout

LAYOUT = ActionLayout(("dx", "grip"), (False, True), (-1.0, -1.0), (1.0, 1.0), (0.0, 0.0))
SPEC = PolicySpec("toy", ("front", "wrist"), 96, 3, LAYOUT, 4, 8, 25, CacheSpec(2, 1, 4))


@pytest.mark.parametrize("fit", FITS)
def test_a_spec_that_says_everything(fit: str) -> None:
    made = replace(
        SPEC,
        trained_delay=4,
        control_period_s=0.05,
        image_fit=fit,
        pad_value=255,
        state_names=("x", "y", "grip"),
        action_units=("m", "1"),
    )
    assert made.image_fit == fit and not made.chunk


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cameras": ()}, "cameras are"),
        ({"cameras": ("front", "front")}, "expected one or more different names"),
        ({"image_size": 0}, "image_size is 0, it must be at least 1"),
        ({"state_size": 0}, "state_size is 0"),
        ({"execution_horizon": 0}, "execution_horizon is 0"),
        ({"tokens_per_observation": 0}, "tokens_per_observation is 0"),
        ({"trained_horizon": 3}, "trained_horizon 3 is below execution_horizon 4"),
        ({"trained_delay": -1}, "trained_delay is -1"),
        ({"control_period_s": 0.0}, r"control_period_s is 0.0, it must be above 0"),
        ({"control_period_s": float("nan")}, "control_period_s is nan"),
        ({"image_fit": "stretch"}, "image_fit is 'stretch'.*crop, letterbox, letterbox_left_top"),
        ({"pad_value": 256}, "pad_value 256"),
        ({"state_names": ("x",)}, "state_names has 1 entries, expected 3"),
        ({"action_units": ("m", "m", "1")}, "action_units has 3 entries, expected 2"),
    ],
)
def test_a_spec_that_makes_no_sense_is_named(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"policy toy: .*{sentence}"):
        replace(SPEC, **changes)  # type: ignore[arg-type]


def test_slices_are_run_to_their_end_and_futures_waited_for() -> None:
    future: Future[int] = Future()

    def work() -> Slices[int]:
        yield None
        threading.Timer(0.05, future.set_result, [7]).start()
        yield future
        return future.result(0)

    assert run_slices(work()) == 7


def test_what_went_wrong_in_a_future_is_raised_where_its_result_is_asked_for() -> None:
    future: Future[int] = Future()
    future.set_exception(ConnectionError("gone"))

    def work() -> Slices[int]:
        yield future
        return future.result(0)

    with pytest.raises(ConnectionError, match="gone"):
        run_slices(work())
