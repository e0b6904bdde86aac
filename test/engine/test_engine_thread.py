"""The engine's own thread: waiting times, callbacks, errors over there, and the end."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from toy import WAIT_S, Answer, ToyPolicy, flow, observation, observe, options, refusal_of, report_of, step

from streaming_vla.engine.engine import Engine
from streaming_vla.engine.values import ResetResult

torch.set_num_threads(1)
SLICE_S = 0.02


def alive() -> bool:
    """Return whether an engine's thread runs."""
    return any(thread.name == "inference engine" for thread in threading.enumerate())


def test_a_flow_step_waits_for_one_slice_at_most() -> None:
    policy = ToyPolicy(slices=25, slice_s=SLICE_S)
    engine = Engine(policy, options())
    engine.start()
    try:
        policy.slice_s = 0.0
        report_of(observe(engine, observation(0, session="/b")))
        report_of(observe(engine, observation(0)))
        policy.slice_s = SLICE_S
        policy.log.clear()
        prefills = [observe(engine, observation(1)), observe(engine, observation(1, session="/b"))]
        waits, overtaken = [], []
        while policy.names().count("slice 24") < len(prefills):
            time.sleep(0.007)
            begun = len(policy.log)  # the slice in work is written down already
            waits.append(step(engine, flow(0), "/a").get().queued_s)
            overtaken.append(policy.names()[begun:].index("flow 0"))
        for prefill in prefills:
            report = report_of(prefill)
            assert report.prefill_s >= 25 * SLICE_S
            assert report.queued_s >= 0.0 and report.flow_step_s > 0.0
    finally:
        engine.close()
    assert len(waits) > 10
    # a slice may still begin while the request is on its way, but not one after it is queued
    assert max(overtaken) <= 1 and overtaken.count(0) > 0.8 * len(overtaken)
    assert sorted(waits)[len(waits) // 2] <= SLICE_S


def test_all_work_and_all_answers_are_on_one_thread() -> None:
    policy = ToyPolicy()
    engine = Engine(policy, options())
    engine.start()
    try:
        answers: list[Answer] = [observe(engine, observation(0))]
        report_of(answers[0])
        answers += [step(engine, flow(0)), step(engine, flow(9)), observe(engine, observation(0))]
        for answer in answers:
            answer.get()
        assert {answer.thread for answer in answers} == policy.threads == {"inference engine"}
    finally:
        engine.close()


def test_an_error_of_whoever_waits_does_not_end_the_worker() -> None:
    engine = Engine(ToyPolicy(), options())
    engine.start()
    try:

        def broken(_result: object) -> None:
            raise OSError("the publisher is gone")

        engine.observe(observation(0), broken)
        engine.flow_step("/a", flow(0), broken)
        engine.reset("/b", 1, broken)
        report_of(observe(engine, observation(1)))
        assert engine.counts()["callback_failed"] == 3
    finally:
        engine.close()


def test_an_answer_may_ask_again() -> None:
    engine = Engine(ToyPolicy(), options())
    answer: Answer = Answer()
    engine.observe(observation(0), lambda _report: engine.flow_step("/a", flow(0), answer))
    engine.start()
    try:
        assert answer.get().accepted
    finally:
        engine.close()


def test_close_joins_and_answers_everybody() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def hold(_name: str) -> None:
        inside.set()
        assert go_on.wait(WAIT_S)

    policy = ToyPolicy(slices=5, hook=hold)
    engine = Engine(policy, options())
    engine.start()
    assert alive()
    running = observe(engine, observation(0))
    assert inside.wait(WAIT_S)
    waiting, request = observe(engine, observation(1)), step(engine, flow(0))
    reset: Answer[ResetResult] = Answer()
    closing = threading.Thread(target=engine.close)
    closing.start()
    time.sleep(0.05)
    engine.reset("/a", 1, reset)
    go_on.set()
    closing.join(WAIT_S)
    assert not closing.is_alive() and not alive()
    assert refusal_of(running).code == refusal_of(waiting).code == request.get().code == reset.get().code == "closed"
    assert policy.names() == ["slice 0", "let go"]  # the slice in work ended, no other began
    engine.close()
    assert refusal_of(observe(engine, observation(2))).code == "closed"
    assert step(engine, flow(0)).get().code == "closed"


def test_close_without_start_answers_too() -> None:
    engine = Engine(ToyPolicy(), options())
    waiting = observe(engine, observation(0))
    engine.close()
    assert refusal_of(waiting).code == "closed"


def test_an_engine_starts_once() -> None:
    engine = Engine(ToyPolicy(), options())
    engine.start()
    with pytest.raises(RuntimeError):
        engine.start()
    engine.close()
    assert not alive()


def test_close_from_an_answer_is_refused_not_a_deadlock() -> None:
    engine = Engine(ToyPolicy(), options())
    engine.start()
    tried = threading.Event()

    def close(_result: object) -> None:
        tried.set()
        engine.close()

    engine.observe(observation(0), close)
    assert tried.wait(WAIT_S)
    report_of(observe(engine, observation(1)))
    assert engine.counts()["callback_failed"] == 1
    engine.close()


def test_many_senders() -> None:
    policy = ToyPolicy(slices=2)
    engine = Engine(policy, options(max_sessions=4))
    engine.start()
    answers: list[Answer] = []
    lock = threading.Lock()

    def robot(name: str, mark: float) -> None:
        for sequence in range(50):
            seen = observe(engine, observation(sequence, session=name, mark=mark))
            asked = step(engine, flow(sequence - 1), name)
            with lock:
                answers.extend((seen, asked))
            result = asked.get()
            assert not result.accepted or result.values[1] * 1000 == pytest.approx(mark, rel=1e-5)

    robots = [threading.Thread(target=robot, args=(f"/{mark}", float(mark))) for mark in range(1, 5)]
    for thread in robots:
        thread.start()
    for thread in robots:
        thread.join(WAIT_S)
    engine.close()
    assert len(answers) == 400
    for answer in answers:
        answer.get()
    assert sum(engine.counts().values()) == 400
