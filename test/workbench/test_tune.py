"""The search: what it takes, where it stops, and the files that it leaves."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from episodes import make_episode

from streaming_vla.bags.errors import BagError
from streaming_vla.parameters.load import read
from streaming_vla.parameters.nodes import SuiteOptions
from streaming_vla.workbench.replay.live import LiveEpisode
from streaming_vla.workbench.replay.replay import Replayed, ReplayedEpisode
from streaming_vla.workbench.replay.run import ReplayJob
from streaming_vla.workbench.report.records import CacheAt
from streaming_vla.workbench.tuning import study as study_module
from streaming_vla.workbench.tuning import subject as subject_module
from streaming_vla.workbench.tuning import tune as module
from streaming_vla.workbench.tuning.effects import without_effect
from streaming_vla.workbench.tuning.files import verdict, write_tuned
from streaming_vla.workbench.tuning.study import TuneOptions, open_study
from streaming_vla.workbench.tuning.tune import Point, Score, Tuned, changes_of, tune

BUDGET = "cache_budget has no effect in these bags: nothing had to leave for want of room."
BAGS = [Path("one"), Path("two"), Path("three")]


@pytest.fixture
def landscape(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Path], ReplayJob]]:
    """Replace replays by a formula: a longer silence costs less, and is better up to 3 s."""
    asked: list[tuple[list[Path], ReplayJob]] = []

    def replay_all(bags: list[Path], job: ReplayJob) -> list[Replayed]:
        asked.append((list(bags), job))
        return []

    def score(_: list[Replayed], _absolute: object) -> Score:
        values = {name: value for _, name, value in asked[-1][1].changes}
        silence_s = values.get("max_silence_s", 2.0)
        return Score(4.0 / silence_s, abs(silence_s - 3.0) + 0.1)

    monkeypatch.setattr(module, "replay_all", replay_all)
    monkeypatch.setattr(module, "score", score)
    return asked


def options(folder: Path, trials: int = 24) -> TuneOptions:
    return TuneOptions(trials, 1, "", folder)


def test_what_is_better_on_unseen_bags_is_taken(tmp_path: Path, landscape: list[tuple[list[Path], ReplayJob]]) -> None:
    found = tune(BAGS, ReplayJob(), options(tmp_path), lambda: None)
    assert found.trials[0] == Score(2.0, 1.1)  # the parameter file as it is
    assert found.tuned.better(found.default)
    assert dict((name, value) for _, name, value in found.values)["max_silence_s"] > 2.0
    assert {tuple(bags) for bags, _ in landscape} == {(BAGS[0], BAGS[1]), (BAGS[2],)}
    assert landscape[0][0] == BAGS[:2]
    assert "observations go from 2.00" in verdict(found)


def test_better_is_no_worse_at_both() -> None:
    assert Score(1.0, 0.5).better(Score(1.0, 0.6)) and Score(0.9, 0.5).better(Score(1.0, 0.5))
    assert not Score(1.0, 0.5).better(Score(1.0, 0.5)) and not Score(0.9, 0.6).better(Score(1.0, 0.5))


def test_what_belongs_together_is_changed_together() -> None:
    changes = changes_of({"/**.lead_actions": 3, "saliency_monitor.max_silence_s": 1.5})
    suite = ReplayJob(changes=changes).suite()
    assert {suite.generator.lead_actions, suite.saliency_monitor.lead_actions, suite.executor.lead_actions} == {3}
    assert suite.saliency_monitor.max_silence_s == 1.5


def test_a_file_outside_of_the_searched_ranges_is_what_must_be_beaten(
    tmp_path: Path, landscape: list[tuple[list[Path], ReplayJob]]
) -> None:
    job = ReplayJob(changes=(("saliency_monitor", "max_silence_s", 40.0),))  # the search ends at 4
    found = tune(BAGS, job, options(tmp_path, 4), lambda: None)
    assert found.trials[0] == Score(0.1, 37.1) == found.default
    assert len(found.trials) == 5  # itself, and every trial


def test_a_bag_is_known_by_where_it_is(tmp_path: Path, landscape: list[tuple[list[Path], ReplayJob]]) -> None:
    tune(BAGS, ReplayJob(), options(tmp_path, 2), lambda: None, [BAGS[0].absolute()])
    assert {tuple(bags) for bags, _ in landscape} == {(*BAGS[1:],), (BAGS[0].absolute(),)}


def test_bags_to_judge_on_can_be_named(tmp_path: Path, landscape: list[tuple[list[Path], ReplayJob]]) -> None:
    tune(BAGS, ReplayJob(), options(tmp_path, 2), lambda: None, [Path("judge")])
    assert {tuple(bags) for bags, _ in landscape} == {tuple(BAGS), (Path("judge"),)}


def test_a_search_that_was_stopped_goes_on(tmp_path: Path, landscape: list[tuple[list[Path], ReplayJob]]) -> None:
    rounds: list[int] = []
    tune(BAGS, ReplayJob(), options(tmp_path, 4), lambda: rounds.append(1))
    found = tune(BAGS, ReplayJob(), options(tmp_path, 6), lambda: rounds.append(1))
    assert len(rounds) == 6
    assert len(found.trials) == 6


def test_trials_of_another_search_are_refused(
    tmp_path: Path, landscape: list[tuple[list[Path], ReplayJob]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(BAGS, ReplayJob(), options(tmp_path, 2), lambda: None)
    with pytest.raises(ValueError, match=r"study\.journal were made with other bags, expected .* name another one"):
        tune([*BAGS[:2], Path("four"), Path("five")], ReplayJob(), options(tmp_path, 4), lambda: None)
    changed = ReplayJob(changes=(("saliency_monitor", "max_silence_s", 1.0),))
    with pytest.raises(ValueError, match="with other parameters, expected"):
        tune(BAGS, changed, options(tmp_path, 4), lambda: None)
    monkeypatch.setattr(subject_module, "file_digest", lambda path: f"another {path.name}")
    with pytest.raises(ValueError, match="with other weights, expected"):
        tune(BAGS, ReplayJob(), options(tmp_path, 4), lambda: None)
    assert len(landscape) == 3  # two trials, and the defaults on the bag that was kept back


WORKER = """
import sys, time
from pathlib import Path
from streaming_vla.workbench.tuning import tune as module
from streaming_vla.workbench.replay.run import ReplayJob
from streaming_vla.workbench.tuning.study import TuneOptions

