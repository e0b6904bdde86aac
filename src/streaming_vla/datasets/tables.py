"""Reads parquet files of strangers: how much they would become in memory is looked at before they are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from streaming_vla.datasets.errors import DatasetError

LARGEST_VALUES = 1 << 28  # numbers and texts of a file
LARGEST_BYTES = 1 << 31  # of its columns before compression


def read_table(path: Path, what: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a table.

    Args:
        what: the file is, for the refusal.
        columns: that are wanted, None for all.

    Raises:
        DatasetError: the file is missing or damaged, lacks a column, or holds more than any such file.
    """
    try:
        with parquet.ParquetFile(path) as file:
            values = size = 0
            for number in range(file.metadata.num_row_groups):
                group = file.metadata.row_group(number)
                for place in range(group.num_columns):
                    column = group.column(place)
                    if columns is None or any(_belongs(column.path_in_schema, name) for name in columns):
                        values += max(column.num_values, group.num_rows)
                        size += column.total_uncompressed_size
            if values > LARGEST_VALUES or size > LARGEST_BYTES:
                raise DatasetError(
                    f"{what} '{path}' hold {values} values in {size} bytes, more than any such file: it is damaged"
                )
            if columns is not None and (missing := [name for name in columns if name not in file.schema_arrow.names]):
                raise DatasetError(f"{what} '{path}' cannot be read: there is no column {', '.join(missing)}")
            return file.read(None if columns is None else list(columns))
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{what} '{path}' cannot be read ({' '.join(str(error).split())})") from error


def _belongs(path: str, name: str) -> bool:
    """True when a leaf of the schema (observation.state.list.element) is part of a column."""
    return path == name or path.startswith(f"{name}.")
