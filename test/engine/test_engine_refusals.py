"""What cannot be served becomes one counted sentence, and the engine goes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from toy import SIZE, ToyPolicy, finish, flow, jpeg, observation, observe, options, refusal_of, report_of, step

from streaming_vla.engine.engine import Engine
from streaming_vla.engine.images import MAX_JPEG_BYTES, jpeg_size
from streaming_vla.engine.values import EncodedObservation

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
    engine = Engine(policy, options())
    answer = observe(engine, spoil(observation(0)))
    finish(engine)
    assert refusal_of(answer).code == code
    assert re.search(sentence, refusal_of(answer).reason), refusal_of(answer).reason
    assert engine.counts() == {code: 1}
    assert not policy.log
    good = observe(engine, observation(0))
    finish(engine)
    assert report_of(good).sequence == 0


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
    engine = Engine(policy, options())
    first = observe(engine, observation(0, mark=3.0))
    finish(engine)
    report_of(first)
    policy.hook = fail_at(where, error)
    failed = observe(engine, observation(1, mark=9.0))
    finish(engine)
    assert refusal_of(failed).code == "policy_failed"
    assert "policy toy in prefill failed with" in refusal_of(failed).reason
    still = step(engine, flow(0))
    again = observe(engine, observation(1, mark=4.0))
    finish(engine)
    np.testing.assert_allclose(still.get().values, [0.003, 0.003], rtol=1e-6)
    assert report_of(again).stats.full_tokens == 8


def test_an_error_in_a_flow_step_is_a_refusal() -> None:
    policy = ToyPolicy(hook=fail_at("flow 1", ZeroDivisionError("no time")))
    engine = Engine(policy, options())
    observe(engine, observation(0))
    answers = [step(engine, flow(0, index=index)) for index in (0, 1)]
    finish(engine)
    bad = [step(engine, flow(0, index=1))]
    finish(engine)
    assert not answers[0].get().accepted  # it came before there was a context
    assert bad[0].get().reason == "policy toy in flow_step failed with ZeroDivisionError: no time"
    good = step(engine, flow(0, index=1))
    finish(engine)
    assert good.get().accepted


@pytest.mark.parametrize(
    "values", [np.zeros(3), np.array([0.0, np.nan]), {"dx": 0.0}], ids=["shape", "not finite", "type"]
)
def test_an_action_that_makes_no_sense_is_not_passed_on(values: object, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = ToyPolicy()
    monkeypatch.setattr(policy, "flow_step", lambda *_request: values)
    engine = Engine(policy, options())
    observe(engine, observation(0))
    finish(engine)
    answer = step(engine, flow(0))
    finish(engine)
    assert answer.get().code == "policy_failed"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (flow(0, index=5), "bad_index"),
        (flow(0, index=-1), "bad_index"),
        (replace(flow(0), position=np.zeros(3)), "bad_position"),
        (replace(flow(0), position=np.array([0.0, np.inf])), "bad_position"),
        (flow(3), "no_context"),
    ],
    ids=["past the horizon", "below zero", "shape", "not finite", "no such context"],
)
def test_flow_requests_that_make_no_sense(request_: object, code: str) -> None:
    policy = ToyPolicy()
    engine = Engine(policy, options())
    observe(engine, observation(0))
    finish(engine)
    answer = step(engine, request_)  # type: ignore[arg-type]
    finish(engine)
    assert answer.get().code == code and answer.get().reason and not answer.get().accepted
    assert engine.counts()[code] == 1 and "flow" not in " ".join(policy.names())


def test_a_policy_that_makes_another_number_of_tokens() -> None:
    engine = Engine(ToyPolicy(tokens=5), options())
    answer = observe(engine, observation(0))
    finish(engine)
    assert "made 5 tokens, it declares 4" in refusal_of(answer).reason


def test_sessions_are_bounded() -> None:
    engine = Engine(ToyPolicy(), options(max_sessions=2))
    answers = [observe(engine, observation(0, session=name)) for name in ("/a", "/b", "/c")]
    missing = step(engine, flow(0), "/d")
    finish(engine)
    assert report_of(answers[1]).session == "/b"
    refusal = refusal_of(answers[2])
    assert refusal.code == "sessions_full" and "/a, /b are served; raise max_sessions" in refusal.reason
    assert missing.get().code == "no_session"


def test_a_full_cache_says_what_to_do() -> None:
    engine = Engine(ToyPolicy(), options(cache_policy="full", cache_capacity=8))
    for sequence in range(3):
        answer = observe(engine, observation(sequence))
        finish(engine)
    assert refusal_of(answer).code == "cache_full" and "use cache policy window" in refusal_of(answer).reason
    kept = step(engine, flow(1))
    finish(engine)
    assert kept.get().accepted


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
    engine = Engine(ToyPolicy(), options())
    good = np.frombuffer(jpeg(), np.uint8)
    for sequence in range(100):
        data = good.copy()
        data[random.integers(2, len(data), 5)] = random.integers(0, 256, 5)
        answer = observe(engine, with_image(data.tobytes())(observation(sequence)))
        finish(engine)
        if not hasattr(answer.get(), "tokens"):
            assert refusal_of(answer).code in ("image_jpeg", "image_size")
