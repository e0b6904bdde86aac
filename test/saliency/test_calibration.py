"""The threshold that gives a wanted trigger rate, and the parameter file that it is written to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_vla.parameters.load import read
from streaming_vla.parameters.nodes import SuiteOptions
from streaming_vla.saliency.calibration import FEWEST_CONTEXTS, Calibration, calibrate, extremes, write_parameters
from streaming_vla.saliency.decision import Gate, judged

SPREAD = st.lists(st.floats(0.0, 100.0, allow_nan=False), min_size=FEWEST_CONTEXTS, max_size=200, unique=True)


@given(SPREAD, st.floats(0.0, 1.0), st.sampled_from(["salient", "calm"]))
def test_the_rule_sends_as_often_as_was_wanted(values: list[float], rate: float, when: str) -> None:
    found = calibrate(values, rate, when)
    sent = np.mean([judged(value, Gate(found.threshold, 1.0), when).verdict.value == "send" for value in values])
    assert sent == pytest.approx(rate, abs=0.5 / len(values) + 1e-9)
    assert found.rate == pytest.approx(sent)


def test_a_context_is_decided_by_its_largest_or_smallest_saliency() -> None:
    episodes = [[(0, 1.0), (0, 3.0), (1, 2.0)], [(0, 5.0)]]
    assert extremes(episodes, "salient") == [3.0, 2.0, 5.0]
    assert extremes(episodes, "calm") == [1.0, 2.0, 5.0]


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(ValueError, match="got 3: record more episodes"):
        calibrate([1.0, 2.0, 3.0], 0.5)
    with pytest.raises(ValueError, match=r"trigger rate is 1\.5"):
        calibrate([1.0] * 50, 1.5)
    with pytest.raises(ValueError, match="context 4 is nan"):
        extremes([[(4, float("nan"))]], "salient")
    with pytest.raises(ValueError, match="observe_when is 'loud'"):
        extremes([], "loud")
    with pytest.raises(ValueError, match="'always' has no saliency threshold"):
        write_parameters(Path("unused"), "always", "plan", "salient", calibrate(list(range(50)), 0.5))


@pytest.mark.parametrize("threshold", [0.0, 2.3e-308, 1e-05, 1.5e-07, 0.7, 3.0, 1e6])
def test_the_parameter_file_is_one_that_the_suite_reads(tmp_path: Path, threshold: float) -> None:
    found = Calibration(threshold, 0.7, 101)
    write_parameters(tmp_path / "saliency.yaml", "adaptive", "pictures", "salient", found)
    monitor = {
        "mode": "adaptive",
        "saliency_of": "pictures",
        "observe_when": "salient",
        "saliency_threshold": found.threshold,
        "saliency_release": 1.0,
    }
    expected = SuiteOptions().changed("saliency_monitor", monitor)
    assert read(tmp_path / "saliency.yaml") == expected
