"""Calibration on episodes: to a saving, to a success bound, and what the command refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from streaming_vla.cli import app
from streaming_vla.saliency.calibration import Calibration
from streaming_vla.saliency.decision import Verdict, judged
from streaming_vla.workbench.replay.run import ReplayJob
from streaming_vla.workbench.tuning.calibrating import NEAR, Outcome, by_saving, by_success, recording, tuned_to
from streaming_vla.workbench.virtual.setup import StreamSetup

ALWAYS = Outcome(Calibration(0.0, 1.0, 50), 100, 0.9, 0.1)


def tried(rate: float) -> Outcome:
    """Fewer observations and, below a rate of a half, less success."""
    return Outcome(Calibration(1.0 - rate, rate, 50), 100, 0.9 if rate >= 0.5 else 0.8, 0.06 + 0.04 * rate**2)


@pytest.mark.parametrize("fewer", [0.1, 0.25, 0.39])
def test_the_rate_is_halved_until_the_saving_is_the_wanted_one(fewer: float) -> None:
    best = by_saving(tried, ALWAYS, fewer)[-1]
    assert best.observations == pytest.approx((1 - fewer) * ALWAYS.observations, rel=NEAR)


def test_a_saving_out_of_reach_is_told_with_what_is_in_reach() -> None:
    with pytest.raises(ValueError, match=r"50 % fewer observations are out of reach.*at most 40 %"):
        by_saving(tried, ALWAYS, 0.5)


@pytest.mark.parametrize(("within", "rate"), [(0.0, 0.6), (0.15, 0.0)])
def test_the_lowest_rate_within_the_bound_is_taken(within: float, rate: float) -> None:
    assert by_success(tried, ALWAYS, within)[-1].calibration.rate == rate


def test_where_no_rate_keeps_the_success_mode_always_is_advised() -> None:
    with pytest.raises(ValueError, match=r"within 1\.0 points of .* \(100\.0 % of 100.*90\.0 %: keep mode always"):
        by_success(tried, Outcome(Calibration(0.0, 1.0, 50), 100, 1.0, 0.1), 0.01)


def test_an_outcome_tells_how_far_its_success_can_be_trusted() -> None:
    assert str(ALWAYS) == "rate 1.00: 90.0 % of 100 episodes (95 %: 82.6 to 94.5)"


@pytest.mark.parametrize("when", ["salient", "calm"])
def test_saliencies_are_recorded_with_a_threshold_that_never_passes(when: str) -> None:
    monitor = recording(StreamSetup().asking("adaptive"), when).monitor
    gate = monitor.decision()._gate  # type: ignore[attr-defined]
    assert all(judged(value, gate, when).verdict is Verdict.SUPPRESS for value in (0.0, 1.0, 1e5))
    assert tuned_to(StreamSetup().asking("adaptive"), Calibration(0.3, 0.5, 50)).monitor.saliency_threshold == 0.3


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], "give one of --rate, --fewer, --within, got none"),
        (["--rate", "0.5", "--fewer", "0.3"], "got --rate, --fewer"),
        (["--rate", "2"], "--rate is 2.0"),
        (["--rate", "0.5", "--mode", "always"], "'always' has no saliency threshold"),
        (["some_bag", "--fewer", "0.3"], "bags know --rate only"),
        (["/no/such/bag", "--rate", "0.5"], "/no/such/bag"),
    ],
)
def test_the_command_refuses_in_one_sentence(given: list[str], sentence: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["calibrate", *given, "--out", str(tmp_path / "saliency.yaml")])
    assert result.exit_code == 1 and sentence in " ".join(result.output.split())
    assert not (tmp_path / "saliency.yaml").exists()


def test_a_larger_saving_needs_a_lower_rate() -> None:
    rates = [by_saving(tried, ALWAYS, fewer)[-1].calibration.rate for fewer in np.linspace(0.05, 0.35, 4)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    ("given", "model", "predictor"),
    [
        ([], "own.safetensors", "mine"),
        (["--model", "other"], "other", "auto"),
        (["--model", "other", "--saliency-model", ""], "other", ""),
    ],
)
def test_bags_are_replayed_with_the_model_of_the_parameter_file(
    given: list[str], model: str, predictor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[ReplayJob] = []

    def judged_bags(bags: list[Path], job: ReplayJob, *_: object) -> list[list[tuple[int, float]]]:
        jobs.append(job)
        return [[(0, float(value)) for value in range(100)]]

    monkeypatch.setattr("streaming_vla.workbench.tuning.calibrating.judged_bags", judged_bags)
    params = tmp_path / "my_robot.yaml"
    params.write_text("inference: {ros__parameters: {model: own.safetensors, saliency_model: mine}}")
    CliRunner().invoke(
        app, ["calibrate", "bag", "--params", str(params), "--rate", "0.5", "--out", str(tmp_path / "out.yaml"), *given]
    )
    inference = jobs[0].values()["inference"]
    assert (inference["model"], inference["saliency_model"]) == (model, predictor)