def replay_all(bags, job):
    time.sleep(0.1)
    return [dict((name, value) for _, name, value in job.changes)]

module.replay_all = replay_all
module.without_effect = lambda replays, suite: []
module.score = lambda replays, absolute: module.Score(1.0, abs(replays[0].get("max_silence_s", 2.0) - 3.0))
options = TuneOptions(6, 1, sys.argv[1], Path(sys.argv[2]))
rounds = []
options.folder.mkdir()
while len([each for each in options.folder.parent.iterdir() if each.is_dir()]) < 2:  # both begin together
    time.sleep(0.001)
module.tune([Path("one"), Path("two"), Path("three")], ReplayJob(), options, lambda: rounds.append(1))
"""


@pytest.mark.timeout(300)
def test_two_machines_share_a_study(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    command = [sys.executable, "-c", WORKER, storage]
    machines = [subprocess.Popen([*command, str(tmp_path / name)], stderr=subprocess.PIPE, text=True) for name in "ab"]
    try:
        for machine in machines:
            _, said = machine.communicate(timeout=250)
            assert machine.returncode == 0, said
    finally:
        for machine in machines:
            machine.kill()
    study = open_study(TuneOptions(6, 1, storage, tmp_path))
    trials = study.get_trials()
    assert 6 <= len(trials) <= 7  # both may begin the last one
    drawn = [tuple(trial.params.items()) for trial in trials]
    assert len(set(drawn)) >= len(drawn) - 1  # the first may find no trial yet and both begin with the parameter file
    began = sorted((trial.datetime_start, trial.datetime_complete) for trial in trials)
    assert any(later[0] < earlier[1] for earlier, later in pairwise(began)), "only one of them worked"


def test_a_database_that_is_none_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "OPENING_PERIOD_S", 0.0)
    with pytest.raises(ValueError, match=r"database 'sqlite:////nowhere/study.db' cannot be opened: unable to open"):
        open_study(TuneOptions(1, 1, "sqlite:////nowhere/study.db", tmp_path), create=True)


def test_a_url_of_no_database_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'study.db' is no URL of a database, expected one such as sqlite:///FILE"):
        open_study(TuneOptions(1, 1, "study.db", tmp_path), create=True)
    with pytest.raises(ValueError, match=r"'postgresql://me:\*\*\*@host/x' needs a driver that is not installed"):
        open_study(TuneOptions(1, 1, "postgresql://me:secret@host/x", tmp_path), create=True)


@pytest.mark.parametrize(
    "url", ["postgres//me:secret@host/x", "foo://me:secret@host/x", "me:se/cr@t@host", "@@secret@"]
)
def test_no_sentence_holds_a_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="no URL of a database") as refusal:
        open_study(TuneOptions(1, 1, url, tmp_path), create=True)
    assert "secret" not in str(refusal.value) and "se/cr" not in str(refusal.value)


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize(
    "text",
    ["no json\nno json\n", "{}\n", "[1, 2]\n", "1\n", '{"op_code": 99, "worker_id": "x"}\n',
     '{"op_code": 0, "worker_id": "x"}\n', "[" * 100_000 + "\n",
     '{"op_code": 0, "worker_id": "x", "study_name": "streaming_vla", "directions": [1]}\n'],
)  # fmt: skip
def test_a_journal_of_something_else_is_one_sentence(tmp_path: Path, text: str, create: bool) -> None:
    (tmp_path / "study.journal").write_text(text)
    with pytest.raises(ValueError, match=r"study.journal' holds (no study of this command|a study of something else)"):
        open_study(TuneOptions(1, 1, "", tmp_path), create)


def test_defaults_that_nothing_beats_stay(
    tmp_path: Path, landscape: list[tuple[list[Path], ReplayJob]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "score", lambda _, _absolute: Score(1.0 + len(landscape), 1.0 + len(landscape)))
    found = tune(BAGS, ReplayJob(), options(tmp_path, 3), lambda: None)
    assert found.values == ()
    assert verdict(found).startswith("The given parameters are on the front: no trial beats them")
    other = replace(found, front=(Point(Score(0.0, 0.0)),))
    assert verdict(other).startswith("The given parameters stay")
    assert found.tuned == found.default


def test_one_bag_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tune needs at least 2 bags"):
        tune(BAGS[:1], ReplayJob(), options(tmp_path), lambda: None)


def test_bags_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="does not exist"):
        tune([tmp_path / "a", tmp_path / "b"], ReplayJob(), options(tmp_path / "out", 1), lambda: None)


def test_the_parameter_file_is_ready_to_use(tmp_path: Path) -> None:
    values = (("saliency_monitor", "mode", "action_norm"), ("saliency_monitor", "max_silence_s", 3.0),
              ("/**", "lead_actions", 2))  # fmt: skip
    point = Point(Score(1.0, 0.4), values, ("saliency_threshold 1 has no effect in these bags: none.",))
    front = (Point(Score(0.5, 0.6), (("saliency_monitor", "max_silence_s", 4.0),)), point)
    found = Tuned(Score(2.0, 0.5), Score(1.0, 0.4), values, front, (Score(2.0, 0.5), Score(1.0, 0.4)))
    given = SuiteOptions().changed("observer", {"cameras": ("wrist",), "camera_topics": ("/arm/wrist/image",)})
    given = given.changed("/**", {"control_period_s": 0.1}).changed("executor", {"realtime_priority": 9})
    (tmp_path / "front").mkdir()
    (tmp_path / "front" / "3.yaml").write_text("of an earlier search")
    written = write_tuned(tmp_path, found, given)
    assert [path.name for path in written] == ["tuned.yaml", "front", "pareto.png", "tune.json"]
    assert all(path.stat().st_size > 0 for path in written)
    suite = given.changed("saliency_monitor", {"mode": "action_norm", "max_silence_s": 3.0})
    assert read(written[0]) == suite.changed("/**", {"lead_actions": 2})
    assert sorted(path.name for path in written[1].iterdir()) == ["1.yaml", "2.yaml"]
    assert read(written[1] / "1.yaml") == given.changed("saliency_monitor", {"max_silence_s": 4.0})
    assert read(written[1] / "2.yaml") == read(written[0])
    text = written[0].read_text()
    assert "# Longest time between two observations. [a number from 0.05 to 600 (s), live; default 2.0; tuned]" in text
    assert "# saliency_threshold 1 has no effect in these bags: none." in text


@pytest.mark.parametrize(
    ("judged", "said"),
    [
        ([], "no saliency was judged by it."),
        ([0.1, 0.3], "all 2 saliencies are below it, the largest is 0.3."),
        ([0.5, 0.9], "all 2 saliencies are at or above it, the smallest is 0.5."),
        ([0.1, 0.5], ""),
    ],
)
def test_a_threshold_that_decides_nothing_is_told(judged: list[float], said: str) -> None:
    episode = ReplayedEpisode(make_episode("streaming"), LiveEpisode(), judged=list(enumerate(judged)))
    suite = SuiteOptions().changed("saliency_monitor", {"mode": "adaptive", "saliency_threshold": 0.5})
    found = without_effect([Replayed(Path("bag"), 1.0, [episode], [])], suite)
    assert found == [f"saliency_threshold 0.5 has no effect in these bags: {said}"] * bool(said)
    assert without_effect([Replayed(Path("bag"), 1.0, [episode], [])], SuiteOptions()) == [], "always reads none"


@pytest.mark.parametrize(
    ("kept", "dropped", "evicted", "said"),
    [
        (3, 2, 1, []),
        (3, 0, 1, ["cache_threshold has no effect in these bags: no chunk was dropped by it."]),
        (0, 0, 0, ["cache_threshold has no effect in these bags: no chunk was judged.", BUDGET]),
        (0, 4, 0, ["cache_threshold has no effect in these bags: it drops every chunk.", BUDGET]),
        (3, 4, 0, [BUDGET]),
    ],
)
def test_a_cache_that_keeps_or_drops_all_is_told(kept: int, dropped: int, evicted: int, said: list[str]) -> None:
    record = make_episode("streaming")
    record.cache = [CacheAt(1.0, 0, "gated", 25, 9, 25, 9, kept, dropped, evicted, ())]
    replays = [Replayed(Path("bag"), 1.0, [ReplayedEpisode(record, LiveEpisode())], [])]
    gated = SuiteOptions().changed("inference", {"cache_policy": "gated", "cache_gate": "compact_mt10_gate"})
    assert without_effect(replays, gated) == said


def test_what_a_mode_does_not_read_is_not_written() -> None:
    drawn = {"saliency_monitor.saliency_of": "pictures", "saliency_monitor.saliency_threshold": 2.0}
    of, threshold = (("saliency_monitor", key.split(".")[1], value) for key, value in drawn.items())
    for mode, read_by in (("always", ()), ("action_norm", (threshold,)), ("adaptive", (of, threshold))):
        found = changes_of({"saliency_monitor.mode": mode, **drawn})
        assert {each for each in found if each[1].startswith("saliency")} == set(read_by)


def test_every_point_of_the_front_has_its_values(tmp_path: Path, landscape: list[tuple[list[Path], ReplayJob]]) -> None:
    found = tune(BAGS, ReplayJob(), options(tmp_path), lambda: None)
    costs = [point.score.observations_per_s for point in found.front]
    assert costs == sorted(set(costs)) and len(costs) > 1
    for point in found.front:
        silence_s = {name: value for _, name, value in point.values}["max_silence_s"]
        assert point.score == Score(4.0 / silence_s, abs(silence_s - 3.0) + 0.1)
