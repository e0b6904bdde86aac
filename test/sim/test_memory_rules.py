"""Plans of the memory tasks: what is drawn from the seed, without physics."""

from __future__ import annotations

import functools
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from streaming_vla.policies.compact.language import build_vocabulary
from streaming_vla.sim import memory_scene as look
from streaming_vla.sim.memory_episode import (
    CHOICE_LIMIT_STEPS,
    CUE_STEPS,
    HAND_HEIGHT_M,
    TOLERANCE_M,
    MemoryEpisode,
    Phase,
    shown,
)
from streaming_vla.sim.memory_rules import EPISODES, Count, CuedReach, begin_memory
from streaming_vla.sim.memory_tasks import MEMORY_TASKS
from streaming_vla.sim.tasks import TASKS, get_task

SEEDS = range(20_000, 21_500)
OBSERVATION_STEPS = 10  # from one observation to the next, as the suite streams
NAMES = tuple(EPISODES)


@functools.cache
def plans(name: str) -> list[MemoryEpisode]:
    """Return many episodes of a task; no test moves them."""
    return [EPISODES[name](seed) for seed in SEEDS]


def place_of(episode: MemoryEpisode, goal: int) -> int:
    """Return which place a goal has, counted from the arm's side."""
    return sorted(range(episode.choices), key=lambda k: episode.goals[k].position[1]).index(goal)


@pytest.mark.parametrize("name", NAMES)
def test_tasks_have_names_words_and_rules(name: str) -> None:
    task = get_task(f"{name}-v3")
    assert task is MEMORY_TASKS[name] and name not in TASKS
    assert task.environment == "reach-v3"
    assert len(task.instructions) >= 8 and len(task.held_out) == 2
    assert len({*task.instructions, *task.held_out}) == len(task.instructions) + len(task.held_out)
    assert set(build_vocabulary(task.held_out)) <= set(build_vocabulary(task.instructions))
    assert max(len(text.split()) for text in (*task.instructions, *task.held_out)) <= 16


def test_the_other_tasks_remember_nothing() -> None:
    assert not any(begin_memory(name, 0) for name in TASKS)


@pytest.mark.parametrize("name", NAMES)
def test_a_blind_choice_is_right_at_chance(name: str) -> None:
    """Neither an answer nor a place nor both together is drawn more often than another."""
    episodes = plans(name)
    choices = EPISODES[name].choices
    answers = Counter(episode.answer for episode in episodes)
    places = Counter(place_of(episode, episode.answer) for episode in episodes)
    assert len(answers) == len(places) == choices
    for counter in (answers, places):
        for count in counter.values():
            assert count / len(SEEDS) == pytest.approx(1 / choices, abs=0.04)


@pytest.mark.parametrize("name", ["cued-reach", "count"])
def test_the_place_says_nothing_of_the_answer(name: str) -> None:
    pairs = Counter((e.answer, place_of(e, e.answer)) for e in plans(name))
    assert len(pairs) == 9
    assert all(count / len(SEEDS) == pytest.approx(1 / 9, abs=0.03) for count in pairs.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_plan_and_the_range_changes_the_wait_only(name: str) -> None:
    one, same, short = EPISODES[name](7), EPISODES[name](7), EPISODES[name](7, (30, 31))
    assert one.decoy == same.decoy and one.wait_steps == same.wait_steps and one.lamp == same.lamp
    assert (one.answer, one.goals, one.lamp) == (short.answer, short.goals, short.lamp)
    assert one.goals != EPISODES[name](8).goals
    waits = [episode.wait_steps for episode in plans(name)]
    assert min(waits) >= 40 and max(waits) <= 400 and np.mean(waits) == pytest.approx(220, abs=12)


@pytest.mark.parametrize("wait", [(10, 40), (60, 50)])
def test_a_range_that_is_none_is_refused(wait: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected the shortest and the longest wait, 30 or more"):
        CuedReach(0, wait)


def test_the_lamp_is_lit_for_half_a_second() -> None:
    episode = CuedReach(3)
    lit = [step for step in range(2000) if shown(episode.lamp, step) != look.DARK]
    assert lit == list(range(CUE_STEPS))
    assert shown(episode.lamp, 0) == episode.goals[episode.answer].colour


@pytest.mark.parametrize("phase", range(OBSERVATION_STEPS))
def test_no_blink_and_no_gap_falls_between_two_observations(phase: int) -> None:
    for seed in range(100):
        episode = Count(seed)
        seen = [shown(episode.lamp, step) == look.WHITE for step in range(phase, 150, OBSERVATION_STEPS)]
        rises = seen[0] + sum(now and not before for before, now in pairwise(seen))
        assert rises == episode.answer + 1


def test_the_count_is_known_as_it_grows() -> None:
    episode = next(episode for episode in map(Count, SEEDS) if episode.answer == 2)
    labels = []
    for step in range(episode.cue_steps):
        episode.step = step
        labels.append(episode.label)
    assert labels[0] == 0 and labels[-1] == 2 and sorted(set(labels)) == [0, 1, 2] and labels == sorted(labels)


@pytest.mark.parametrize("name", NAMES)
def test_goals_are_hidden_until_the_wait_is_over(name: str) -> None:
    episode = EPISODES[name](5)
    for step in range(episode.cue_steps + episode.wait_steps + 5):
        episode.step = step
        waiting = step < episode.cue_steps + episode.wait_steps
        assert (episode.phase is not Phase.CHOICE) == waiting
        assert len(episode.balls()) == (3 if waiting else 2 + episode.choices)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_goal_counts_and_only_when_it_is_shown(name: str) -> None:
    for goal in range(EPISODES[name].choices):
        episode = EPISODES[name](11)
        over = np.array((*episode.goals[goal].position[:2], HAND_HEIGHT_M))
        begin = episode.cue_steps + episode.wait_steps
        episode.update(begin - 1, over)
        assert not episode.success and not episode.failed
        episode.update(begin, over + np.array((TOLERANCE_M + 0.01, 0.0, 0.0)))
        assert not episode.success and not episode.failed
        episode.update(begin + 1, over)
        outcome = (goal == episode.answer, goal != episode.answer)
        assert (episode.success, episode.failed) == outcome
        right = np.array((*episode.goals[episode.answer].position[:2], HAND_HEIGHT_M))
        episode.update(begin + 2, right)
        assert (episode.success, episode.failed) == outcome


def test_no_choice_in_time_is_a_failure() -> None:
    episode = CuedReach(2)
    end = episode.cue_steps + episode.wait_steps + CHOICE_LIMIT_STEPS
    episode.update(end - 1, np.array((0.0, 0.6, 0.2)))
    assert not episode.failed
    episode.update(end, np.array((0.0, 0.6, 0.2)))
    assert episode.failed and not episode.success


@pytest.mark.parametrize("name", NAMES)
def test_the_wandering_marker_forgets_where_it_began_and_keeps_off_the_goals(name: str) -> None:
    for seed in range(100):
        episode = EPISODES[name](seed)
        for step in range(episode.cue_steps + 40, episode.cue_steps + episode.wait_steps, 17):
            episode.step = step
            marker = np.array(episode.marker())
            assert np.all(np.abs(marker - look.CENTRE) <= (0.07 + 1e-9, 0.08 + 1e-9))
            distances = [np.hypot(*(marker - goal.position[:2])) for goal in episode.goals]
            assert min(distances) > 2 * TOLERANCE_M
