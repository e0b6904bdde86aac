"""The engine on its own thread: waiting times, replies, errors over there, a network, and the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from toy import WAIT_S, Served, ToyPolicy, flow, observation, options, question

from streaming_vla.engine.engine import Engine
from streaming_vla.engine.latency_profile import LatencyProfile, Spread
from streaming_vla.engine.pace import ProfilePace
from streaming_vla.engine.thread import EngineThread
from streaming_vla.engine.values import ContextReport, EncodedObservation, Reply, ResetResult
from streaming_vla.machines.events import GeneratedAction, GenerateRequest
from streaming_vla.policies.contract import FlowPolicy

torch.set_num_threads(1)
SLICE_S = 0.02
OBSERVE_MS, STEP_MS, NETWORK_MS = 60.0, 20.0, 5.0


class Running(Served):
    """A thread and everything that it has sent; `on_reply` is called for each, on that thread."""

    def __init__(
        self, policy: FlowPolicy, profile: LatencyProfile | None = None, start: bool = True, **changes: int | str
    ) -> None:
        pace = None if profile is None else ProfilePace(profile)
        super().__init__(Engine(policy, options(**changes), pace))
        self.thread = EngineThread(self.engine, self._take, time.perf_counter, profile)
        self.on_reply: Callable[[Reply], None] = lambda reply: None
        self.threads: set[str] = set()
        self.came_s: list[float] = []
        self._changed = threading.Condition()
        self._before = 0  # replies, when something was sent last
        if start:
            self.thread.start()

    def _take(self, reply: Reply) -> None:
        with self._changed:
            self.replies.append(reply)
            self.came_s.append(time.perf_counter())
            self.threads.add(threading.current_thread().name)
            self._changed.notify_all()
        self.on_reply(reply)

    def observe(self, seen: EncodedObservation) -> None:
        """Send an observation."""
        self._before = len(self.replies)
        self.thread.submit(partial(self.engine.observe, seen), f"observation of {seen.session}")

    def ask(self, request: GenerateRequest, session: str = "/a") -> GenerateRequest:
        """Send a request to generate."""
        self._before = len(self.replies)
        self.thread.submit(partial(self.engine.generate, session, request), f"generate of {session}")
        return request

    def reset(self, session: str, episode: int, number: int) -> None:
        """Send a reset."""
        self.thread.submit(lambda _now: self.engine.reset(session, episode, number))

    def wait(self, replies: int) -> None:
        """Wait until so many replies have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.replies) >= replies, WAIT_S), self.replies

    def finish(self) -> None:
        """Wait for the answer to what was sent last."""
        self.wait(self._before + 1)


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    """Start engines on threads that are ended with the test."""
    running: list[Running] = []

    def begin(*arguments: object, **named: object) -> Running:
        running.append(Running(*arguments, **named))  # type: ignore[arg-type]
        return running[-1]

    yield begin
    for made in running:
        made.thread.close()


def alive() -> bool:
    """Return whether an engine's thread runs."""
    return any(thread.name == "inference engine" for thread in threading.enumerate())


