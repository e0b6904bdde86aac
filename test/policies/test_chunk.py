"""A chunk policy behind the contract of a flow policy, and real-time chunking."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from kv_cache import CacheSpec, CacheView
from streaming_vla.policies.chunk import ChunkAsStream, ChunkOptions
from streaming_vla.policies.contract import (
    FlowQuery,
    PlannedActions,
    PolicyObservation,
    PolicySpec,
    Prefilled,
    Slices,
    run_slices,
)
from streaming_vla.policies.guide import Guide, Matrix
from streaming_vla.policies.layout import ActionLayout
from streaming_vla.policies.rtc import guide_towards, weights

H = 8
LAYOUT = ActionLayout(("dx", "grip"), (False, True), (-1.0, -1.0), (1.0, 1.0), (0.0, 0.0))
SPEC = PolicySpec("rows", ("front",), 8, 2, LAYOUT, 4, H, 1, CacheSpec(1, 1, 2), trained_delay=3)
VIEW = CacheView(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), 1)
SEEN = PolicyObservation(np.zeros((1, 8, 8, 3), np.uint8), np.zeros(2, np.float32), "go")


@dataclass
class Rows:
    """Gives what the test wants and writes down what it was asked."""

    rows: object = None
    spec: PolicySpec = SPEC
    asked: list[tuple[Any, int, Guide | None]] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
        """Leave a mark."""
        yield None
        return Prefilled(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), context="mark")

    def denoise(
        self, view: CacheView, context: Any, steps: int, guide: Guide | None, random: np.random.Generator
    ) -> Slices[Matrix]:
        """Take a slice a step."""
        self.asked.append((context, steps, guide))
        self.noise.append(float(random.standard_normal()))
        for _ in range(steps - 1):
            yield None
        return self.rows  # type: ignore[return-value]


def good() -> Matrix:
    """Return rows that count up, one beyond the limits."""
    return np.stack([np.arange(H) / 5, np.linspace(-0.5, 0.5, H)], axis=1)


def completed(stream: ChunkAsStream, seen: PolicyObservation = SEEN) -> Any:
    """Return what is kept of a context."""
    prefilled = run_slices(stream.prefill(seen, VIEW))
    return run_slices(stream.complete(seen, VIEW, prefilled.context))


def test_its_spec_says_that_it_is_a_chunk_whose_rows_belong_to_fixed_times() -> None:
    stream = ChunkAsStream(Rows())
    assert stream.spec.chunk and stream.spec.trained_delay == 0
    assert stream.spec.name == "rows" and not stream.policy.spec.chunk


def test_a_flow_step_is_a_row_whatever_the_flows_state_is() -> None:
    policy = Rows(good())
    stream = ChunkAsStream(policy, ChunkOptions(steps=3))
    kept = completed(stream)
    for row in range(H):
        for position in (0.0, 0.7):
            action = stream.flow_step(FlowQuery(VIEW, np.full(2, position), row, kept))
            assert action == pytest.approx(np.clip(good()[row], -1.0, 1.0)), "within the limits of the layout"
    assert stream.plan(VIEW, kept) == pytest.approx(np.clip(good(), -1.0, 1.0))
    assert policy.asked == [("mark", 3, None)], "what the prefill left comes back"


def test_denoising_is_one_slice_a_step() -> None:
    work = ChunkAsStream(Rows(good()), ChunkOptions(steps=4)).complete(SEEN, VIEW, None)
    slices = 1
    while True:
        try:
            next(work)
            slices += 1
        except StopIteration:
            break
    assert slices == 4


def test_the_same_seed_gives_the_same_noise() -> None:
    policies = [Rows(good()) for _ in range(3)]
    for policy, seed in zip(policies, (0, 0, 1), strict=True):
        stream = ChunkAsStream(policy, ChunkOptions(seed=seed))
        completed(stream)
        completed(stream)
    assert policies[0].noise == policies[1].noise != policies[2].noise
    assert policies[0].noise[0] != policies[0].noise[1], "each chunk has noise of its own"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (np.zeros((H - 1, 2)), r"its chunk has shape \(7, 2\), expected \(8, 2\)"),
        (np.zeros((H, 3)), r"its chunk has shape \(8, 3\), expected \(8, 2\)"),
        (np.zeros((1, H, 2)), r"shape \(1, 8, 2\)"),
        (None, r"shape \(\)"),
        (np.where(np.arange(2 * H).reshape(H, 2) >= 10, np.nan, 0.0), "its chunk is not finite in row 5"),
        (np.full((H, 2), np.inf), "not finite in row 0"),
        ("rows", "could not convert"),
    ],
)
def test_what_is_no_chunk_is_refused(rows: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        completed(ChunkAsStream(Rows(rows)))


def seen_with(planned: PlannedActions | None) -> PolicyObservation:
    """Return an observation with planned actions."""
    return PolicyObservation(SEEN.images, SEEN.state, "go", planned=lambda: planned)


def test_planned_actions_guide_the_next_chunk() -> None:
    policy = Rows(good())
    stream = ChunkAsStream(policy, ChunkOptions(beta=4.0, exact=True))
    planned = np.arange(10.0).reshape(5, 2)
    completed(stream, seen_with(PlannedActions(planned, 2)))
    [(_, _, guide)] = policy.asked
    assert guide is not None and (guide.beta, guide.exact) == (4.0, True)
    assert guide.target[:5] == pytest.approx(planned) and guide.target.shape == (H, 2)
    assert guide.weight == pytest.approx(weights(H, 2, 5))


@pytest.mark.parametrize(
    ("options", "planned"),
    [
        (ChunkOptions(guided=False), PlannedActions(np.ones((4, 2)), 1)),
        (ChunkOptions(), None),
        (ChunkOptions(), PlannedActions(np.zeros((0, 2)), 0)),
    ],
    ids=["switched off", "not told", "nothing planned"],
)
def test_a_chunk_may_be_free(options: ChunkOptions, planned: PlannedActions | None) -> None:
    policy = Rows(good())
    completed(ChunkAsStream(policy, options), seen_with(planned))
    assert policy.asked[0][2] is None


def test_nothing_is_looked_ahead_from() -> None:
    with pytest.raises(ValueError, match="policy rows has no look-ahead predictor"):
        ChunkAsStream(Rows()).look_ahead(torch.zeros(1), np.zeros(2))


def test_the_weights_of_real_time_chunking() -> None:
    """H = 8, d = 2, e = 5: two frozen rows, c = (5 - i) / 4 for i = 2, 3, 4, nothing after."""
    expected = [1.0, 1.0] + [c * (math.exp(c) - 1) / (math.e - 1) for c in (3 / 4, 2 / 4, 1 / 4)] + [0.0] * 3
    assert weights(8, 2, 5) == pytest.approx(expected)
    assert weights(8, 0, 0) == pytest.approx([0.0] * 8), "nothing overlaps"
    assert weights(8, 9, 5) == pytest.approx([1.0] * 5 + [0.0] * 3), "a delay beyond the overlap freezes all of it"
    assert weights(8, 0, 8)[0] < 1.0, "nothing is frozen"
    linear = [1.0, 1.0, 3 / 4, 2 / 4, 1 / 4, 0.0, 0.0, 0.0]
    assert weights(8, 2, 5, "linear") == pytest.approx(linear)
    with pytest.raises(ValueError, match="schedule is 'cosine', expected one of linear, exp"):
        weights(8, 2, 5, "cosine")


def test_more_is_planned_than_a_chunk_has_rows() -> None:
    guide = guide_towards(np.ones((12, 2)), 3, H)
    assert guide is not None and guide.target.shape == (H, 2)
    assert guide.weight == pytest.approx(weights(H, 3, H))


def test_the_gain_of_the_guidance() -> None:
    """min(beta, (1 - t) / (t r^2)), r^2 = (1 - t)^2 / (t^2 + (1 - t)^2)."""
    guide = Guide(good(), np.ones(H), beta=5.0, exact=False)
    assert guide.gain(0.0) == 5.0 and guide.gain(1.0) == 0.0
    assert guide.gain(0.5) == pytest.approx(0.5 / (0.5 * 0.5))
    assert guide.gain(0.8) == pytest.approx(0.2 / (0.8 * 0.04 / 0.68))
    assert guide.gain(0.01) == 5.0
    half = Guide(good(), np.full(H, 0.5), beta=5.0, exact=False)
    assert half.correction(good() - 0.2, 0.5) == pytest.approx(np.full((H, 2), 2.0 * 0.2 * 0.5))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weight": np.ones(H + 1)}, r"expected \[H, A\] and \[H\]"),
        ({"target": np.full((H, 2), np.nan)}, "not finite"),
        ({"weight": np.full(H, 1.5)}, "outside of 0 to 1"),
        ({"beta": -1.0}, "beta is -1.0"),
    ],
)
def test_a_guide_that_makes_no_sense_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Guide(**({"target": good(), "weight": np.ones(H)} | changes))
