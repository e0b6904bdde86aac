"""What cannot be served becomes one counted sentence, and the engine goes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from toy import SIZE, Served, ToyPolicy, flow, jpeg, observation, options, served

from streaming_vla.engine.engine import Engine
from streaming_vla.engine.images import MAX_JPEG_BYTES, jpeg_size
from streaming_vla.engine.latency_profile import LatencyProfile, Spread
from streaming_vla.engine.pace import ProfilePace
from streaming_vla.engine.values import ContextReport, EncodedObservation
from streaming_vla.machines.events import GenerateRequest

torch.set_num_threads(1)


def with_image(data: bytes) -> Callable[[EncodedObservation], EncodedObservation]:
    """Return what puts `data` in the place of the second camera's picture."""
    return lambda seen: replace(seen, images=(seen.images[0], data))


def with_state(*state: float) -> Callable[[EncodedObservation], EncodedObservation]:
    """Return what puts another state in."""
    return lambda seen: replace(seen, state=np.array(state, np.float32))


def wide_jpeg() -> bytes:
    """Return a JPEG that claims 60 000 x 60 000 pixels."""
    data = bytearray(jpeg())
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = (60_000).to_bytes(2, "big") * 2
    return bytes(data)


MALFORMED = {
    "no picture data": (with_image(b""), "image_jpeg", "camera wrist is not a complete JPEG"),
    "not a JPEG": (with_image(b"PNG" * 100), "image_jpeg", "camera wrist is not a complete JPEG"),
    "cut off": (with_image(jpeg()[:-40]), "image_jpeg", "camera wrist is not a complete JPEG"),
    "only markers": (with_image(b"\xff\xd8" + b"\xff" * 9 + b"\xff\xd9"), "image_jpeg", "not a complete JPEG"),
    "a header alone": (
        with_image(jpeg()[: jpeg().index(b"\xff\xda")] + b"\xff\xd9"),
        "image_jpeg",
        "camera wrist has a JPEG header but cannot be decoded",
    ),
    "too many bytes": (with_image(jpeg() + bytes(MAX_JPEG_BYTES)), "image_jpeg", f"{MAX_JPEG_BYTES} are allowed"),
    "another size": (with_image(jpeg(size=16)), "image_size", "camera wrist is 16 x 16 pixels, .* 32 x 32"),
    "a bomb": (with_image(wide_jpeg()), "image_size", "60000 x 60000 pixels"),
    "one camera": (lambda seen: replace(seen, images=seen.images[:1]), "image_count", "1 pictures, .* front, wrist"),
    "three cameras": (lambda seen: replace(seen, images=seen.images + seen.images[:1]), "image_count", "3 pictures"),
    "short state": (with_state(1.0), "state_size", r"shape \(1,\), the policy needs \(3,\)"),
    "state not finite": (with_state(1.0, float("nan"), 0.0), "state_not_finite", "nan"),
}


@pytest.mark.parametrize("case", MALFORMED, ids=str)
def test_a_malformed_observation_is_refused(case: str) -> None:
    spoil, code, sentence = MALFORMED[case]
    policy = ToyPolicy()
    made = served(policy)
    made.observe(spoil(observation(0)))
    made.finish()
    assert made.refusal(0).code == code
    assert re.search(sentence, made.refusal(0).reason), made.refusal(0).reason
    assert made.engine.counts() == {code: 1}
    assert not policy.log
    assert made.prefilled(0).sequence == 0


def fail_at(name: str, error: Exception) -> Callable[[str], None]:
    """Return a hook that raises `error` once, at a piece of work."""
    left = [error]

    def hook(now: str) -> None:
        if now == name and left:
            raise left.pop()

    return hook


@pytest.mark.parametrize("where", ["slice 0", "slice 2"])
@pytest.mark.parametrize("error", [RuntimeError("shapes\nand more"), MemoryError(), StopIteration(1)], ids=repr)
def test_an_error_in_a_prefill_is_a_refusal_and_leaves_the_history_alone(where: str, error: Exception) -> None:
    policy = ToyPolicy()
    made = served(policy)
    made.prefilled(0, mark=3.0)
    policy.hook = fail_at(where, error)
    failed = made.refused(1, mark=9.0)
    assert failed.code == "policy_failed"
    assert "policy toy in prefill failed with" in failed.reason
    np.testing.assert_allclose(made.stepped(flow(0)).values, [0.003, 0.003], rtol=1e-6)
    assert made.prefilled(1, mark=4.0).stats.full_tokens == 8


