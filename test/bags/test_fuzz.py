"""Damaged files of every kind: nothing but sentences comes out; benchmarks/bags/fuzz.py runs ten thousand of each."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "bags"))
from fuzz_kinds import KINDS, read_everything
from mutations import STEPS, TOPICS, make_bags

PER_KIND = 60
FIRST = 1_000_000


def test_whole_bags_are_read_in_full(tmp_path: Path) -> None:
    bags, said = make_bags(tmp_path)
    assert len(bags) == 10 and len(said) == STEPS * len(TOPICS)
    for bag in bags:
        found, more, told = read_everything(bag)
        assert (len(found), more, told) == (len(said), 0, "")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_end_in_sentences(tmp_path: Path, kind: str) -> None:
    made, scratch = tmp_path / "made", tmp_path / "scratch"
    made.mkdir()
    scratch.mkdir()
    subject = KINDS[kind](made)
    outcomes = [subject.attempt(scratch, FIRST + number) for number in range(PER_KIND)]
    assert [outcome.silent for outcome in outcomes if outcome.silent] == []
    assert any(outcome.read for outcome in outcomes) and any(outcome.ended != "-" for outcome in outcomes)
