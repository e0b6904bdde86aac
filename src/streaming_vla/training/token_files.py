"""Sequences of tokens from text files (.txt, .md, .rst) and token files (.npy, .safetensors); nothing is unpickled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

TEXT = (".txt", ".md", ".rst")
TOKENS = (".npy", ".safetensors")
MOST_BYTES = 256 * 1024**2

Item = TypeVar("Item")

Tokenize = Callable[[str], list[int]]


def find_files(given: Sequence[Path]) -> list[Path]:
    """Return files, and those of folders, in order.

    Raises:
        ValueError: there is none, or one is of another kind or too large.
    """
    files: list[Path] = []
    for path in given:
        inside = sorted(path.rglob("*")) if path.is_dir() else None
        files += [path] if inside is None else [file for file in inside if file.suffix in (*TEXT, *TOKENS)]
    for file in files:
        if not file.is_file():
            raise ValueError(f"sequences: '{file}' does not exist; give text files, token files or folders of them")
        if file.suffix not in (*TEXT, *TOKENS):
            raise ValueError(f"sequences: '{file}' is of no kind that is read: {', '.join((*TEXT, *TOKENS))}")
        if file.stat().st_size > MOST_BYTES:
            raise ValueError(f"sequences: '{file}' has {file.stat().st_size} bytes, expected at most {MOST_BYTES}")
    if not files:
        raise ValueError("sequences: no file is given, expected text files, token files or folders of them")
    return files


def tokens_of(file: Path, tokenize: Tokenize | None, vocabulary: int) -> list[np.ndarray]:
    """Return the sequences of a file, each [T] int64: a text is one, so is every row of a token file.

    Raises:
        ValueError: no UTF-8, no array of whole numbers, a token that the model does not have, or a text and no
            tokenizer.
    """
    if file.suffix in TEXT:
        if tokenize is None:
            raise ValueError(f"sequences: '{file}' is text and the model's folder has no tokenizer: give token files")
        try:
            return [np.asarray(tokenize(file.read_text(encoding="utf-8")), dtype=np.int64)]
        except UnicodeDecodeError as error:
            raise ValueError(f"sequences: '{file}' is not UTF-8 text ({error.reason} at {error.start})") from error
    try:
        arrays = [np.load(file, allow_pickle=False)] if file.suffix == ".npy" else list(load_file(file).values())
    except (SafetensorError, ValueError, OSError, EOFError) as error:
        raise ValueError(f"sequences: '{file}' cannot be read as {file.suffix[1:]}: {error}") from error
    rows = []
    for array in arrays:
        if array.dtype.kind not in "iu" or array.ndim not in (1, 2):
            raise ValueError(
                f"sequences: '{file}' holds {array.dtype} of shape {array.shape}, expected whole numbers, [T] or [N, T]"
            )
        if array.size and not 0 <= int(array.min()) <= int(array.max()) < vocabulary:
            raise ValueError(
                f"sequences: '{file}' holds tokens {array.min()} to {array.max()}, the model has 0 to {vocabulary - 1}"
            )
        rows += list(np.atleast_2d(array).astype(np.int64))
    return rows


def cut(sequences: Iterable[np.ndarray], length: int, most: int) -> list[np.ndarray]:
    """Cut sequences into pieces of `length` tokens; of more than `most` those that are spread evenly stay.

    Raises:
        ValueError: there are fewer than two.
    """
    pieces = [each[begin : begin + length] for each in sequences for begin in range(0, len(each) - length + 1, length)]
    if len(pieces) < 2:
        raise ValueError(
            f"sequences: {len(pieces)} pieces of {length} tokens are found, expected two or more: give longer files, "
            "or make the plan's length smaller"
        )
    return spread(pieces, most)


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most `most` of the items, evenly spread."""
    chosen = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[number] for number in chosen]
