"""Latency profiles: the shipped ones, what they draw, and one sentence for everything that is wrong in one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from streaming_vla.engine.jobs import Job, Work
from streaming_vla.engine.latency_profile import ProfileError, Spread, find_profile, load_profile
from streaming_vla.engine.pace import ProfilePace
from streaming_vla.policies.shipped import shipped_folders

GOOD = {
    "description": "a test",
    "control_period_ms": "20.0",
    "observe": "{median_ms: 10.0, p99_ms: 50.0}",
    "flow_step": "{median_ms: 1.0, p99_ms: 1.0}",
    "transport": "{median_ms: 2.0, p99_ms: 10.0}",
    "loss": "0.02",
    "resend_ms": "40.0",
    "prefill_slices": "4",
}


def written(folder: Path, **changes: str | None) -> Path:
    """Write a profile with changes; None leaves a key out."""
    path = folder / "mine.yaml"
    entries = {key: value for key, value in (GOOD | changes).items() if value is not None}
    path.write_text("".join(f"{key}: {value}\n" for key, value in entries.items()))
    return path


def test_the_shipped_profiles_load_and_the_papers_numbers_are_in_them() -> None:
    shipped = {path.stem for path in shipped_folders("config/profiles")[-1].glob("*.yaml")}
    assert {"paper", "measured", "jetson", "jetson_throttled", "remote_wifi", "remote_wifi_gone"} == shipped
    profiles = {name: find_profile(name) for name in shipped}
    paper = profiles["paper"]
    assert (paper.observe.median_ms, paper.flow_step.median_ms, paper.control_period_ms) == (59.0, 17.2, 27.0)
    wifi = profiles["remote_wifi"]
    assert wifi.transport.p99_ms == 5 * wifi.transport.median_ms and wifi.loss == 0.02
    assert all(profile.description for profile in profiles.values())


def test_draws_have_the_median_and_the_percentile_asked_for() -> None:
    random = np.random.default_rng(1)
    drawn_ms = [1000.0 * Spread(10.0, 50.0).draw_s(random) for _ in range(20_000)]
    assert np.percentile(drawn_ms, 50) == pytest.approx(10.0, rel=0.03)
    assert np.percentile(drawn_ms, 99) == pytest.approx(50.0, rel=0.06)
    assert {Spread(7.0, 7.0).draw_s(random) for _ in range(3)} == {0.007}


def test_a_lost_message_comes_later(tmp_path: Path) -> None:
    profile = load_profile(written(tmp_path, loss="0.25", transport="{median_ms: 1.0, p99_ms: 1.0}"))
    random = np.random.default_rng(2)
    resent = np.round((np.array([profile.transport_s(random, 0.0) for _ in range(20_000)]) - 0.001) / 0.04)
    assert np.mean(resent == 0) == pytest.approx(0.75, abs=0.01)
    assert np.mean(resent) == pytest.approx(0.25 / 0.75, rel=0.05), "each try is lost with the same chance"


def test_a_network_that_is_gone_keeps_what_is_sent_until_it_is_back(tmp_path: Path) -> None:
    spell = "{every_s: 60.0, begin_s: 1.5, seconds: 1.0}"
    profile = load_profile(written(tmp_path, gone=spell, transport="{median_ms: 1.0, p99_ms: 1.0}", loss=None))
    random = np.random.default_rng(0)
    for now, arrives in ((0.0, 0.001), (1.49, 1.491), (1.5, 2.501), (2.2, 2.501), (2.5, 2.501), (61.6, 62.501)):
        assert now + profile.transport_s(random, now) == pytest.approx(arrives)


def test_a_throttled_model_takes_longer_for_a_while(tmp_path: Path) -> None:
    spell = "{every_s: 60.0, begin_s: 1.5, seconds: 10.0}"
    profile = load_profile(written(tmp_path, throttled=spell, throttled_times="2.0"))
    assert [profile.times(now) for now in (0.0, 1.5, 11.4, 11.5, 62.0)] == [1.0, 2.0, 2.0, 1.0, 2.0]
    for work in (Work.PREFILL, Work.FLOW_STEP):
        job = cast(Job, SimpleNamespace(work=work))
        calm_s, hot_s = (ProfilePace(profile, 1).slices_s(job, now) for now in (0.0, 5.0))
        assert hot_s == pytest.approx([2.0 * each_s for each_s in calm_s])


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    profile = load_profile(written(tmp_path))
    first, second = (
        [profile.transport_s(random, 0.0) for _ in range(50)]
        for random in (np.random.default_rng(3), np.random.default_rng(3))
    )
    assert first == second


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"loss": "1.0"}, "loss is 1.0, expected a share"),
        ({"loss": "true"}, "loss is True, expected a number"),
        ({"resend_ms": None}, "resend_ms is 0 with a loss of 0.02"),
        ({"control_period_ms": "0"}, "control_period_ms is 0.0, expected 1 to 60000 ms"),
        ({"observe": "{median_ms: 10.0, p99_ms: 5.0}"}, "observe: median_ms is 10.0 and p99_ms 5.0"),
        ({"observe": "12"}, "observe is 12, expected {median_ms: number, p99_ms: number}"),
        ({"flow_step": None}, "key 'flow_step' is missing"),
        ({"flow_stepp": "1"}, "there is no key 'flow_stepp' (did you mean 'flow_step'?)"),
        ({"transport": "{median_ms: .nan, p99_ms: 1.0}"}, "transport: median_ms is nan"),
        ({"prefill_slices": "1.5"}, "prefill_slices is 1.5, expected a whole number"),
        ({"prefill_slices": "-1"}, "prefill_slices is -1, expected 0 or more"),
        ({"description": "3"}, "description is 3, expected text"),
        ({"gone": "{every_s: 60, seconds: 1}"}, "gone is {'every_s': 60, 'seconds': 1}, expected {every_s: number"),
        ({"gone": "{every_s: 60, begin_s: 1, seconds: 60}"}, "gone: 60.0 s from 1.0 s on in every 60.0 s, expected"),
        ({"throttled": "{every_s: .inf, begin_s: 1, seconds: 6}"}, "throttled: 6.0 s from 1.0 s on in every inf s"),
        ({"throttled_times": "0.5"}, "throttled_times is 0.5, expected 1 to 100"),
    ],
)
def test_a_wrong_profile_is_refused_in_one_sentence(
    tmp_path: Path, changes: dict[str, str | None], expected: str
) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ProfileError) as refused:
        load_profile(path)
    assert str(path) in str(refused.value) and expected in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["[1, 2", "- 1\n", ""])
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=r"paper\.yaml") as refused:
        load_profile(path)
    assert "\n" not in str(refused.value)


def test_names_are_looked_up(tmp_path: Path) -> None:
    assert find_profile(str(written(tmp_path))).name == "mine"
    with pytest.raises(ProfileError, match=r"'papr' is unknown: choose one of .*paper"):
        find_profile("papr")
    with pytest.raises(ProfileError, match="cannot be read"):
        find_profile(str(tmp_path / "none.yaml"))
