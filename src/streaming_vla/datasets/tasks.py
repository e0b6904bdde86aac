"""The instructions of a data set by their index."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from streaming_vla.datasets import layout
from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.facts import LARGEST_TEXT_BYTES
from streaming_vla.datasets.tables import read_table

PANDAS_INDEX = "__index_level_0__"  # what pandas calls an index without a name


def read_tasks(folder: Path, version: str) -> dict[int, str]:
    """Return the instruction of each task index, in the order of the file.

    Raises:
        DatasetError: the file is missing or damaged, or an index stands there twice.
    """
    found: dict[int, str] = {}
    for index, task in _old_tasks(folder) if version == layout.OLD_VERSION else _new_tasks(folder):
        if type(index) is not int or not isinstance(task, str):
            raise DatasetError(f"the tasks of data set '{folder}' hold {index!r}: {task!r}, expected number and text")
        if index in found:
            raise DatasetError(f"task index {index} of data set '{folder}' stands for '{found[index]}' and '{task}'")
        found[index] = task
    return found


def write_tasks(folder: Path, tasks: Sequence[str]) -> None:
    """Write the tasks; each has the index of its place, which is where lerobot looks for it."""
    column = {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
    index = {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object"}
    pandas = {  # lerobot reads the file with pandas and wants the tasks as its index
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [{**column, "metadata": None}, {**index, "metadata": None}],
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    path = folder / layout.TASKS
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), path)


def _new_tasks(folder: Path) -> Iterator[tuple[Any, Any]]:
    table = read_table(folder / layout.TASKS, "the tasks")
    try:
        rows = table.to_pylist()
    except ValueError as error:  # a text that is none
        raise DatasetError(f"the tasks '{folder / layout.TASKS}' cannot be read ({error})") from error
    for row in rows:
        yield row.get("task_index"), row.get("task", row.get(PANDAS_INDEX))


def _old_tasks(folder: Path) -> Iterator[tuple[Any, Any]]:
    for entry in read_lines(folder / layout.OLD_TASKS):
        yield entry.get("task_index"), entry.get("task")


def read_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a file that has one in each line; DatasetError when it is none."""
    try:
        if path.stat().st_size > LARGEST_TEXT_BYTES:
            raise DatasetError(f"'{path}' has {path.stat().st_size} bytes, more than any such file")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise DatasetError(f"line {number} of '{path}' is no object: {line[:40]}")
            yield entry
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"'{path}' cannot be read ({error})") from error
