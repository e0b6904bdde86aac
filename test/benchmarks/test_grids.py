"""What of each strategy is tuned: every combination is one that can be made."""

from __future__ import annotations

import pytest
from grids import GRIDS, RATED, SAVING, grid
from strategies import STRATEGIES, changed

from streaming_vla.workbench.virtual.setup import StreamSetup


def test_every_combination_of_a_grid_makes_a_strategy_and_no_two_are_equal() -> None:
    for name in GRIDS:
        made = [changed(STRATEGIES[name], changes) for changes in grid(name)]
        assert len(set(made)) == len(made) > 1, name
    chunked = {name for name, setup in STRATEGIES.items() if setup.chunks is not None}
    assert chunked <= set(GRIDS), "every baseline of chunks is tuned"
    assert set(RATED) | set(SAVING) <= set(STRATEGIES)


def test_a_parameter_that_a_strategy_lacks_is_named() -> None:
    with pytest.raises(ValueError, match=r"cannot change chunks.*threshold"):
        changed(STRATEGIES["rtc"], {"chunks": {"threshold": 0.5}})
    with pytest.raises(ValueError, match="cannot change chunks"):
        changed(STRATEGIES["ours"], {"chunks": {"threshold": 0.5}})


def test_our_own_strategies_are_what_calibrate_runs() -> None:
    for name, own in (("ours", StreamSetup()), ("ours_adaptive", StreamSetup().asking("adaptive"))):
        setup = STRATEGIES[name]
        assert (setup.monitor, setup.generator) == (own.monitor, own.generator)
