"""A hundred damaged bags: nothing but typed sentences comes out; benchmarks/bags/fuzz.py runs ten thousand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "bags"
PER_BAG = 12


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    sys.path.insert(0, str(BENCHMARK))
    from mutations import make_bags

    return make_bags(tmp_path_factory.mktemp("bags"))


def test_whole_bags_are_read_in_full(bags: list[Path]) -> None:
    from fuzz import read_everything
    from mutations import STEPS, TOPICS

    assert len(bags) == 10
    for bag in bags:
        assert read_everything(bag) == (STEPS * len(TOPICS), STEPS * len(TOPICS), "")


@pytest.mark.parametrize("number", range(10))
def test_damaged_bags_end_in_sentences(bags: list[Path], tmp_path: Path, number: int) -> None:
    from fuzz import read_everything
    from mutations import mutate

    read = 0
    for seed in range(PER_BAG):
        mutate(bags[number], tmp_path / str(seed), 1_000_000 + 100 * number + seed)
        read += read_everything(tmp_path / str(seed))[0]
    assert read > PER_BAG  # most of what is damaged is readable in part
