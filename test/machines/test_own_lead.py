"""The lead that the generator chooses by itself."""

from __future__ import annotations

from dataclasses import replace

from runtime_cases import state

from streaming_vla.machines.counters import Counters
from streaming_vla.machines.events import Mode
from streaming_vla.machines.own_lead import CALM, LEAST, MOST, STRIKES, WINDOW, WITHOUT_PRIORITY, OwnLead


def play(lead: OwnLead, actions: int) -> None:
    for _ in range(actions):
        lead.on_played()


def test_it_grows_with_actions_that_come_too_late_and_has_an_end() -> None:
    lead = OwnLead(Counters())
    for expected in range(LEAST + 1, MOST + 1):
        for _ in range(STRIKES):
            assert lead.actions == expected - 1
            play(lead, 10)
            lead.on_late()
        assert lead.actions == expected
    for _ in range(5 * STRIKES):
        lead.on_late()
    assert lead.actions == MOST


def test_what_happens_now_and_then_is_no_reason() -> None:
    lead = OwnLead(Counters())
    for _ in range(5 * STRIKES):
        play(lead, WINDOW)
        lead.on_late()
    assert lead.actions == LEAST


def test_it_shrinks_when_nothing_was_late_for_a_while_but_not_below_its_begin() -> None:
    lead = OwnLead(Counters())
    lead.begin_without_priority()
    for _ in range(STRIKES):
        lead.on_late()
    assert lead.actions == WITHOUT_PRIORITY + 1
    play(lead, CALM - 1)
    assert lead.actions == WITHOUT_PRIORITY + 1
    play(lead, 1 + 3 * CALM)
    assert lead.actions == WITHOUT_PRIORITY


def test_only_an_executor_that_starves_beside_an_action_on_its_way_is_a_reason() -> None:
    counters = Counters()
    lead = OwnLead(counters)
    playing, hold = state(Mode.PLAYING, 0, 0), state(Mode.HOLD, 0, 0)
    for said, all_sent, late in (
        (playing, True, 0),
        (hold, False, 0),  # the model was late
        (playing, True, 0),
        (hold, True, 1),
        (hold, True, 1),  # the same hold
        (playing, True, 1),
        (replace(hold, starved=False), True, 1),  # the robot was silent
    ):
        lead.on_state(said, all_sent)
        assert counters["action_late"] == late
