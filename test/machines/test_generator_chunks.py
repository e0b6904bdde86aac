"""The generator with policies of chunks: rows that are over when theirs takes over."""

from __future__ import annotations

import pytest
from rig import Rig
from runtime_cases import ACTS

from streaming_vla.machines.credits import SPARE_STEPS
from streaming_vla.machines.events import ContextReady, GenerateRequest
from streaming_vla.machines.generator_options import GeneratorOptions
from streaming_vla.machines.lead import UNKNOWN_AHEAD

OPTIONS = GeneratorOptions(**ACTS, lead_actions=1, generate_timeout_s=0.2, trained_delay=4)
AHEAD, SPARE = UNKNOWN_AHEAD, SPARE_STEPS  # nothing is known of how long actions take


def chunk(sequence: int, rows: int = 8) -> ContextReady:
    """Return a context whose rows belong to fixed times."""
    return ContextReady(7, sequence, 4, rows, chunk=True)


def test_a_chunk_is_granted_whole_and_takes_over_at_the_row_that_fits() -> None:
    rig = Rig(OPTIONS)
    rig.context(chunk(0))
    assert (rig.request.step, rig.request.until) == (0, 8)
    rig.answer_all(0, lambda row: (row / 10, 0.0, 0.3 + row / 20))
    rig.begin()
    [asked] = rig.picture(1)
    assert isinstance(asked, GenerateRequest)
    assert (asked.step, asked.until) == (2, 8), "row 0 is being played when the picture is taken, row 1 is sent"
    assert asked.planned is not None and len(asked.planned) == 8, "all rows are there"
    for _ in range(3):
        rig.begin()
    rig.context(chunk(1))
    rig.answer_all(1, lambda row: (row / 10, 0.5, 0.3))
    rig.begin()
    assert rig.sent() == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0)]
    assert rig.actions[-1].values == pytest.approx([0.5, 0.5, 0.3]), "row 5 belongs to now: five lie behind the picture"
    assert rig.model[1].revision == asked.revision, "its rows were granted with the picture"


def test_of_a_chunk_that_is_all_over_the_last_row_is_played() -> None:
    rig = Rig(OPTIONS)
    rig.context(chunk(0, rows=12))
    rig.answer_all(0, lambda row: (row / 20, 0.0, 0.3))
    rig.begin()
    rig.picture(1)
    for _ in range(9):
        rig.begin()
    rig.context(chunk(1, rows=6))
    rig.answer_all(1, (0.5, 0.0, 0.3))
    rig.begin()
    assert rig.sent()[-1] == (1, 0) and rig.actions[-1].flow_time == pytest.approx(5 / 6)


def test_rows_that_have_come_are_played_wherever_the_gripper_is() -> None:
    """Nobody told of its picture, so nothing is skipped."""
    rig = Rig(OPTIONS)
    rig.context(chunk(0))
    rig.answer_all(0, lambda row: (0.0, 0.0, row / 10))
    rig.context(chunk(1))
    asked = rig.model[1].revision
    rig.begin()
    rig.answer_all(1, (0.0, 0.0, -1.0))
    rig.begin()
    assert rig.sent() == [(0, 0), (0, 1), (1, 0)] and rig.model[1].revision == asked
    assert rig.generator.counters["flow_begun_again"] == 0


def test_a_chunk_begins_nothing_anew_because_the_gripper_has_moved() -> None:
    rig = Rig(OPTIONS)
    rig.context(chunk(0))
    rig.answer_all(0, lambda row: (0.0, 0.0, row / 10))
    rig.begin()
    [asked] = rig.picture(1)
    assert isinstance(asked, GenerateRequest)
    for _ in range(2):
        assert not [r for r in rig.begin() if isinstance(r, GenerateRequest)]
    assert rig.model[1].revision == asked.revision