def test_a_step_waits_for_one_slice_at_most(run: Callable[..., Running]) -> None:
    policy = ToyPolicy(slices=25)
    made = run(policy)
    made.prefilled(0, session="/b")
    made.prefilled(0)
    policy.slice_s = SLICE_S
    policy.log.clear()
    made.observe(observation(1))
    made.observe(observation(1, session="/b"))
    waits, overtaken = [], []
    while policy.names().count("slice 24") < 2:
        time.sleep(0.007)
        begun = len(policy.log)  # the slice in work is written down already
        request, asked_s = flow(0), time.perf_counter()
        made.ask(request)
        while not any(action.revision == request.revision for action in made.actions()):
            assert time.perf_counter() < asked_s + WAIT_S
            time.sleep(0.0005)
        waits.append(made.answer(request).queued_s)
        overtaken.append(policy.names()[begun:].index("flow 0"))
    made.wait(4 + len(waits))
    for session in ("/a", "/b"):
        report = made.report(1, session)
        assert report.prefill_s >= 25 * SLICE_S
        assert report.queued_s >= 0.0 and report.flow_step_s > 0.0
    assert len(waits) > 10
    # a slice may still begin while the request is on its way, but not one after it is queued
    assert max(overtaken) <= 1 and overtaken.count(0) > 0.8 * len(overtaken)
    assert sorted(waits)[len(waits) // 2] <= SLICE_S


def test_all_work_and_all_replies_are_on_one_thread(run: Callable[..., Running]) -> None:
    policy = ToyPolicy()
    made = run(policy)
    made.prefilled(0)
    made.ask(flow(0))
    made.ask(flow(0, step=9))
    made.observe(observation(0))
    made.wait(4)
    assert made.threads == policy.threads == {"inference engine"}
    assert all(reply.done_s <= came_s for reply, came_s in zip(made.replies, made.came_s, strict=True))


def test_an_error_of_whoever_sends_does_not_end_the_thread(run: Callable[..., Running]) -> None:
    made = run(ToyPolicy())

    def broken(_reply: Reply) -> None:
        raise OSError("the publisher is gone")

    made.on_reply = broken
    made.prefilled(0)
    made.stepped(flow(0))
    made.reset("/b", 1, 1)
    made.wait(3)
    made.on_reply = lambda _reply: None
    made.prefilled(1)
    assert made.thread.failed == 3


def test_an_error_in_the_engine_does_not_end_the_thread(
    run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run(ToyPolicy())
    with monkeypatch.context() as broken:
        broken.setattr(made.engine.sessions, "open", lambda name: 1 // 0)
        made.reset("/a", 1, 1)
        made.wait(1)
    assert made.result(1).code == "engine_failed"
    made.prefilled(0)


def test_a_reply_may_ask_again(run: Callable[..., Running]) -> None:
    made = run(ToyPolicy(), start=False)
    made.on_reply = lambda reply: made.ask(flow(0)) if isinstance(reply.value, ContextReport) else None
    made.observe(observation(0))
    made.thread.start()
    made.wait(2)
    assert made.steps() == [(0, 0)]


def test_side_work_waits_until_the_model_rests(run: Callable[..., Running]) -> None:
    policy = ToyPolicy()
    made = run(policy)
    made.prefilled(0)
    made.on_reply = lambda reply: made.thread.later(lambda: policy.log.append(("later", 0.0)))
    made.ask(flow(0, steps=3))
    made.wait(4)
    end_s = time.perf_counter() + WAIT_S
    while policy.names().count("later") < 3 and time.perf_counter() < end_s:
        time.sleep(0.001)
    assert policy.names()[-6:] == ["flow 0", "flow 1", "flow 2", "later", "later", "later"]


def test_close_joins_and_answers_everybody() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def hold(_name: str) -> None:
        inside.set()
        assert go_on.wait(WAIT_S)

    policy = ToyPolicy(slices=5, hook=hold)
    made = Running(policy)
    assert alive()
    made.observe(observation(0))
    assert inside.wait(WAIT_S)
    made.observe(observation(1))
    request = made.ask(flow(0))
    closing = threading.Thread(target=made.thread.close)
    closing.start()
    time.sleep(0.05)
    made.reset("/a", 1, 1)
    go_on.set()
    closing.join(WAIT_S)
    assert not closing.is_alive() and not alive()
    codes = [made.refusal(0).code, made.refusal(1).code, made.answer(request).code, made.result(1).code]
    assert codes == ["closed"] * 4
    assert policy.names() == ["slice 0", "let go"]  # the slice in work ended, no other began
    made.thread.close()
    assert len(made.replies) == 4
    assert made.refused(2).code == "closed" and made.stepped(flow(0)).code == "closed"
    made.reset("/a", 1, 2)
    assert made.result(2).code == "closed"


def test_a_policy_that_never_returns_is_left_behind() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def hold(_name: str) -> None:
        inside.set()
        go_on.wait(WAIT_S)

    made = Running(ToyPolicy(hook=hold))
    made.observe(observation(0))
    assert inside.wait(WAIT_S)
    assert made.engine.working_since() <= time.perf_counter()
    assert not made.thread.close(0.05)
    assert made.refusal(0).code == "closed"
    go_on.set()
    made.thread._thread.join(WAIT_S)
    assert not alive() and len(made.replies) == 1, "nobody hears of what it has done since"


def test_close_without_start_answers_too() -> None:
    made = Running(ToyPolicy(), start=False)
    made.observe(observation(0))
    made.ask(flow(0))
    made.thread.close()
    assert made.refusal(0).code == "closed" and [action.code for action in made.actions()] == ["closed"]


def test_a_thread_starts_once() -> None:
    made = Running(ToyPolicy())
    with pytest.raises(RuntimeError):
        made.thread.start()
    made.thread.close()
    assert not alive()


def test_close_from_a_reply_is_refused_not_a_deadlock(run: Callable[..., Running]) -> None:
    made = run(ToyPolicy())
    made.on_reply = lambda _reply: made.thread.close() and None
    made.prefilled(0)
    made.on_reply = lambda _reply: None
    made.prefilled(1)
    assert made.thread.failed == 1


def test_many_senders(run: Callable[..., Running]) -> None:
    """Of a request for an older revision nobody hears, so each robot waits for its own."""
    made = run(ToyPolicy(slices=2), max_sessions=4)
    refused: list[str] = []

    def robot(name: str, mark: float) -> None:
        for sequence in range(50):
            made.observe(observation(sequence, session=name, mark=mark))
            request = made.ask(flow(sequence, steps=2), name)
            end_s = time.perf_counter() + WAIT_S
            while len([a for a in made.actions(name) if a.revision == request.revision]) < 2:
                if time.perf_counter() > end_s:
                    refused.append(f"{name} {sequence}")
                    return
                time.sleep(0.0005)

    robots = [threading.Thread(target=robot, args=(f"/{mark}", float(mark))) for mark in range(1, 5)]
    for thread in robots:
        thread.start()
    for thread in robots:
        thread.join(3 * WAIT_S)
    made.thread.close()
    assert not refused
    assert made.engine.counts() == {"served.generate": 400, "served.prefill": 200}
    for mark in range(1, 5):
        actions = made.actions(f"/{mark}")
        assert [(a.context, a.step) for a in actions] == [(number, step) for number in range(50) for step in (0, 1)]
        assert all(action.values[1] * 1000 == pytest.approx(mark, rel=1e-5) for action in actions)


def test_senders_that_do_not_wait_for_each_other_change_nothing_that_is_in_work(run: Callable[..., Running]) -> None:
    """Episodes, resets, grants and observations from four threads on one robot: every observation is answered once."""
    made = run(ToyPolicy(slices=2))
    sent: list[int] = []

    def rush(offset: int) -> None:
        for number in range(100):
            episode, sequence = 1 + number // 20, 4 * number + offset
            made.observe(observation(sequence, episode=episode))
            sent.append(sequence)
            made.ask(flow(sequence, steps=2, episode=episode))
            if number % 10 == 9:
                made.reset("/a", episode, 10_000 + 4 * number + offset)

    senders = [threading.Thread(target=rush, args=(offset,)) for offset in range(4)]
    for thread in senders:
        thread.start()
    for thread in senders:
        thread.join(WAIT_S)
    made.thread.close()
    outcomes = [r.value.sequence for r in made.replies if hasattr(r.value, "sequence")]
    assert sorted(outcomes) == sorted(sent)
    assert sum(isinstance(reply.value, ResetResult) for reply in made.replies) == 40
    assert made.thread.failed == 0 and "engine_failed" not in made.engine.counts()


# a latency profile: this machine is as late as it says


def profile(observe_ms: float = OBSERVE_MS, step_ms: float = STEP_MS, network_ms: float = NETWORK_MS) -> LatencyProfile:
    """Return a profile without jitter."""
    return LatencyProfile(
        "test",
        "a test",
        50.0,
        Spread(observe_ms, observe_ms),
        Spread(step_ms, step_ms),
        Spread(network_ms, network_ms),
    )


def test_replies_are_as_late_as_the_profile_says_and_tell_its_times(run: Callable[..., Running]) -> None:
    made = run(ToyPolicy(), profile())
    begin_s = time.perf_counter()
    report = made.prefilled(0)
    assert time.perf_counter() - begin_s >= (OBSERVE_MS + 2 * NETWORK_MS) / 1000
    assert report.prefill_s >= OBSERVE_MS / 1000
    begin_s = time.perf_counter()
    result = made.stepped(flow(0))
    assert time.perf_counter() - begin_s >= (STEP_MS + 2 * NETWORK_MS) / 1000
    assert result.accepted and result.compute_s >= STEP_MS / 1000
    assert made.prefilled(1).flow_step_s >= STEP_MS / 1000
    assert made.engine.later_than_paced == 0


def test_what_takes_longer_than_the_profile_says_is_counted_and_not_made_faster(run: Callable[..., Running]) -> None:
    made = run(ToyPolicy(slices=1, slice_s=0.03), profile(observe_ms=1.0))
    assert made.prefilled(0).prefill_s >= 0.03
    assert made.engine.later_than_paced == 1


def test_a_step_goes_on_beside_an_observation_that_takes_long(run: Callable[..., Running]) -> None:
    made = run(ToyPolicy(), profile(observe_ms=100.0))
    made.prefilled(0)
    made.engine._lanes._pace.profile = profile(observe_ms=2000.0)  # type: ignore[union-attr]
    made.observe(observation(1))
    assert made.stepped(flow(0)).accepted
    assert len(made.replies) == 2, "the observation is not done yet"


def test_refusals_are_not_held(run: Callable[..., Running]) -> None:
    made = run(ToyPolicy(), profile(observe_ms=100.0))
    made.prefilled(5)
    made.engine._lanes._pace.profile = profile(observe_ms=9000.0)  # type: ignore[union-attr]
    begin_s = time.perf_counter()
    assert made.stepped(flow(77, episode=0)).code == "old_episode"
    assert made.refused(3).code == "old_sequence"
    assert time.perf_counter() - begin_s < 5.0


@pytest.mark.parametrize("where", ["on its way in", "in work", "on its way out"])
def test_close_answers_what_the_profile_holds_back(where: str) -> None:
    slow = {"on its way in": profile(network_ms=60_000.0), "in work": profile(observe_ms=60_000.0)}.get(where)
    made = Running(ToyPolicy(), slow or profile(observe_ms=1.0))
    made.observe(observation(0))
    if where == "on its way out":
        made.thread._network = profile(network_ms=60_000.0)  # from here on
    end_s = time.perf_counter() + 0.2
    while time.perf_counter() < end_s and made.engine.deadline() == float("inf"):
        time.sleep(0.005)
    time.sleep(0.1)
    assert made.replies == []
    made.thread.close()
    assert len(made.replies) == 1
    if where == "on its way out":
        assert made.report(0).sequence == 0
    else:
        assert made.refusal(0).code == "closed"
    made.thread.close()
    assert made.refused(1).code == "closed" and len(made.replies) == 2


def test_messages_of_a_stream_keep_their_order_and_hold_back_no_other(run: Callable[..., Running]) -> None:
    """The network loses an observation, which is sent again; the robot's requests go past it, its next picture not."""
    made = run(ToyPolicy(slices=1), profile(1.0, 1.0, 1.0))
    made.prefilled(0)
    delays_s = [0.3]  # of the messages from here on; then none

    class Lossy:
        def transport_s(self, _random: object, _now: float) -> float:
            return delays_s.pop() if delays_s else 0.0

    made.thread._network = Lossy()  # type: ignore[assignment]
    made.observe(observation(1))
    made.observe(observation(2))
    made.ask(flow(0, steps=2))
    made.wait(5)
    assert [type(reply.value) for reply in made.replies[1:3]] == [GeneratedAction] * 2
    assert {made.replies[3].value.sequence, made.replies[4].value.sequence} == {1, 2}
    assert all(came_s - made.came_s[0] >= 0.3 for came_s in made.came_s[3:])


def test_nothing_to_do_costs_nothing(run: Callable[..., Running]) -> None:
    made = run(ToyPolicy(), profile())
    polls = [0]
    poll = made.engine.poll

    def counted(now: float) -> list[Reply]:
        polls[0] += 1
        return poll(now)

    made.engine.poll = counted  # type: ignore[method-assign]
    made.prefilled(0)
    time.sleep(0.05)
    before = polls[0]
    time.sleep(0.3)
    assert polls[0] == before
    made.engine.predict_saliency("/a", question(0), 1)
    made.wait(2)
    assert polls[0] - before <= 6