def test_an_error_in_a_flow_step_is_a_refusal_that_ends_the_flow() -> None:
    policy = ToyPolicy(hook=fail_at("flow 1", ZeroDivisionError("no time")))
    made = served(policy)
    asked = made.ask(flow(0, steps=4))  # before there is a context: its steps are done once it is there
    made.prefilled(0)
    first, failed = made.actions()
    assert first.accepted and (failed.context, failed.revision, failed.step) == (0, asked.revision, 1)
    assert failed.reason == "policy toy in flow_step failed with ZeroDivisionError: no time"
    assert failed.values.shape == (0,)
    assert made.stepped(flow(0, step=1)).accepted
    assert made.engine.counts() == {"policy_failed": 1, "served.generate": 2, "served.prefill": 1}


@pytest.mark.parametrize(
    "values", [np.zeros(3), np.array([0.0, np.nan]), {"dx": 0.0}, None], ids=["shape", "not finite", "type", "none"]
)
def test_an_action_that_makes_no_sense_is_not_passed_on(values: object, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = ToyPolicy()
    monkeypatch.setattr(policy, "flow_step", lambda *_request: values)
    made = served(policy, contexts=1)
    assert made.stepped(flow(0)).code == "policy_failed"
    assert made.engine.flow_latency.smoothed_s is None, "nobody learns from it how long a step takes"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (flow(0, step=5), "bad_step"),
        (flow(0, step=-1), "bad_step"),
        (replace(flow(0), position=np.zeros(3)), "bad_position"),
        (replace(flow(0), position=np.array([0.0, np.inf])), "bad_position"),
        (replace(flow(0), state=np.zeros(2)), "bad_state"),
        (replace(flow(0), state=np.array([0.0, np.nan, 0.0])), "bad_state"),
        (replace(flow(0), pending=np.zeros(3)), "bad_pending"),
        (replace(flow(0), sent=np.zeros(3)), "bad_sent"),
        (replace(flow(0), planned=np.zeros((4, 3))), "bad_planned"),
        (replace(flow(0), planned=np.full((4, 2), np.nan)), "bad_planned"),
        (replace(flow(0), planned=np.zeros((4, 2)), delay=-1), "bad_planned"),
        (flow(0, episode=0), "old_episode"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_requests_to_generate_that_make_no_sense(request_: GenerateRequest, code: str) -> None:
    policy = ToyPolicy()
    made = served(policy, contexts=1)
    answer = made.stepped(request_)
    assert answer.code == code and not answer.accepted and answer.values.shape == (0,)
    assert made.engine.counts()[code] == 1 and "flow" not in " ".join(policy.names())
    assert made.stepped(flow(0)).accepted


def test_a_context_that_was_left_out_is_refused() -> None:
    made = served(ToyPolicy(), contexts=1)
    made.prefilled(4)
    answer = made.stepped(flow(3))
    assert answer.code == "no_context" and "context 3 of /a is not kept, there is 0, 4" in answer.reason


def test_granted_steps_of_a_context_that_is_kept_no_longer_are_refused() -> None:
    """Prefills are faster than flow steps here, and run beside them."""
    profile = LatencyProfile("test", "a test", 50.0, Spread(10.0, 10.0), Spread(100.0, 100.0), Spread(0.0, 0.0))
    made = Served(Engine(ToyPolicy(), options(contexts_kept=1), ProfilePace(profile), lambda: 0.0))
    made.observe(observation(0))
    made.until(0.02)
    asked = made.ask(flow(0, steps=5))
    made.until(0.03)
    made.observe(observation(1))
    made.until(0.05)
    [lost] = made.actions()
    assert (lost.context, lost.revision, lost.step) == (0, asked.revision, 1)
    assert (lost.code, lost.reason) == ("no_context", "context 0 of /a is not kept any more")
    made.until(9.0)
    assert made.steps() == [(0, 0)], "the step that was in work ends"


@pytest.mark.parametrize("tokens", [1, 3, 4])
def test_a_prefill_may_make_fewer_tokens_than_the_most(tokens: int) -> None:
    made = served(ToyPolicy(tokens=tokens))
    assert made.prefilled(0).tokens == tokens
    assert made.stepped(flow(0)).accepted


@pytest.mark.parametrize("tokens", [0, 5])
def test_a_policy_that_makes_no_token_or_more_than_it_declares(tokens: int) -> None:
    made = served(ToyPolicy(tokens=tokens))
    assert f"made {tokens} tokens, it declares at most 4" in made.refused(0).reason


def test_an_error_of_the_engine_itself_is_a_refusal_and_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    made = served(ToyPolicy(), contexts=1)
    with monkeypatch.context() as broken:
        broken.setattr(made.engine.sessions, "open", lambda name: 1 // 0)
        made.engine.reset("/a", 2, 1)
        made.engine.retune(options())
        made.finish()
    assert made.result(1).code == "engine_failed"
    assert made.result(1).reason == "reset failed with ZeroDivisionError: integer division or modulo by zero"
    assert made.stepped(flow(0)).accepted


def test_sessions_are_bounded() -> None:
    made = served(ToyPolicy(), max_sessions=2)
    for name in ("/a", "/b", "/c"):
        made.observe(observation(0, session=name))
    made.finish()
    assert made.report(0, "/b").session == "/b"
    refusal = made.refusal(0, "/c")
    assert refusal.code == "sessions_full" and "/a, /b are served; raise max_sessions" in refusal.reason
    assert made.stepped(flow(0), "/d").code == "sessions_full"


def test_a_full_cache_says_what_to_do() -> None:
    made = served(ToyPolicy(), contexts=2, cache_policy="full", cache_capacity=8)
    refusal = made.refused(2)
    assert refusal.code == "cache_full" and "use cache policy window" in refusal.reason
    assert made.stepped(flow(1)).accepted


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"max_sessions": 0}, "max_sessions is 0"),
        ({"contexts_kept": 0}, "contexts_kept is 0"),
        ({"cache_policy": "best"}, "cache_policy' is 'best', expected one of full, window"),
        ({"cache_recent": 0}, "recent is 0"),
    ],
)
def test_options_name_what_is_wrong(changes: dict[str, int | str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        options(**changes)


def test_caches_that_cannot_work_are_refused_at_the_start() -> None:
    for changes in ({"cache_recent": 3}, {"cache_policy": "full", "cache_capacity": 3}):
        with pytest.raises(ValueError, match="one observation of policy toy has 4 tokens"):
            Engine(ToyPolicy(), options(**changes))
    with pytest.raises(MemoryError, match="100 sessions"):
        Engine(ToyPolicy(), options(max_sessions=100, cache_recent=1_000_000))


def test_the_size_of_a_jpeg_is_in_its_header() -> None:
    picture = np.zeros((24, SIZE, 3), np.uint8)
    for flags in ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 1]):
        data = cv2.imencode(".jpg", picture, flags)[1].tobytes()
        assert jpeg_size(data) == (SIZE, 24)
        assert jpeg_size(data[:2] + b"\xff" + data[2:]) == (SIZE, 24)  # fill bytes are allowed before a marker
        for cut in range(data.index(b"\xff\xda") + 2):
            assert jpeg_size(data[:cut]) in (None, (SIZE, 24))


def test_random_bytes_are_refused_and_nothing_else() -> None:
    random = np.random.default_rng(0)
    made = served(ToyPolicy())
    good = np.frombuffer(jpeg(), np.uint8)
    codes = set()
    for sequence in range(100):
        data = good.copy()
        data[random.integers(2, len(data), 5)] = random.integers(0, 256, 5)
        made.observe(with_image(data.tobytes())(observation(sequence)))
        made.finish()
        outcome = made.replies[-1].value
        codes.add("" if isinstance(outcome, ContextReport) else made.refusal(sequence).code)
    assert codes == {"", "image_jpeg", "image_size"}
