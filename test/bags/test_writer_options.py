"""Bags by the options of other writers are read as their own readers do; benchmarks/bags/writer_options.py has all."""

from __future__ import annotations

import itertools
import random
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "bags"))
import writer_options as options_

ORDERS = dict(zip(("by time", "by topic"), options_.orders(), strict=True))


def pairs() -> list[dict[str, Any]]:
    """Return combinations in which every two values of any two options meet, chosen from all at random."""
    every = list(options_.combinations())
    random.Random(0).shuffle(every)
    left = {
        (first, each[first], second, each[second])
        for each in every
        for first, second in itertools.combinations(each, 2)
    }
    chosen = []
    for each in every:
        met = {(first, each[first], second, each[second]) for first, second in itertools.combinations(each, 2)}
        if met & left:
            left -= met
            chosen.append(each)
    return chosen


PAIRS = pairs()


def test_all_combinations_are_those_of_the_benchmark() -> None:
    assert sum(1 for _ in options_.combinations()) == 576
    assert 12 <= len(PAIRS) <= 60


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("number", range(len(PAIRS)))
def test_files_of_mcap(tmp_path: Path, order: str, number: int) -> None:
    assert options_.equal_to_mcap(tmp_path / "bag.mcap", ORDERS[order], PAIRS[number]), PAIRS[number]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("way", options_.storages(), ids=str)
def test_bags_of_rosbags(tmp_path: Path, order: str, way: tuple[Any, Any]) -> None:
    assert options_.equal_to_rosbags(tmp_path / "bag", ORDERS[order], *way)
