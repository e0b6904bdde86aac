"""Where a search keeps its trials, a file or a database of several machines, and how it draws the next (Optuna)."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError

STUDY = "streaming_vla"
OPENING_TRIALS = 16  # drawn by chance before the sampler has something to go by
OPENINGS, OPENING_PERIOD_S = 20, 0.5


@dataclass(frozen=True)
class TuneOptions:
    """How to search.

    Args:
        trials: replays of all searched bags, over all processes and machines.
        workers: processes; each works on trials of its own.
        storage: database URL of a study that several machines share; "" keeps a file in `folder`.
        folder: of the study; a search that was stopped goes on.
        seed: of the search.
    """

    trials: int
    workers: int
    storage: str
    folder: Path
    seed: int = 0


def open_study(options: TuneOptions, create: bool = False) -> optuna.Study:
    """Return the study, made when it is not there.

    Raises:
        ValueError: the place is none, cannot be opened, or holds something else.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = _SampledByNumber(options.seed)
    try:
        storage = _database(options.storage) if options.storage else _journal(options.folder)
        if not create:
            study = optuna.load_study(study_name=STUDY, storage=storage, sampler=sampler)
        else:
            study = optuna.create_study(
                storage=storage, study_name=STUDY, directions=["minimize"] * 2, sampler=sampler, load_if_exists=True
            )
        directions = study.directions
    except (LookupError, TypeError, AttributeError, AssertionError, RecursionError, JSONDecodeError) as error:
        raise ValueError(
            f"'{where_of(options)}' holds no study of this command ({type(error).__name__}): name another place"
        ) from error
    if directions != [optuna.study.StudyDirection.MINIMIZE] * 2:
        raise ValueError(f"'{where_of(options)}' holds a study of something else: name another place")
    return study


def where_of(options: TuneOptions) -> str:
    """Return what sentences call the place of the study."""
    return _without_password(options.storage) if options.storage else str(_journal_file(options.folder))


def _journal(folder: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(_journal_file(folder))))


def _journal_file(folder: Path) -> Path:
    return folder / "study.journal"


def _database(url: str) -> RDBStorage:
    """Open a database, whose tables another machine may be making at this moment: then once more."""
    patience = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}  # it serves one writer at a time
    for left in reversed(range(OPENINGS)):
        try:
            return RDBStorage(url, engine_kwargs=patience)
        except ArgumentError as error:
            raise ValueError(
                f"'{_without_password(url)}' is no URL of a database, expected one such as sqlite:///FILE: {error}"
            ) from error
        except ImportError as error:
            shown = _without_password(url)
            raise ValueError(f"the database '{shown}' needs a driver that is not installed: {error}") from error
        except DatabaseError as error:
            if not left:
                reason = " ".join(str(error.orig).split())
                shown = _without_password(url)
                raise ValueError(f"the study's database '{shown}' cannot be opened: {reason}") from error
            time.sleep(OPENING_PERIOD_S)
    raise AssertionError("the last opening has returned or raised")


def _without_password(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:  # where the password is in it nobody knows
        _, at, place = url.rpartition("@")
        return f"***{at}{place}" if at else url


class _SampledByNumber(optuna.samplers.BaseSampler):
    """TPE whose draws follow from the trial's number: machines that share a study do not draw the same."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._sampler = _sampler(seed)

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        self._sampler = _sampler(self._seed + trial.number)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, *args: Any) -> Any:
        return self._sampler.infer_relative_search_space(*args)

    def sample_relative(self, *args: Any) -> Any:
        return self._sampler.sample_relative(*args)

    def sample_independent(self, *args: Any) -> Any:
        return self._sampler.sample_independent(*args)

    def after_trial(self, *args: Any) -> None:
        self._sampler.after_trial(*args)


def _sampler(seed: int) -> optuna.samplers.TPESampler:
    with warnings.catch_warnings():  # both options are called experimental
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            n_startup_trials=OPENING_TRIALS, multivariate=True, constant_liar=True, seed=seed
        )
