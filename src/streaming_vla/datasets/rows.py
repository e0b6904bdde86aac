"""The rows of a data set: what each step's numbers are, and PNG pictures where they lie in the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute, parquet

from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.layout import ACTION, COLUMNS, STATE
from streaming_vla.datasets.tables import read_table

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
PICTURE_ROWS = 64  # that are read at once


@dataclass(frozen=True)
class Rows:
    """N rows of one file, in its order.

    state [N, S] and action [N, A] float32; timestamp [N] float64, seconds since the episode's begin; frame_index,
    episode_index, index, task_index [N] int64.
    """

    path: Path
    state: Floats
    action: Floats
    timestamp: npt.NDArray[np.float64]
    frame_index: Integers
    episode_index: Integers
    index: Integers
    task_index: Integers

    def of(self, episode: int) -> Integers:
        """Return the places of an episode's rows, in the order of their frame_index, [T]."""
        places = np.flatnonzero(self.episode_index == episode)
        found: Integers = places[np.argsort(self.frame_index[places], kind="stable")]
        return found


def read_rows(path: Path, state_size: int, action_size: int) -> Rows:
    """Return the numbers of a data file.

    Raises:
        DatasetError: the file is missing or damaged, a column is missing, has gaps or another length.
    """
    table = read_table(path, "the rows", [STATE, ACTION, *COLUMNS])
    try:
        whole = {name: _column(table, name, path, np.float64 if name == "timestamp" else np.int64) for name in COLUMNS}
        vectors = [_matrix(table, name, size, path) for name, size in ((STATE, state_size), (ACTION, action_size))]
    except (ValueError, pa.ArrowException) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"the rows '{path}' cannot be read ({_one_line(error)}): write the set again") from error
    return Rows(path, vectors[0], vectors[1], **whole)


def read_pictures(path: Path, feature: str, places: Integers) -> Iterator[bytes]:
    """Yield the encoded pictures of the rows at `places`, in that order; few are in memory where it is the file's.

    Raises:
        DatasetError: the file cannot be read, or a row has no picture.
    """
    try:
        held: dict[int, Any] = {}
        wanted = set(places.tolist())
        ahead = iter(places.tolist())
        due = next(ahead, None)
        begin = 0
        with parquet.ParquetFile(path) as file:
            groups = _groups(file, wanted)
            begin = groups[0][1] if groups else 0
            numbers = [number for number, _ in groups]
            for batch in file.iter_batches(PICTURE_ROWS, row_groups=numbers, columns=[feature]):
                column = batch.column(0)
                for offset in range(len(batch)):
                    if begin + offset in wanted:
                        data = column[offset].as_py()
                        held[begin + offset] = data.get("bytes") if isinstance(data, dict) else data
                begin += len(batch)
                while due is not None and due in held:
                    yield _picture(held.pop(due), path, feature, due)
                    due = next(ahead, None)
    except (OSError, KeyError, IndexError, pa.ArrowException) as error:
        raise DatasetError(f"the pictures {feature} of '{path}' cannot be read ({_one_line(error)})") from error


def _groups(file: Any, wanted: set[int]) -> list[tuple[int, int]]:
    """Return the row groups from the first to the last wanted row, each with the place of its first row."""
    if not wanted:
        return []
    first, last = min(wanted), max(wanted)
    found, begin = [], 0
    for number in range(file.metadata.num_row_groups):
        end = begin + file.metadata.row_group(number).num_rows
        if begin <= last and end > first:
            found.append((number, begin))
        begin = end
    return found


def _picture(data: Any, path: Path, feature: str, place: int) -> bytes:
    if not isinstance(data, bytes) or not data:
        raise DatasetError(
            f"row {place} of '{path}' has no picture {feature}: it names a file instead, or nothing; embed the pictures"
        )
    return data


def _column(table: pa.Table, name: str, path: Path, kind: type) -> npt.NDArray[Any]:
    column = table[name].combine_chunks()
    if column.null_count:
        raise DatasetError(f"column {name} of '{path}' has {column.null_count} rows without a value")
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):  # [1] instead of a number
        return _matrix(table, name, 1, path)[:, 0].astype(kind)
    found: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False).astype(kind)
    return found


def _matrix(table: pa.Table, name: str, size: int, path: Path) -> Floats:
    """Return a column of vectors [N, size] float32; vectors of one number may be stored as numbers."""
    column = table[name].combine_chunks()
    if column.null_count:
        raise DatasetError(f"column {name} of '{path}' has {column.null_count} rows without a value")
    if not (pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)):
        values = column
        counts = {1}
    else:
        counts = set(compute.list_value_length(column).unique().to_pylist())
        values = column.flatten()
    if counts - {size}:
        raise DatasetError(
            f"column {name} of '{path}' has vectors of {', '.join(map(str, sorted(counts)))} numbers, meta/info.json "
            f"says {size}"
        )
    if values.null_count:
        values = compute.fill_null(values, float("nan"))
    found: Floats = values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(column), size)
    return found


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
