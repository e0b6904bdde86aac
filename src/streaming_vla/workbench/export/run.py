"""Exports many bags in parallel processes into one data set; what was finished before a stop is kept."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2

from streaming_vla.bags.errors import BagError
from streaming_vla.bags.export import ExportOptions, check_bag, export_bag, part_name
from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.join import join_parts
from streaming_vla.datasets.parts import Part, read_part
from streaming_vla.workbench.processes import RESUMED, map_in_processes

LOCK = "lock"  # file that the export at work holds
PROGRESS = "progress"  # file of a part that is being written: seconds read so far
LOOK_EVERY_S = 0.5
Progress = Callable[[float, float], None]


@dataclass(frozen=True)
class Exported:
    """What came of an export.

    Args:
        episodes: in the data set.
        seconds: of recording that were read.
        problems: one sentence for each thing that is to be known.
    """

    episodes: int
    seconds: float
    problems: list[str]


def export_all(
    bags: Sequence[Path], folder: Path, options: ExportOptions, workers: int = 1, progress: Progress | None = None
) -> Exported:
    """Write the episodes of all bags, in their order, as a new data set.

    Args:
        workers: processes; 1 works in this one.
        progress: told the seconds that are done, and all of them.

    Raises:
        ValueError: the folder exists, or bags cannot be used; the message has a line for each. Parts that are finished
            are kept beside the folder for the next try, unless no bag was begun.
    """
    if folder.exists():
        raise DatasetError(f"data set '{folder}' exists already: choose another folder")
    seconds = _durations(bags, options)
    parts = folder.with_name(f".{folder.name}.partial")
    with _alone(parts):
        return _export_all(bags, folder, parts, seconds, options, workers, progress)


def _export_all(
    bags: Sequence[Path],
    folder: Path,
    parts: Path,
    seconds: Mapping[Path, float],
    options: ExportOptions,
    workers: int,
    progress: Progress | None,
) -> Exported:
    wanted = {path: parts / part_name(path, options) for path in bags}
    for old in parts.glob("*/"):
        if old not in wanted.values():
            shutil.rmtree(old, ignore_errors=True)  # of other bags or options
    work = partial(_export, options, wanted)
    refusals: list[str] = []
    with _watched(wanted, seconds, progress):
        for path, refusal in _each(work, list(wanted), workers):
            if refusal:
                refusals.append(refusal)
            elif progress is not None:
                (wanted[path] / PROGRESS).write_text(str(seconds[path]), encoding="utf-8")
    if refusals:
        kept = len(wanted) - len(refusals)
        if kept:
            refusals.append(
                f"{kept} finished bags are kept in {parts}: correct the others or leave them out, and run the command "
                "again"
            )
        else:
            shutil.rmtree(parts, ignore_errors=True)
        raise BagError(*refusals)
    made = [read_part(wanted[path]) for path in bags]
    return _join(made, folder, options, parts)


def _join(made: Sequence[Part], folder: Path, options: ExportOptions, parts: Path) -> Exported:
    none = [str(part.about["why_none"]) for part in made if not part.episodes]
    if len(none) == len(made):
        shutil.rmtree(parts, ignore_errors=True)
        raise BagError(*none)
    episodes = join_parts(folder, made, options.storage)
    shutil.rmtree(parts, ignore_errors=True)
    problems = [str(problem) for part in made for problem in part.about["problems"]]
    return Exported(episodes, sum(float(part.about["seconds"]) for part in made), [*problems, *none])


@contextlib.contextmanager
def _alone(parts: Path) -> Iterator[None]:
    """Hold the folder of the parts; DatasetError when another export holds it."""
    parts.mkdir(parents=True, exist_ok=True)
    with (parts / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatasetError(
                f"another export is writing into {parts}: wait for it, or choose another --out"
            ) from None
        yield


def _durations(bags: Sequence[Path], options: ExportOptions) -> dict[Path, float]:
    """Look at every bag before anything is written; return how long each one is, s."""
    seconds: dict[Path, float] = {}
    refusals = []
    for path in bags:
        if path in seconds:
            raise BagError(f"{path} is named twice: name every bag once")
        try:
            seconds[path] = check_bag(path, options)
        except (ValueError, OSError) as error:
            refusals.append(str(error))
            seconds[path] = 0.0
    if refusals:
        raise BagError(*refusals)
    return seconds


def _each(work: Callable[[Path], str], bags: Sequence[Path], workers: int) -> Iterator[tuple[Path, str]]:
    if workers == 1 or len(bags) == 1:
        for path in bags:
            yield path, work(path)
        return
    yield from map_in_processes(work, bags, min(workers, len(bags)), again=RESUMED)


def _export(options: ExportOptions, wanted: dict[Path, Path], path: Path) -> str:
    """Export one bag; return the sentence that refuses it, empty when it is done."""
    cv2.setNumThreads(1)  # bags are done side by side instead
    folder = wanted[path]

    def done(seconds: float) -> None:
        with contextlib.suppress(OSError):
            (folder / PROGRESS).write_text(str(seconds), encoding="utf-8")

    try:
        export_bag(path, options, folder, done)
    except (ValueError, OSError) as error:
        return str(error)
    return ""


@contextlib.contextmanager
def _watched(wanted: Mapping[Path, Path], seconds: Mapping[Path, float], progress: Progress | None) -> Iterator[None]:
    """Tell `progress` now and then how far all parts are."""
    if progress is None:
        yield
        return
    total = sum(seconds.values())
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_EVERY_S):
            progress(sum(_seconds(folder) for folder in wanted.values()), total)

    thread = threading.Thread(target=look, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        progress(sum(_seconds(folder) for folder in wanted.values()), total)


def _seconds(folder: Path) -> float:
    try:
        return float((folder / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0.0
