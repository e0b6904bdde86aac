"""Another rate only where it is asked for: times fit, changes keep their sum, absolute values their course."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from streaming_vla.datasets.resample import resample

RATES = [(30, 20), (20, 30), (30, 10), (10, 50), (30, 30), (50, 20)]


def motion(rate: int, seconds: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Return a joint at sin(t): its state at each step's begin; action: where it is at the end, and the change."""
    begins = np.arange(int(seconds * rate)) / rate
    ends = begins + 1 / rate
    state = np.sin(begins)[:, None].astype(np.float32)
    action = np.stack([np.sin(ends), np.sin(ends) - np.sin(begins)], axis=1).astype(np.float32)
    return state, action


@pytest.mark.parametrize(("rate", "wanted"), RATES)
def test_it_is_as_if_it_had_been_recorded_at_the_other_rate(rate: int, wanted: int) -> None:
    made = resample(*motion(rate), (True, False), Fraction(rate), Fraction(wanted))
    state, action = motion(wanted)
    count = min(len(state), len(made.state))
    assert abs(len(made.state) - len(state)) <= 1
    inner = slice(-(-wanted // rate), count - 6)  # before the first old end and behind the last one nothing is known
    np.testing.assert_allclose(made.state[inner], state[inner], atol=2e-3)
    np.testing.assert_allclose(made.action[inner], action[inner], atol=6e-3)
    ahead_s = made.steps / rate - np.arange(len(made.steps)) / wanted
    assert (ahead_s <= 1e-9).all() and (ahead_s > -1 / rate - 1e-9).all()  # never a picture of later


@pytest.mark.parametrize(("rate", "wanted"), RATES)
def test_changes_keep_their_sum(rate: int, wanted: int) -> None:
    random = np.random.default_rng(0)
    action = random.normal(size=(120, 3)).astype(np.float32)
    made = resample(
        random.normal(size=(120, 2)).astype(np.float32), action, (False,) * 3, Fraction(rate), Fraction(wanted)
    )
    end = int(len(made.action) * rate / wanted)
    if end == 120:
        np.testing.assert_allclose(made.action.sum(axis=0), action.sum(axis=0), atol=1e-4)
    else:
        assert abs(made.action.sum() - action[:end].sum()) <= np.abs(action[end]).sum() + 1e-4


def test_one_step_stays_one() -> None:
    made = resample(np.ones((1, 2), np.float32), np.ones((1, 1), np.float32), (True,), Fraction(30), Fraction(20))
    assert made.state.tolist() == [[1, 1]] and made.action.tolist() == [[1]] and made.steps.tolist() == [0]
