"""A plain function as a policy: called on a thread of its own, with a time limit, while the others are served."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from toy import SPEC, WAIT_S, Served, flow, observation, options

from kv_cache import CacheView
from streaming_vla.engine.engine import Engine
from streaming_vla.engine.latency_profile import LatencyProfile, Spread
from streaming_vla.engine.pace import ProfilePace
from streaming_vla.policies.blocking import BlockingPolicy
from streaming_vla.policies.chunk import ChunkAsStream
from streaming_vla.policies.contract import (
    EMPTY_TOKEN,
    PolicyObservation,
    PolicyTimeout,
    prefill_whole,
    run_slices,
)

torch.set_num_threads(1)
PLAIN = replace(SPEC, cache=EMPTY_TOKEN, tokens_per_observation=1)
Images = Mapping[str, npt.NDArray[np.uint8]]


def rows_of(state: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return a chunk that knows its robot."""
    return np.stack([np.arange(5) / 10, np.full(5, state[0] / 1000)], axis=1)


class Plain:
    """A function; robots of mark 9 and more are held up until the test lets them go."""

    def __init__(self) -> None:
        self.calls: list[tuple[Images, float, str, str]] = []
        self.go_on = threading.Event()
        self.inside = threading.Event()

    def __call__(self, images: Images, state: npt.NDArray[np.float32], instruction: str) -> npt.NDArray[np.float64]:
        """Return a chunk."""
        self.calls.append((images, float(state[0]), instruction, threading.current_thread().name))
        if state[0] >= 9.0:
            self.inside.set()
            self.go_on.wait(WAIT_S)
        return rows_of(state)


def driven(function: Callable[..., object], timeout_s: float = WAIT_S, **changes: int) -> Served:
    """Return a driven engine of a function."""
    policy = ChunkAsStream(BlockingPolicy(function, PLAIN, timeout_s))  # type: ignore[arg-type]
    return Served(Engine(policy, options(**({"max_sessions": 3} | changes))))


def test_a_function_gives_a_context_and_its_rows() -> None:
    plain = Plain()
    made = driven(plain)
    made.observe(observation(0, mark=4.0))
    made.ask(flow(0, steps=5))
    made.wait_for(lambda: len(made.replies) == 6)
    assert made.report(0).chunk and made.report(0).tokens == 1
    values = np.array([action.values for action in made.actions()])
    np.testing.assert_allclose(values, [[row / 10, 0.004] for row in range(5)], rtol=1e-6)
    [(images, _, instruction, thread)] = plain.calls
    assert sorted(images) == ["front", "wrist"] and images["front"].shape == (32, 32, 3)
    assert abs(int(images["wrist"].mean()) - 200) <= 1
    assert instruction == "open" and thread == "policy toy"


def test_other_robots_generate_while_it_blocks_and_their_pictures_wait_their_turn() -> None:
    plain = Plain()
    made = driven(plain)
    made.observe(observation(0, session="/b"))
    made.wait_for(lambda: len(made.replies) == 1)
    made.observe(observation(0, mark=9.0))
    made.finish()
    assert plain.inside.wait(WAIT_S)
    for row in range(5):
        assert made.stepped(flow(0, step=row), "/b").accepted
    made.observe(observation(1, session="/b"))
    made.finish()
    assert len(plain.calls) == 2 and made.engine.deadline() == float("inf"), "one call at a time, and no busy loop"
    plain.go_on.set()
    made.wait_for(lambda: len(made.replies) == 8)
    assert made.report(0, "/a").chunk and made.report(1, "/b").chunk


def test_a_function_that_blocks_for_ever_is_one_sentence_each_time_and_the_old_context_goes_on() -> None:
    plain = Plain()
    made = driven(plain, timeout_s=0.2)
    made.observe(observation(0))
    made.wait_for(lambda: len(made.replies) == 1)
    waiting = made.ask(flow(1))
    made.observe(observation(1, mark=9.0))
    made.wait_for(lambda: len(made.replies) == 2)
    refusal = made.refusal(1)
    assert refusal.code == "policy_timeout"
    assert refusal.reason == (
        "policy toy: its function has not returned in time, 0.2 s are allowed: make it return or raise its timeout_s"
    )
    time.sleep(0.25)
    begin_s = time.monotonic()
    made.observe(observation(2, mark=2.0))
    made.wait_for(lambda: len(made.replies) == 3)
    assert time.monotonic() - begin_s < 0.15, "it is known to be stuck"
    assert "has been in one call for" in made.refusal(2).reason
    assert made.stepped(flow(0)).accepted
    assert len(plain.calls) == 2
    plain.go_on.set()
    made.wait_for(lambda: not made.engine.policy.policy._thread.busy_s())  # type: ignore[attr-defined]
    made.observe(observation(3, mark=2.0))
    made.wait_for(lambda: len(made.replies) == 6)
    assert made.report(3).sequence == 3, "it has come back"
    assert made.answer(waiting).code == "no_context", "context 1 will not come any more"
    assert made.engine.counts()["policy_timeout"] == 2


