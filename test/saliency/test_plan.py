"""The saliency of a plan: how far an absolute dimension is going to change."""

import numpy as np
import pytest

from streaming_vla.saliency.plan import planned_switch

ABSOLUTE = (False, True, True)


def plan(grip: list[float], other: float = 0.0) -> np.ndarray:
    """Return a plan whose hand moves far, and whose first absolute dimension is `grip`."""
    return np.array([[10.0 * index, value, other] for index, value in enumerate(grip)])


@pytest.mark.parametrize(
    ("grip", "first", "expected"),
    [
        ([1.0, 1.0, 1.0], 0, 0.0),
        ([-1.0, -1.0, 1.0], 0, 2.0),
        ([-1.0, -1.0, 1.0], 2, 0.0),  # the last action that is left
        ([-1.0, 1.0, 0.5], 1, 0.5),  # the switch is done
        ([0.0, 0.3, 0.0], 0, 0.3),  # there and back again
    ],
)
def test_what_is_left_of_the_plan_counts(grip: list[float], first: int, expected: float) -> None:
    assert planned_switch(plan(grip), ABSOLUTE, first) == pytest.approx(expected)


def test_the_dimension_that_changes_most_counts() -> None:
    both = plan([0.0, 0.5])
    both[1, 2] = -0.75
    assert planned_switch(both, ABSOLUTE, 0) == pytest.approx(0.75)


def test_a_plan_without_an_absolute_dimension_or_an_action_is_refused() -> None:
    with pytest.raises(ValueError, match="no action dimension is absolute"):
        planned_switch(plan([0.0, 1.0]), (False, False, False), 0)
    with pytest.raises(ValueError, match="no action is left"):
        planned_switch(plan([0.0, 1.0]), ABSOLUTE, 2)
