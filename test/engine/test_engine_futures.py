"""A policy whose prefill waits for something (a plain function, a server) keeps nobody else waiting."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from toy import WAIT_S, Served, ToyPolicy, flow, observation, options

from kv_cache import CacheView
from streaming_vla.engine.engine import Engine
from streaming_vla.engine.latency_profile import LatencyProfile, Spread
from streaming_vla.engine.pace import ProfilePace
from streaming_vla.engine.thread import EngineThread
from streaming_vla.policies.chunk import ChunkAsStream
from streaming_vla.policies.contract import PolicyObservation, PolicyTimeout, Prefilled, Slices
from streaming_vla.policies.guide import Guide, Matrix

torch.set_num_threads(1)


@dataclass
class Waiting(ToyPolicy):
    """A toy that waits for a future, which the test keeps, before the last slice of its prefill."""

    futures: list[Future[float]] = field(default_factory=list)
    results: list[float] = field(default_factory=list)

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
        """Wait behind the slices of the toy."""
        made = yield from super().prefill(observation, view)
        future: Future[float] = Future()
        self.futures.append(future)
        yield future
        self.results.append(future.result(0))
        return made


def begun(policy: Waiting, observations: list[tuple[str, int]]) -> Served:
    """Return a driven engine with observations in work or waiting."""
    made = Served(Engine(policy, options(max_sessions=3)))
    for session, sequence in observations:
        made.observe(observation(sequence, session=session))
    made.finish()
    return made


def test_the_prefill_goes_on_when_what_it_waits_for_is_there() -> None:
    policy = Waiting()
    made = begun(policy, [("/a", 0)])
    woken: list[bool] = []
    made.engine.on_work = lambda: woken.append(True)
    assert made.replies == [] and made.engine.deadline() == float("inf"), "nothing to do: no busy loop"
    assert made.engine.working_since() == 0.0
    policy.futures[0].set_result(0.5)
    assert woken
    made.finish()
    assert made.report(0).sequence == 0 and policy.results == [0.5]
    assert made.engine.working_since() == float("inf")


def test_a_future_that_is_done_already_is_not_waited_for() -> None:
    policy = Waiting()
    made = begun(policy, [("/a", 0)])
    policy.futures[0].set_result(0.5)
    made.finish()
    policy.prefill = lambda *_seen: at_once(policy)  # type: ignore[method-assign]
    made.prefilled(1)


def at_once(policy: Waiting) -> Slices[Prefilled]:
    """Prefill with a future that is done."""
    done: Future[float] = Future()
    done.set_result(1.0)
    yield done
    shape = (2, 1, 4, 4)
    return Prefilled(torch.ones(shape), torch.ones(shape))


def test_other_robots_are_served_meanwhile_the_same_robots_next_picture_waits() -> None:
    policy = Waiting()
    made = begun(policy, [("/a", 0)])
    policy.futures[0].set_result(0.0)
    made.finish()
    made.observe(observation(1, mark=2.0))
    made.finish()
    made.observe(observation(2, mark=3.0))
    made.observe(observation(0, session="/b", mark=4.0))
    made.ask(flow(0, steps=3))
    made.finish()
    assert made.steps() == [(0, 0), (0, 1), (0, 2)]
    assert len(policy.futures) == 3, "of /a 0 and 1 and of /b: observation 2 sees the history behind 1"
    policy.futures[2].set_result(0.0)
    made.finish()
    assert made.report(0, "/b").sequence == 0
    policy.futures[1].set_result(0.0)
    made.finish()
    assert made.report(1).stats.full_tokens == 8 and len(policy.futures) == 4
    policy.futures[3].set_result(0.0)
    made.finish()
    assert made.report(2).stats.full_tokens == 12


def test_what_was_waited_for_and_went_wrong_is_one_sentence() -> None:
    policy = Waiting()
    made = begun(policy, [("/a", 0), ("/b", 0)])
    policy.futures[0].set_exception(ConnectionError("the server is gone"))
    policy.futures[1].set_exception(PolicyTimeout("the server has not answered for 2 s"))
    made.finish()
    assert made.refusal(0).code == "policy_failed"
    assert made.refusal(0).reason == "policy toy in prefill failed with ConnectionError: the server is gone"
    assert made.refusal(0, "/b").code == "policy_timeout"
    assert made.refusal(0, "/b").reason == "policy toy: the server has not answered for 2 s"
    assert made.engine.counts() == {"policy_failed": 1, "policy_timeout": 1}


def test_a_future_that_is_cancelled_is_a_failure_too() -> None:
    policy = Waiting()
    made = begun(policy, [("/a", 0)])
    policy.futures[0].cancel()
    made.finish()
    assert "CancelledError" in made.refusal(0).reason


@pytest.mark.parametrize("how", ["reset", "episode", "close"])
def test_what_is_wanted_no_longer_is_answered_at_once_and_its_future_forgotten(how: str) -> None:
    policy = Waiting()
    made = begun(policy, [("/a", 0)])
    if how == "reset":
        made.engine.reset("/a", 1, 1)
    elif how == "episode":
        made.observe(observation(0, episode=2))
    else:
        made.replies += made.engine.close()
    made.finish()
    assert made.refusal(0).code == {"reset": "reset", "episode": "old_episode", "close": "closed"}[how]
    policy.futures[0].set_result(1.0)
    made.finish()
    assert policy.results == []
    assert len(policy.futures) == (2 if how == "episode" else 1)


def test_a_newer_picture_of_the_same_episode_does_not_disturb_what_waits() -> None:
    policy = Waiting()
    made = begun(policy, [("/a", 0)])
    made.observe(observation(1))
    made.observe(observation(2))
    made.finish()
    assert policy.results == [] and made.refusal(1).code == "superseded"
    policy.futures[0].set_result(1.0)
    made.finish()
    assert made.report(0).sequence == 0 and len(policy.futures) == 2


def test_on_its_thread_another_robots_steps_go_on_while_a_function_blocks() -> None:
    go_on = threading.Event()

    class Blocked(ToyPolicy):
        def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
            made = yield from super().prefill(observation, view)
            if observation.state[0] == 9.0:
                future: Future[bool] = Future()
                threading.Thread(target=lambda: future.set_result(go_on.wait(WAIT_S)), daemon=True).start()
                yield future
            return made

    made = Served(Engine(Blocked(), options()))
    thread = EngineThread(made.engine, made.replies.append, time.perf_counter)
    thread.start()
    try:
        thread.submit(lambda now: made.engine.observe(observation(0, session="/b"), now))
        thread.submit(lambda now: made.engine.observe(observation(0, mark=9.0), now))
        waits = []
        for step in range(5):
            asked_s = time.perf_counter()
            thread.submit(lambda now, step=step: made.engine.generate("/b", flow(0, step), now))  # type: ignore[misc]
            while len(made.steps("/b")) <= step:
                assert time.perf_counter() < asked_s + WAIT_S
                time.sleep(0.001)
            waits.append(time.perf_counter() - asked_s)
        assert not any(reply.session == "/a" for reply in made.replies), "it blocks all the while"
        go_on.set()
        end_s = time.perf_counter() + WAIT_S
        while len(made.replies) < 7 and time.perf_counter() < end_s:
            time.sleep(0.001)
        assert made.report(0, "/a").sequence == 0
    finally:
        thread.close()


def later(future: Future[float], after_s: float) -> None:
    """Complete a future from another thread."""

    def complete() -> None:
        time.sleep(after_s)
        future.set_result(0.0)

    threading.Thread(target=complete, daemon=True).start()


@pytest.mark.parametrize("slices", [None, 0, 4])
def test_a_virtual_clock_stands_still_until_the_answer_is_there(slices: int | None) -> None:
    @dataclass
    class Server(Waiting):
        def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
            work = super().prefill(observation, view)
            while True:
                try:
                    said = next(work)
                except StopIteration as done:
                    return done.value
                if said is not None:
                    later(said, 0.05)
                yield said

    pace = None
    if slices is not None:
        times = Spread(400.0, 400.0), Spread(30.0, 30.0), Spread(0.0, 0.0)
        pace = ProfilePace(LatencyProfile("test", "a test", 50.0, *times, prefill_slices=slices))
    made = Served(Engine(Server(), options(), pace, lambda: 0.0, wait_for_futures=True))
    made.observe(observation(0))
    made.until(0.4)
    assert made.report(0).sequence == 0


@pytest.mark.parametrize("slices", [0, 4])
def test_with_a_profile_on_a_real_clock_the_answer_is_waited_for_behind_the_profiles_time(slices: int) -> None:
    policy = Waiting()
    times = Spread(400.0, 400.0), Spread(30.0, 30.0), Spread(0.0, 0.0)
    pace = ProfilePace(LatencyProfile("test", "a test", 50.0, *times, prefill_slices=slices))
    made = Served(Engine(policy, options(), pace, lambda: 0.0))
    made.observe(observation(0))
    made.until(0.3)
    made.ask(flow(0))
    made.until(0.7)
    assert made.replies == [] and made.engine.deadline() == float("inf")
    policy.futures[0].set_result(0.0)
    made.until(0.7)
    assert made.report(0).prefill_s == pytest.approx(0.4) and made.report(0).queued_s == pytest.approx(0.3)
    made.until(1.0)
    assert made.steps() == [(0, 0)]
    assert not made.engine._lanes._left_s


def test_a_chunk_may_be_waited_for_as_well() -> None:
    @dataclass
    class Remote(ToyPolicy):
        futures: list[Future[float]] = field(default_factory=list)

        def denoise(
            self, view: CacheView, context: object, steps: int, guide: Guide | None, random: np.random.Generator
        ) -> Slices[Matrix]:
            self.futures.append(Future())
            yield self.futures[-1]
            return np.full((5, 2), self.futures[-1].result(0))

    policy = Remote()
    made = Served(Engine(ChunkAsStream(policy), options()))
    made.observe(observation(0))
    request = made.ask(flow(0, steps=5))
    made.finish()
    made.ask(flow(0, steps=2, revision=request.revision - 1))  # a context that is not ready is still to come
    made.finish()
    assert made.replies == []
    policy.futures[0].set_result(0.25)
    made.finish()
    assert made.report(0).chunk and [action.values.tolist() for action in made.actions()] == [[0.25, 0.25]] * 5