def test_a_call_that_was_given_up_while_it_waited_is_not_made() -> None:
    plain = Plain()
    policy = BlockingPolicy(plain, PLAIN, 0.2)
    made = Served(Engine(ChunkAsStream(policy), options(max_sessions=3)))
    made.observe(observation(0, session="/a", mark=9.0))
    made.finish()
    assert plain.inside.wait(WAIT_S)
    made.observe(observation(0, session="/b", mark=1.0))
    made.wait_for(lambda: len(made.replies) == 2)
    assert {made.refusal(0, name).code for name in ("/a", "/b")} == {"policy_timeout"}
    plain.go_on.set()
    made.wait_for(lambda: not policy._thread.busy_s())
    made.observe(observation(1, session="/b", mark=3.0))
    made.wait_for(lambda: len(made.replies) == 3)
    assert [mark for _, mark, _, _ in plain.calls] == [9.0, 3.0]


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda images, state, instruction: 1 // 0, "in prefill failed with ZeroDivisionError: integer division"),
        (lambda images, state, instruction: sys.exit(3), r"RuntimeError: it ended with SystemExit\(3\)"),
        (lambda images: None, "in prefill failed with TypeError"),
        (lambda images, state, instruction: None, r"its chunk has shape \(\), expected \(5, 2\)"),
        (lambda images, state, instruction: np.zeros((4, 2)), r"its chunk has shape \(4, 2\), expected \(5, 2\)"),
        (lambda images, state, instruction: np.full((5, 2), np.nan), "its chunk is not finite in row 0"),
    ],
    ids=["raises", "exits", "other arguments", "nothing", "horizon", "not a number"],
)
def test_a_bad_function_is_one_sentence(function: Callable[..., object], sentence: str) -> None:
    made = driven(function)
    made.observe(observation(0))
    made.wait_for(lambda: len(made.replies) == 1)
    assert made.refusal(0).code == "policy_failed"
    assert re.search(sentence, made.refusal(0).reason), made.refusal(0).reason


def test_a_reset_does_not_wait_for_it() -> None:
    plain = Plain()
    made = driven(plain)
    made.observe(observation(0, mark=9.0))
    made.finish()
    assert plain.inside.wait(WAIT_S)
    made.engine.reset("/a", 1, 1)
    made.finish()
    assert made.refusal(0).code == "reset" and made.result(1).accepted
    plain.go_on.set()


def test_a_virtual_clock_waits_for_it() -> None:
    def slow(images: Images, state: npt.NDArray[np.float32], instruction: str) -> npt.NDArray[np.float64]:
        time.sleep(0.05)
        return rows_of(state)

    profile = LatencyProfile("test", "a test", 50.0, Spread(400, 400), Spread(30, 30), Spread(0, 0))
    policy = ChunkAsStream(BlockingPolicy(slow, PLAIN))
    made = Served(Engine(policy, options(), ProfilePace(profile), lambda: 0.0, wait_for_futures=True))
    made.observe(observation(0))
    made.ask(flow(0, steps=5))
    made.until(0.5)
    assert len(made.steps()) == 5


def test_without_an_engine_it_is_run_like_any_other() -> None:
    plain = Plain()
    policy = BlockingPolicy(plain, PLAIN, 0.2)
    view = CacheView(torch.zeros(1, 1, 0, 2), torch.zeros(1, 1, 0, 2), 0)
    seen = PolicyObservation(np.zeros((2, 32, 32, 3), np.uint8), np.full(3, 2.0, np.float32), "go")
    made = prefill_whole(policy, seen, view)
    rows = run_slices(policy.denoise(view, made.context, 3, None, np.random.default_rng(0)))
    assert rows == pytest.approx(rows_of(seen.state))
    with pytest.raises(PolicyTimeout):
        prefill_whole(policy, replace(seen, state=np.full(3, 9.0, np.float32)), view)
    plain.go_on.set()


def test_a_process_ends_though_its_function_never_returns() -> None:
    code = (
        "import threading, numpy as np\n"
        "from streaming_vla.policies.call_thread import CallThread\n"
        "CallThread('policy x').call(threading.Event().wait, 60.0, TimeoutError())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
