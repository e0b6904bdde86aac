"""Replays many bags in parallel processes and makes the run of the report from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml

from streaming_vla.bags.errors import BagError
from streaming_vla.engine.latency_profile import find_profile
from streaming_vla.engine.loading import load_model
from streaming_vla.engine.options import InferenceOptions, ModelOptions
from streaming_vla.parameters.load import read
from streaming_vla.parameters.nodes import SuiteOptions
from streaming_vla.policies.contract import FlowPolicy
from streaming_vla.workbench.processes import map_in_processes
from streaming_vla.workbench.replay.compare import played, records_of, summarise_replays
from streaming_vla.workbench.replay.fleet import map_on_cluster
from streaming_vla.workbench.replay.replay import RECORDED, Replayed, ReplayedEpisode, ReplayOptions, replay
from streaming_vla.workbench.report.html import Run, make_run
from streaming_vla.workbench.report.memory_series import memory_series

FALLBACK = "measured"  # profile of bags that do not tell their latencies


@dataclass(frozen=True)
class ReplayJob:
    """What a replay needs, small enough to be sent to a process."""

    params_file: Path | None = None
    changes: tuple[tuple[str, str, Any], ...] = ()  # (section, option, value) that win over the file
    profile: str = RECORDED
    namespace: str = "/"
    instruction: str = ""
    action_topic: str = ""
    seed: int = 0

    def whole(self) -> ReplayJob:
        """Return the same job without its parameter file, for another machine."""
        values = self.suite().values()
        changes = tuple((node, name, value) for node, each in values.items() for name, value in each.items())
        return replace(self, params_file=None, changes=changes)

    def suite(self) -> SuiteOptions:
        """Return every option.

        Raises:
            ValueError: the parameter file cannot be used, or a change is refused.
        """
        changes: dict[str, dict[str, Any]] = {}
        for section, name, value in self.changes:
            changes.setdefault(section, {})[name] = value
        suite = read(self.params_file, self.namespace)
        for section, values in changes.items():
            suite = suite.changed(section, values)
        return suite

    def options(self) -> ReplayOptions:
        """Return the options of `replay`; ProfileError when there is no such profile."""
        recorded = self.profile == RECORDED
        profile = find_profile(FALLBACK if recorded else self.profile)
        return ReplayOptions(
            self.suite(), profile, self.namespace, self.instruction, self.action_topic, self.seed, recorded
        )


def replay_all(
    bags: Sequence[Path],
    job: ReplayJob,
    workers: int = 1,
    done: Callable[[Path, str], None] | None = None,
    ray: str = "",
) -> list[Replayed]:
    """Replay every bag; the result is in the order of `bags`, whatever finishes first.

    Args:
        workers: processes; 1 works in this one.
        done: told each bag that is through, with what refused it ("" for nothing).
        ray: address of a Ray cluster that replays them instead (see `fleet.map_on_cluster`).

    Raises:
        BagError: none of them can be used; the message has one line for each.
        ValueError: there is no such cluster, or the package ray is missing.
    """
    found: dict[Path, Replayed] = {}
    refusals: dict[Path, str] = {}
    for path, result in map_on_cluster(partial(_replay, job.whole()), bags, ray) if ray else _each(bags, job, workers):
        if isinstance(result, str):
            refusals[path] = result
        else:
            found[path] = result
        if done is not None:
            done(path, refusals.get(path, ""))
    if not found:
        raise BagError(*refusals.values())
    for path, sentence in refusals.items():
        found[path] = Replayed(path, 0.0, [], [sentence])
    return [found[path] for path in bags]


def _each(bags: Sequence[Path], job: ReplayJob, workers: int) -> Iterator[tuple[Path, Replayed | str]]:
    """Yield each bag with its replay or what refuses it, as they come."""
    if workers == 1 or len(bags) == 1:
        for path in bags:
            yield path, _replay(job, path)
        return
    yield from map_in_processes(partial(_replay, job), bags, min(workers, len(bags)))


def _replay(job: ReplayJob, path: Path) -> Replayed | str:
    """Replay one bag; return the sentence that refuses it when it cannot be used."""
    options = job.options()
    try:
        return replay(path, _policy(options.suite.inference), options)
    except BagError as error:
        return str(error)


def report_run(name: str, replays: Sequence[Replayed], job: ReplayJob) -> Run:
    """Return the replays as a run of the report; its curves are those of the longest episode."""
    suite = job.suite()
    names = _policy(suite.inference).spec.layout.names
    threshold = suite.saliency_monitor.threshold
    numbers = summarise_replays(replays, names, threshold)
    longest = max(
        (episode for each in replays for episode in each.episodes), key=lambda episode: episode.record.duration_s
    )
    parameters = yaml.safe_dump(
        {node: {key: _plain(value) for key, value in values.items()} for node, values in suite.values().items()},
        sort_keys=False,
    )
    memory = memory_series(longest.record, suite.inference)
    shadows = [each.shadow for each in replays if each.shadow is not None]
    shadow = {"shadow": max(shadows, key=lambda each: len(each.times)).curves()} if shadows else {}
    curves = {**_curves(longest, names), **({} if threshold is None else {"saliency_threshold": threshold}), **shadow}
    return make_run(name, records_of(replays), numbers, parameters, **curves, **memory)


def _curves(episode: ReplayedEpisode, names: Sequence[str]) -> dict[str, Any]:
    begin_s = episode.record.begin_s
    context_s = {at.sequence: at.time_s - begin_s for at in episode.record.contexts}
    ours, theirs = played(episode), episode.live.played()
    actions = {
        name: {
            "replayed": [[time_s - begin_s, float(values[place])] for time_s, _, values in ours],
            "recorded": [[time_s, float(values[place])] for time_s, values in theirs if len(values) == len(names)],
        }
        for place, name in enumerate(names)
    }
    return {
        "saliency": [[context_s[context], value] for context, value in episode.judged if context in context_s],
        "actions": actions,
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _policy(inference: InferenceOptions) -> FlowPolicy:
    return _loaded(ModelOptions(**{name: getattr(inference, name) for name in ModelOptions.declared}))


@cache
def _loaded(model: ModelOptions) -> FlowPolicy:
    import torch

    torch.set_num_threads(1)
    return load_model(model)
