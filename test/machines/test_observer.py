"""The observer: one synchronised set of fresh frames for each request, or a counted drop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtime_cases import EPISODE

from streaming_vla.machines.events import Episode, ObserveRequest, Reason, Snapshot
from streaming_vla.machines.observer import Observer
from streaming_vla.machines.observer_options import ObserverOptions

OPTIONS = ObserverOptions(
    cameras=("front", "wrist"),
    camera_topics=("front", "wrist"),
    max_skew_s=0.05,
    max_frame_age_s=0.2,
    frame_timeout_s=0.5,
)


def started(options: ObserverOptions = OPTIONS) -> Observer:
    """Return an observer in an episode that has seen nothing."""
    observer = Observer(options)
    observer.on_episode(EPISODE, 0.0)
    return observer


def seeing(now: float = 1.0) -> Observer:
    """Return an observer with fresh frames and a fresh state."""
    observer = started()
    observer.on_frame("front", "F0", 900, now)
    observer.on_frame("wrist", "W0", 920, now)
    observer.on_state([1.0, 2.0], now)
    return observer


def request(sequence: int = 0, episode: int = 7) -> ObserveRequest:
    """Return a request."""
    return ObserveRequest(episode, sequence, Reason.EARLY)


def test_a_request_is_answered_at_once_when_everything_is_fresh() -> None:
    observer = seeing()
    [snapshot] = observer.on_request(request(), 1.1)
    assert snapshot.request == request()
    assert dict(snapshot.frames) == {"front": "F0", "wrist": "W0"}
    assert list(snapshot.frames) == ["front", "wrist"], "in the policy's order"
    assert snapshot.state.tolist() == [1.0, 2.0]
    assert (snapshot.stamp_ns, snapshot.skew_s, snapshot.instruction) == (920, 0.0, "open the drawer")
    assert observer.deadline() is None
    assert observer.on_frame("front", "F1", 1200, 1.2) == [], "one request, one snapshot"


def test_the_newest_frame_is_used() -> None:
    observer = seeing()
    observer.on_frame("front", "F1", 1020, 1.03)
    [snapshot] = observer.on_request(request(), 1.1)
    assert snapshot.frames["front"] == "F1"
    assert snapshot.skew_s == pytest.approx(0.03)
    assert snapshot.stamp_ns == 1020


@pytest.mark.parametrize("missing", ["front", "wrist", "robot_state"])
def test_a_request_waits_for_what_is_missing_then_drops_by_name(missing: str) -> None:
    for comes in (True, False):
        observer = started()
        arrivals = {
            "front": lambda o=observer: o.on_frame("front", "F", 0, 1.2),
            "wrist": lambda o=observer: o.on_frame("wrist", "W", 0, 1.2),
            "robot_state": lambda o=observer: o.on_state([0.0], 1.2),
        }
        last = arrivals.pop(missing)
        assert observer.on_request(request(), 1.0) == []
        assert observer.deadline() == pytest.approx(1.5)
        for arrive in arrivals.values():
            assert arrive() == []
        if comes:
            assert len(last()) == 1
            assert observer.deadline() is None
        else:
            assert observer.poll(1.39) == []
            assert observer.deadline() == pytest.approx(1.5)
            assert observer.poll(1.5) == []
            assert observer.counters[f"frame_timeout.{missing}"] == 1
            assert observer.deadline() is None
            assert last() == [], "the request is gone"


def test_old_frames_are_not_used() -> None:
    observer = seeing(now=1.0)
    assert observer.on_request(request(), 1.21) == []
    observer.on_frame("front", "F1", 0, 1.22)
    observer.on_state([3.0, 4.0], 1.22)
    [snapshot] = observer.on_frame("wrist", "W1", 0, 1.23)
    assert dict(snapshot.frames) == {"front": "F1", "wrist": "W1"}
    assert snapshot.state.tolist() == [3.0, 4.0]


def test_frames_too_far_apart_wait_for_the_next() -> None:
    observer = seeing(now=1.0)
    observer.on_frame("front", "F1", 0, 1.1)
    assert observer.on_request(request(), 1.11) == []
    [snapshot] = observer.on_frame("wrist", "W1", 0, 1.12)
    assert snapshot.skew_s == pytest.approx(0.02)


def test_a_damaged_frame_is_dropped_and_the_next_one_answers_within_the_time_out() -> None:
    for last_s, answered in ((1.59, True), (1.61, False)):
        observer = seeing(now=1.0)
        [snapshot] = observer.on_request(request(), 1.1)
        assert observer.on_damaged(snapshot, "wrist", 1.1) == []
        assert observer.deadline() == pytest.approx(1.6), "of the request, as before"
        assert observer.on_frame("front", "F1", 0, last_s) == [], "the damaged frame is not used again"
        assert observer.on_state([3.0, 4.0], last_s) == []
        observer.poll(last_s)
        found = observer.on_frame("wrist", "W1", 0, last_s)
        assert [dict(each.frames) for each in found] == [{"front": "F1", "wrist": "W1"}] * answered
        assert observer.counters["damaged_frame.wrist"] == 1
        assert observer.counters["frame_timeout.wrist"] == int(not answered)


def test_a_request_that_is_overtaken_meanwhile_does_not_come_back() -> None:
    observer = seeing(now=1.0)
    [first] = observer.on_request(request(0), 1.1)
    [second] = observer.on_request(request(1), 1.1)
    assert observer.on_damaged(first, "wrist", 1.1) == [] and observer.deadline() is None
    observer.on_episode(replace(EPISODE, active=False), 1.2)
    assert observer.on_damaged(second, "wrist", 1.2) == [] and observer.deadline() is None


def test_a_newer_frame_than_the_damaged_one_answers_at_once() -> None:
    observer = seeing(now=1.0)
    [snapshot] = observer.on_request(request(), 1.02)
    observer.on_frame("wrist", "W1", 0, 1.04)
    [again] = observer.on_damaged(snapshot, "wrist", 1.06)
    assert (again.request, again.frames["wrist"]) == (request(), "W1")


def test_skew_that_never_ends_is_counted() -> None:
    observer = seeing(now=1.0)
    assert observer.on_frame("front", "F1", 0, 1.1) == []
    observer.on_request(request(), 1.1)
    for tick in range(1, 5):
        assert observer.on_frame("wrist", "W", 0, 1.04 + tick * 0.12) == []
        assert observer.on_frame("front", "F", 0, 1.1 + tick * 0.12) == []
        assert observer.on_state([0.0], 1.1 + tick * 0.12) == []
    assert observer.poll(1.6) == []
    assert observer.counters.as_dict() == {"frame_timeout.skew": 1}


def test_frames_from_before_the_episode_are_forgotten() -> None:
    observer = seeing(now=1.0)
    observer.on_request(request(0), 1.0)
    observer.on_episode(Episode(8, active=True, instruction="next"), 1.01)
    assert observer.on_request(request(0, episode=8), 1.02) == []
    observer.on_frame("front", "F1", 0, 1.03)
    observer.on_frame("wrist", "W1", 0, 1.03)
    [snapshot] = observer.on_state([5.0, 6.0], 1.03)
    assert dict(snapshot.frames) == {"front": "F1", "wrist": "W1"}
    assert snapshot.instruction == "next"


def test_an_episode_change_drops_the_request_that_waits() -> None:
    observer = started()
    observer.on_request(request(), 1.0)
    observer.on_episode(Episode(8, active=True), 1.1)
    assert observer.deadline() is None


def test_an_episode_sent_again_only_brings_the_instruction() -> None:
    observer = seeing()
    observer.on_episode(replace(EPISODE, instruction="close it"), 1.0)
    observer.on_episode(Episode(6, active=True, instruction="old"), 1.0)
    [snapshot] = observer.on_request(request(), 1.1)
    assert snapshot.instruction == "close it"
    assert observer.counters.as_dict() == {"old_episode": 1}


def test_requests_that_do_not_count() -> None:
    observer = seeing()
    assert observer.on_request(request(episode=6), 1.1) == []
    assert observer.on_request(request(episode=8), 1.1) == []
    assert len(observer.on_request(request(4), 1.1)) == 1
    assert observer.on_request(request(4), 1.1) == []
    assert observer.on_request(request(3), 1.1) == []
    observer.on_episode(Episode(7, active=False), 1.1)
    assert observer.on_request(request(5), 1.1) == []
    assert observer.counters.as_dict() == {"request_other_episode": 3, "request_repeated": 2}


def test_a_newer_request_replaces_one_that_waits() -> None:
    observer = started()
    observer.on_request(request(0), 1.0)
    observer.on_request(request(1), 1.3)
    assert observer.deadline() == pytest.approx(1.8)
    assert observer.counters.as_dict() == {"request_superseded": 1}


def test_what_is_no_frame_or_state_of_ours_is_counted() -> None:
    observer = started()
    assert observer.on_frame("rear", "R", 0, 1.0) == []
    assert observer.on_state([0.0, float("nan")], 1.0) == []
    assert observer.on_state([[0.0]], 1.0) == []
    assert observer.counters.as_dict() == {"bad_robot_state": 2, "unknown_camera": 1}


def test_the_state_is_a_copy() -> None:
    observer = seeing()
    values = np.array([1.0, 2.0])
    observer.on_state(values, 1.05)
    values[:] = 9.0
    [snapshot] = observer.on_request(request(), 1.1)
    assert snapshot.state.tolist() == [1.0, 2.0]


def test_live_options_take_effect_at_once() -> None:
    observer = seeing()
    observer.update(OPTIONS.changed(cameras=("wrist",), camera_topics=("wrist",)))
    [snapshot] = observer.on_request(request(), 1.1)
    assert dict(snapshot.frames) == {"wrist": "W0"}


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["front", "wrist", "state", "request", "episode", "poll"]),
        st.floats(0.0, 0.15),
    ),
    max_size=60,
)


@given(EVENTS)
def test_every_snapshot_is_fresh_synchronised_and_answers_one_request(events: list[tuple[str, float]]) -> None:
    observer, number, sequence, now = started(), 7, 0, 0.0
    received: dict[str, float] = {}
    open_request: tuple[int, int] | None = None
    for kind, dt in events:
        now += dt
        found: list[Snapshot] = []
        if kind == "state":
            received["state"] = now
            found = observer.on_state([now], now)
        elif kind == "request":
            open_request = (number, sequence)
            sequence += 1
            found = observer.on_request(request(sequence - 1, number), now)
        elif kind == "episode":
            number, sequence, open_request = number + 1, 0, None
            received.clear()
            observer.on_episode(Episode(number, active=True), now)
        elif kind == "poll":
            observer.poll(now)
        else:
            received[kind] = now
            found = observer.on_frame(kind, now, 0, now)
        assert len(found) <= 1
        for snapshot in found:
            assert (snapshot.request.episode, snapshot.request.sequence) == open_request
            open_request = None
            assert dict(snapshot.frames) == {name: received[name] for name in ("front", "wrist")}
            assert snapshot.state.tolist() == [received["state"]]
            assert max(now - time for time in received.values()) <= OPTIONS.max_frame_age_s
            assert abs(received["front"] - received["wrist"]) <= OPTIONS.max_skew_s
        if observer.deadline() is None:
            open_request = None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cameras", ()),
        ("cameras", ("front", "front")),
        ("max_skew_s", -0.1),
        ("max_frame_age_s", 0.0),
        ("frame_timeout_s", float("inf")),
    ],
)
def test_options_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        OPTIONS.changed(**{name: value})
