"""The rules for early observations, and the monitor that follows them."""

from __future__ import annotations

import numpy as np
import pytest

from streaming_vla.machines.events import (
    ContextReady,
    ExecutionState,
    Mode,
    ObserveRequest,
    Reason,
    SaliencyQuestion,
    SaliencyReply,
)
from streaming_vla.machines.monitor import SPARE, Monitor
from streaming_vla.machines.monitor_options import MonitorOptions
from streaming_vla.options.shared import layout_values
from streaming_vla.policies.layout import ActionLayout
from streaming_vla.saliency.decision import Gate, Moment, RandomRate, Verdict, judged

HORIZON, TRAINED, EARLY = 6, 12, 2
SUMMED = np.array([True, True, False])


def test_a_gate_keeps_high_what_stays_above_its_release() -> None:
    gate = Gate(1.0, 0.6)
    assert [gate.rises(value) for value in (0.9, 1.0, 0.7, 0.6, 0.59, 0.9, 1.0)] == [
        False, True, True, True, False, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize(("when", "sent"), [("salient", [False, True]), ("calm", [True, False])])
def test_salient_and_calm_are_opposites(when: str, sent: list[bool]) -> None:
    assert [judged(value, Gate(1.0, 1.0), when).verdict is Verdict.SEND for value in (0.5, 1.5)] == sent


def test_random_draws_once_per_context_and_keeps_its_rate() -> None:
    rule = RandomRate(0.3, seed=4)
    verdicts = {}
    for context in range(2000):
        found = {rule.decide(Moment(context, None, SUMMED)).verdict for _ in range(3)}
        assert len(found) == 1
        verdicts[context] = found.pop()
    assert np.mean([verdict is Verdict.SEND for verdict in verdicts.values()]) == pytest.approx(0.3, abs=0.03)


def test_random_draws_go_on_in_the_next_episode_and_its_first_context_has_its_own() -> None:
    rule, draws = RandomRate(0.5, seed=0), np.random.default_rng(0).random(6) < 0.5
    verdicts = []
    for _ in range(3):
        rule.begin()
        verdicts += [rule.decide(Moment(context, None, SUMMED)).verdict for context in (0, 1)]
    assert [verdict is Verdict.SEND for verdict in verdicts] == draws.tolist()
    assert len({tuple(draws[at : at + 2]) for at in (0, 2, 4)}) > 1, "no draws that tell the episodes apart"


@pytest.mark.parametrize(
    ("field", "value"),
    [("random_rate", 1.5), ("saliency_threshold", -1.0), ("saliency_release", 0.0), ("observe_when", "never")],
)
def test_options_out_of_range_are_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        MonitorOptions(**{field: value})  # type: ignore[arg-type]


ACTS = layout_values(
    ActionLayout(("dx", "dy", "grip"), (False, False, True), (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), (0.0, 0.0, -1.0))
)


class Played:
    """A monitor whose executor plays its contexts, an action of 0.5 at a time."""

    def __init__(self, mode: str, **options: object) -> None:
        given = {**ACTS, "early_actions": EARLY, "max_silence_s": 60.0, **options}
        self.options = MonitorOptions(mode=mode, **given)  # type: ignore[arg-type]
        self.monitor = Monitor(self.options)
        self.begin()

    def begin(self) -> None:
        """Begin an episode and its context 0."""
        self.monitor.start_episode(0.0, "go")
        self.context, self.executed = -1, 0
        self.next_context()

    @property
    def episode(self) -> int:
        """Number of the episode that runs."""
        assert self.monitor.episode is not None
        return self.monitor.episode.number

    def next_context(self) -> None:
        """The observation that was asked for is prefilled, and played at once."""
        self.context += 1
        self.monitor.on_context(ContextReady(self.episode, self.context, HORIZON, TRAINED), 0.1)
        self.index = -1

    def play(self) -> list[object]:
        """The next action begins."""
        self.index += 1
        self.executed += 1
        total = np.array([0.5 * self.executed, 0.0, 0.25])
        at = (self.episode, Mode.PLAYING, self.context, self.index, 0, self.executed)
        said = ExecutionState(*at, total, False, False, 0.0, 0.0, 0, 0)
        return list(self.monitor.on_execution_state(said, 0.1 + 0.05 * self.index))

    def until_asked(self) -> tuple[int, object]:
        """Play until something is asked for; return the action and what."""
        while self.index < TRAINED:
            effects = self.play()
            if effects:
                return self.index, effects[0]
        raise AssertionError("nothing was ever asked for")


def test_always_observes_at_the_execution_horizon_and_none_of_the_rules_before() -> None:
    index, effect = Played("always").until_asked()
    assert index == HORIZON - EARLY
    assert isinstance(effect, ObserveRequest) and effect.reason is Reason.EARLY and np.isnan(effect.saliency)


def test_an_action_norm_below_the_threshold_is_suppressed_until_it_rises() -> None:
    played = Played("action_norm", saliency_threshold=2.9)
    index, effect = played.until_asked()
    assert isinstance(effect, ObserveRequest)
    # the picture of context 0 shows the arm before its first action; before action 6 it has moved by 3.0
    assert (index, effect.saliency) == (6, pytest.approx(3.0))
    assert played.monitor.counters["suppressed_calm"] == 2 and played.monitor.counters["sent_salient"] == 1
    assert list(played.monitor.judged) == [(0, pytest.approx(2.0)), (0, pytest.approx(2.5)), (0, pytest.approx(3.0))]


@pytest.mark.parametrize("mode", ["action_norm", "adaptive"])
def test_what_was_high_in_an_episode_is_not_in_the_next(mode: str) -> None:
    played = Played(mode, saliency_threshold=2.9, saliency_release=0.1)

    def sent() -> bool:
        """Play the next action with a change of 2.0 to 3.0; return whether it was observed."""
        effects = played.play()
        if mode == "adaptive":
            [asked] = effects
            assert isinstance(asked, SaliencyQuestion)
            effects = list(played.monitor.on_saliency(answer(asked, 0.5 * asked.index), 0.5))
        return bool(effects)

    for _ in range(2):
        played.begin()
        while played.index < HORIZON - EARLY - 1:
            played.play()
        assert [sent() for _ in range(3)] == [False, False, True], "at 2.0, 2.5 and 3.0"


def test_a_rule_is_renewed_by_changes_of_its_own_options_only() -> None:
    options = {"saliency_threshold": 2.9, "saliency_release": 0.1}
    for change, high in (({"max_silence_s": 50.0, "random_seed": 3}, True), ({"saliency_release": 0.2}, False)):
        played = Played("action_norm", **options)
        played.until_asked()
        played.monitor.update(played.options.changed(**change))  # type: ignore[arg-type]
        played.next_context()
        assert (played.until_asked()[0] == HORIZON - EARLY) == high


def test_saliencies_are_kept_for_the_newest_episode_only() -> None:
    played = Played("action_norm", saliency_threshold=2.9)
    played.until_asked()
    kept = list(played.monitor.judged)
    played.begin()
    played.until_asked()
    assert list(played.monitor.judged) == kept


def test_an_answer_to_the_rule_before_decides_nothing() -> None:
    played = Played("adaptive", saliency_threshold=1.0)
    asked = question(played)
    played.monitor.update(played.options.changed(saliency_of="pictures"))
    assert played.monitor.on_saliency(answer(asked, 9.0), 0.4) == []
    assert played.monitor.counters["saliency_late"] == 1 and not played.monitor.judged


@pytest.mark.parametrize(("delay", "skipped_actions"), [(2, 1), (1, 2), (0, 3), (3, 0)])
def test_the_last_chance_of_a_context_that_began_late_comes_earlier(delay: int, skipped_actions: int) -> None:
    played = Played("action_norm", saliency_threshold=1e6, trained_delay=delay)
    played.until_asked()
    for _ in range(2):
        played.play()  # with the one at which the picture was taken, three that it lacks
    played.next_context()
    assert played.until_asked()[0] == TRAINED - skipped_actions - EARLY - SPARE


def test_a_question_about_a_context_that_began_late_is_about_the_step_of_its_flow() -> None:
    played = Played("adaptive", trained_delay=1)
    played.monitor.on_saliency(answer(question(played), 9.0), 0.4)
    for _ in range(2):
        played.play()
    played.next_context()
    index, asked = played.until_asked()
    assert isinstance(asked, SaliencyQuestion) and asked.index == index + 2


def test_a_last_chance_that_lies_before_the_first_action_of_a_late_context_is_taken_at_once() -> None:
    played = Played("random", random_rate=0.0, trained_delay=0, early_actions=TRAINED - 2)
    played.until_asked()
    for _ in range(4):
        played.play()
    played.next_context()
    assert played.until_asked()[0] == 0


def test_an_executor_that_is_new_in_an_episode_is_followed_from_its_first_state() -> None:
    played = Played("action_norm", saliency_threshold=1e6)
    for _ in range(TRAINED):
        played.play()
    played.executed = 0
    played.next_context()
    played.monitor._since.on_picture(played.context)
    played.play()
    played.play()
    change, _ = played.monitor._since.change(played.context, (False, False, True))
    assert change is None, "the picture was taken before"
    played.monitor._since.on_picture(9)
    played.play()
    change, _ = played.monitor._since.change(9, (False, False, True))
    assert change == pytest.approx([0.5, 0.0, 0.25])


@pytest.mark.parametrize("mode", ["action_norm", "random"])
def test_the_last_chance_of_a_context_is_taken_whatever_the_mode_says(mode: str) -> None:
    played = Played(mode, saliency_threshold=1e6, random_rate=0.0)
    index, effect = played.until_asked()
    assert index == TRAINED - EARLY - SPARE and isinstance(effect, ObserveRequest)
    assert effect.reason is Reason.LAST_CHANCE
    assert played.monitor.counters["sent_last_chance"] == 1


def test_before_any_latency_is_known_every_context_is_observed_early() -> None:
    played = Played("random", random_rate=0.0, early_actions=0)
    assert isinstance(played.until_asked()[1], ObserveRequest)
    assert played.monitor.counters["sent_latency_unknown"] == 1


def question(played: Played) -> SaliencyQuestion:
    """Play until the predictor is asked."""
    index, asked = played.until_asked()
    assert isinstance(asked, SaliencyQuestion) and asked.index == index
    return asked


def answer(asked: SaliencyQuestion, saliency: float, accepted: bool = True) -> SaliencyReply:
    """Return what the predictor says."""
    return SaliencyReply(asked.episode, asked.context, asked.index, accepted, saliency)


def test_adaptive_asks_with_what_was_executed_since_the_picture_and_follows_the_answer() -> None:
    played = Played("adaptive", saliency_threshold=1.0)
    asked = question(played)
    assert asked.index == HORIZON - EARLY
    assert asked.pending == pytest.approx([2.0, 0.0, 0.25]), "sums, and the newest value where it is absolute"
    assert played.monitor.on_saliency(answer(asked, 0.4), 0.4) == []
    again = question(played)
    assert again.index == asked.index + 1
    [request] = played.monitor.on_saliency(answer(again, 1.2), 0.45)
    assert isinstance(request, ObserveRequest) and request.saliency == pytest.approx(1.2)
    assert played.monitor.counters["suppressed_calm"] == 1 and played.monitor.counters["sent_salient"] == 1


def test_a_predictor_that_cannot_answer_lets_the_observation_be_sent() -> None:
    played = Played("adaptive")
    [request] = played.monitor.on_saliency(answer(question(played), 0.0, accepted=False), 0.4)
    assert isinstance(request, ObserveRequest)
    assert played.monitor.counters["saliency_refused"] == 1 and played.monitor.counters["sent_unknown"] == 1


def test_an_answer_that_takes_longer_than_an_action_decides_when_it_comes() -> None:
    played = Played("adaptive")
    asked = question(played)
    assert played.play() == played.play() == [], "not asked again meanwhile"
    assert played.monitor.counters["suppressed_unanswered"] == 2
    assert played.monitor.on_saliency(answer(asked, 0.4), 0.4) == []
    assert played.monitor.counters["suppressed_calm"] == 1
    again = question(played)
    assert again.index == asked.index + 3
    assert played.play() == []
    [request] = played.monitor.on_saliency(answer(again, 9.0), 0.5)
    assert isinstance(request, ObserveRequest) and request.saliency == pytest.approx(9.0)
    assert played.monitor.counters["saliency_late"] == 0


def test_a_lost_question_is_asked_again_after_its_time_and_what_comes_of_it_is_late() -> None:
    played = Played("adaptive", request_timeout_s=0.1)  # two actions
    lost = question(played)
    assert played.play() == []
    again = question(played)
    assert again.index == lost.index + 2
    assert played.monitor.counters["saliency_superseded"] == 1
    assert played.monitor.on_saliency(answer(lost, 9.0), 0.4) == []
    assert played.monitor.counters["saliency_late"] == 1


def test_without_an_answer_the_last_chance_is_taken_and_the_answer_is_late() -> None:
    played = Played("adaptive")
    asked = question(played)
    index, effect = played.until_asked()
    assert index == TRAINED - EARLY - SPARE and isinstance(effect, ObserveRequest)
    assert played.monitor.on_saliency(answer(asked, 0.0, accepted=False), 0.8) == []
    assert played.monitor.counters["saliency_late"] == 1 and played.monitor.counters["saliency_refused"] == 0
