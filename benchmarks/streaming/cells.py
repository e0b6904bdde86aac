"""The cells of the study, kept on disk: one strategy with one profile on one task, more episodes at any time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from strategies import Setup
from study import MovedGoalRun, Row, row_of

from streaming_vla.engine.latency_profile import find_profile
from streaming_vla.engine.options import CacheOptions
from streaming_vla.policies.models import AUTO, find_model, find_part
from streaming_vla.sim.memory_tasks import MEMORY_TASKS
from streaming_vla.sim.tasks import HELD_OUT_SEED
from streaming_vla.workbench.evaluation.cache_options import FULL, NEWEST_ONLY, gated_cache, with_gate_digest
from streaming_vla.workbench.processes import RESUMED
from streaming_vla.workbench.report.results import write_json
from streaming_vla.workbench.virtual.runs import VirtualRun, run_all

MOVED = "reach, goal moved"
MOVED_TASK = "reach"
MEMORY_BUDGET = 82  # tokens that a gated cache holds, as in config/memory.yaml
MEMORY_EARLY = 3  # actions left when a stream observes, as there


@dataclass(frozen=True)
class Models:
    """The weights of a study.

    Args:
        policy, saliency: names or paths, see loading.load_with_predictor.
    """

    policy: str
    saliency: str = AUTO

    def digest(self) -> str:
        """Return a hash of both files, so that results of other weights are not taken for those of these."""
        files = [find_model(self.policy)]
        predictor = find_part(self.saliency, self.policy, "saliency")
        if predictor is not None:
            files.append(predictor)
        digest = sha256()
        for file in files:
            digest.update(file.read_bytes())
        return digest.hexdigest()[:8]


def memory_cache(policy: str, gate: str) -> CacheOptions:
    """Return what is kept of the history in memory tasks: what a gate chooses, or everything where there is none.

    Args:
        policy: name or path of the policy.
        gate: the same of its gate; AUTO: the one of the policy's name and "_gate", none when there is no such file;
            empty: none.

    Raises:
        ValueError: there is no such gate, or it cannot be used.
    """
    file = find_part(gate, policy, "gate")
    return FULL if file is None else gated_cache(file, MEMORY_BUDGET)


@dataclass(frozen=True)
class Cell:
    """One strategy with one profile on one task, or on reach with a goal that is moved (MOVED).

    Args:
        cache: what is kept of the history.
    """

    strategy: str
    setup: Setup
    profile: str
    task: str
    episodes: int
    cache: CacheOptions = NEWEST_ONLY

    @property
    def needs_memory(self) -> bool:
        """Whether its task is one of memory."""
        return self.task in MEMORY_TASKS

    def file_name(self, models: str) -> str:
        """Return the name of the file that keeps its rows; other parameters, latencies, cache or weights have another.

        Rows of another version of the code do not: give it a folder of its own.

        Args:
            models: see Models.digest.
        """
        task = self.task.replace(", ", "_").replace(" ", "_")
        parameters = repr((self.setup, find_profile(self.profile)))
        if self.cache != NEWEST_ONLY:
            parameters += repr(with_gate_digest(self.cache))
        digest = sha256(parameters.encode()).hexdigest()[:8]
        return f"{self.strategy}__{Path(self.profile).stem}__{task}__{digest}_{models}.json"

    def job(self, seed: int, models: Models) -> VirtualRun:
        """Return one of its episodes."""
        kind, task = (MovedGoalRun, MOVED_TASK) if self.task == MOVED else (VirtualRun, self.task)
        return kind(self.strategy, self.setup, self.profile, task, seed, models.policy, models.saliency, self.cache)


class Cells:
    """Runs what is missing of cells, and gives the rows of what is there.

    Args:
        folder: of the kept rows; a study that was stopped goes on from there.
        models: policy and predictor.
    """

    def __init__(self, folder: Path, models: Models) -> None:
        self._folder, self._models, self._digest = folder, models, models.digest()
        folder.mkdir(parents=True, exist_ok=True)

    def rows(self, cell: Cell) -> list[Row]:
        """Return the rows of a cell's first episodes, in the order of their seeds; as many as are there."""
        kept = self._kept(cell)
        return [kept[seed] for seed in _seeds(cell) if seed in kept]

    def missing(self, cells: Iterable[Cell]) -> list[tuple[tuple[Cell, int], VirtualRun]]:
        """Return the episodes that are still to be run, cell by cell."""
        found = []
        for cell in dict.fromkeys(cells):
            kept = self._kept(cell)
            found += [((cell, seed), cell.job(seed, self._models)) for seed in _seeds(cell) if seed not in kept]
        return found

    def run(
        self, jobs: Sequence[tuple[tuple[Cell, int], VirtualRun]], processes: int, done: Callable[[Cell], None]
    ) -> None:
        """Run episodes; each cell is written when its last one is done, or when the run is stopped.

        Raises:
            WorkerLost: a process was killed.
        """
        waiting = {cell: 0 for (cell, _), _ in jobs}
        for (cell, _), _ in jobs:
            waiting[cell] += 1
        new: dict[Cell, dict[int, Row]] = {cell: {} for cell in waiting}
        try:
            for (cell, seed), row in run_all(jobs, row_of, processes, RESUMED):
                new[cell][seed] = row
                if len(new[cell]) == waiting[cell]:
                    self._keep(cell, new.pop(cell))
                done(cell)
        finally:
            for cell, rows in new.items():
                if rows:
                    self._keep(cell, rows)

    def _kept(self, cell: Cell) -> dict[int, Row]:
        file = self._folder / cell.file_name(self._digest)
        if not file.exists():
            return {}
        return {row["seed"]: row for row in json.loads(file.read_text(encoding="utf-8"))["rows"]}

    def _keep(self, cell: Cell, rows: Mapping[int, Row]) -> None:
        everything = self._kept(cell) | dict(rows)
        file = self._folder / cell.file_name(self._digest)
        partial = file.with_suffix(".partial")
        write_json({"rows": [everything[seed] for seed in sorted(everything)]}, partial)
        partial.replace(file)


def _seeds(cell: Cell) -> range:
    return range(HELD_OUT_SEED, HELD_OUT_SEED + cell.episodes)
