"""A chunk policy on the engine: its rows, its guide, and what goes wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from toy import ToyPolicy, flow, observation, question, served

from kv_cache import CacheView
from streaming_vla.policies.chunk import ChunkAsStream, ChunkOptions
from streaming_vla.policies.contract import Slices
from streaming_vla.policies.guide import Guide, Matrix

torch.set_num_threads(1)


@dataclass
class Chunks(ToyPolicy):
    """A toy of chunks that returns what the test wants, and writes down its guides."""

    rows: object = None
    guides: list[Guide | None] = field(default_factory=list)
    views: list[CacheView] = field(default_factory=list)

    def denoise(
        self, view: CacheView, context: object, steps: int, guide: Guide | None, random: np.random.Generator
    ) -> Slices[Matrix]:
        """Take `steps` slices."""
        self.guides.append(guide)
        self.views.append(view)
        for step in range(steps):
            self.do(f"denoise {step}", float(view.values[0, 0, -1, 0]))
            if step + 1 < steps:
                yield None
        if self.rows is not None:
            return self.rows  # type: ignore[return-value]
        mark = float(view.values[0, 0, -1, 0]) / 1000
        return np.stack([np.arange(5) / 10, np.full(5, mark)], axis=1)


def stream(policy: Chunks | None = None, **options: int | bool) -> ChunkAsStream:
    """Return a chunk policy as a stream of three steps."""
    return ChunkAsStream(policy or Chunks(), ChunkOptions(**({"steps": 3} | options)))  # type: ignore[arg-type]


def test_the_context_is_reported_when_its_chunk_is_there() -> None:
    policy = Chunks(slices=2)
    made = served(stream(policy))
    report = made.prefilled(0, mark=7.0)
    assert report.chunk and report.trained_delay == 0
    assert policy.names() == ["slice 0", "slice 1", "denoise 0", "denoise 1", "denoise 2"]
    assert policy.views[0].tokens == 4, "the view ends with the observation's own tokens"
    request = made.ask(flow(0, step=1, steps=4))
    made.finish()
    assert [action.values.tolist() for action in made.actions()] == [[row / 10, 0.007] for row in range(1, 5)]
    assert {action.revision for action in made.actions()} == {request.revision}


def test_rows_of_the_old_chunk_go_between_the_slices_of_the_next() -> None:
    policy = Chunks(slices=1)
    made = served(stream(policy))
    made.prefilled(0)
    made.observe(observation(1))
    made.poll()
    for row in range(4):
        made.ask(flow(0, step=row))
        made.poll()
        made.poll()
        assert len(made.steps()) == row + 1
    made.finish()
    assert made.report(1).chunk


def test_a_row_that_fits_may_be_asked_for_while_the_chunk_is_denoised() -> None:
    made = served(stream(Chunks(slices=1)))
    made.observe(observation(0))
    for _ in range(4):
        made.poll()
    assert made.replies == []
    made.ask(flow(0, step=2, steps=3))
    made.finish()
    assert made.steps() == [(0, 2), (0, 3), (0, 4)]
    assert made.replies[0].value is made.report(0)


def test_planned_actions_of_the_robot_guide_the_chunk() -> None:
    policy = Chunks()
    made = served(stream(policy))
    made.prefilled(0)
    planned = np.stack([np.full(3, 0.25), np.zeros(3)], axis=1)
    made.ask(replace(flow(1, steps=5), planned=planned, delay=1))
    made.prefilled(1)
    assert policy.guides[0] is None
    guide = policy.guides[1]
    assert guide is not None and guide.target[:, 0].tolist() == [0.25, 0.25, 0.25, 0.0, 0.0]
    assert guide.weight[0] == 1.0 and (guide.weight[3:] == 0.0).all()


def test_what_is_planned_until_the_denoising_begins_counts() -> None:
    """The robot tells more while the prefill is under way."""
    policy = Chunks(slices=3)
    made = served(stream(policy))
    made.prefilled(0)
    made.observe(observation(1))
    made.poll()
    made.ask(replace(flow(1), planned=np.full((2, 2), 0.5), delay=0))
    made.finish()
    assert policy.guides[1] is not None


def test_a_chunk_is_a_plan() -> None:
    rows = np.array([[0.0, -1.0], [0.0, -1.0], [0.0, -1.0], [0.0, 0.0], [0.0, 0.5]])
    policy = Chunks(rows=rows, saliency=None)
    made = served(stream(policy))
    made.prefilled(0)
    made.engine.predict_saliency("/a", question(0, of="plan"), 1)
    made.engine.predict_saliency("/a", question(0), 2)
    made.finish()
    assert made.result(1).saliency == pytest.approx(1.5)  # type: ignore[union-attr]
    assert made.result(2).code == "no_predictor"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (np.zeros((4, 2)), "its chunk has shape (4, 2), expected (5, 2): horizon and action dimensions"),
        (np.full((5, 2), np.nan), "its chunk is not finite in row 0"),
        (np.zeros((5, 3)), "its chunk has shape (5, 3), expected (5, 2): horizon and action dimensions"),
    ],
    ids=["wrong horizon", "not a number", "wrong shape"],
)
def test_a_bad_chunk_is_one_sentence_and_the_old_context_goes_on(rows: object, sentence: str) -> None:
    policy = Chunks()
    made = served(stream(policy))
    made.prefilled(0)
    policy.rows = rows
    waiting = made.ask(flow(1))
    refusal = made.refused(1)
    assert refusal.code == "policy_failed"
    assert refusal.reason == f"policy toy in denoise failed with ValueError: {sentence}"
    assert made.answer(waiting).code == "no_context", "what was granted for it is answered too"
    assert made.stepped(flow(0)).accepted
    assert made.stepped(flow(1)).code == "no_context"
    policy.rows = None
    assert made.prefilled(2).stats.full_tokens == 12, "the history has seen the picture all the same"
    assert made.stepped(flow(2)).accepted


def test_an_error_between_two_steps_of_denoising_is_one_too() -> None:
    policy = Chunks()
    made = served(stream(policy))
    policy.hook = lambda name: 1 // 0 and None if name == "denoise 1" else None
    assert made.refused(0).reason.startswith("policy toy in denoise failed with ZeroDivisionError")


def test_a_new_episode_stops_the_denoising() -> None:
    policy = Chunks(slices=1)
    made = served(stream(policy))
    made.observe(observation(0))
    for _ in range(4):
        made.poll()
    assert policy.names() == ["slice 0", "denoise 0"]
    made.observe(observation(0, episode=2))
    made.finish()
    assert policy.names().count("denoise 2") == 1
    assert made.report(0).episode == 2
