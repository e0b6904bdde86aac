"""Safetensors files read a block at a time: the header is checked before memory is taken, and nothing is mapped.

A mapped file would count twice while it is copied to its place, and a file that shrinks would end the process.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from streaming_vla.policies.errors import CheckpointError, shortened

HEADER_BYTES = 8 * 1024**2  # of real checkpoints: some 100 kB
BLOCK_BYTES = 1024**2
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The formats that are told apart; a file may hold others, which no reader asks for."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the header tells it.

    Args:
        dtype: name of its number format, "F32".
        shape: of the tensor.
        begin, end: bytes from the start of the data.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorArchive:
    """A safetensors file with a checked header.

    Args:
        path: of the file.
        who: what sentences call it.

    Raises:
        CheckpointError: no safetensors file, cut off, or its header is too long or contradicts itself.
    """

    def __init__(self, path: Path, who: str) -> None:
        self.path, self.who = path, who
        self._buffer = bytearray(BLOCK_BYTES)
        self._start, header = _read_header(path, who)
        self.data_bytes = path.stat().st_size - self._start
        self.tensors: Mapping[str, StoredTensor] = {
            name: self._checked(name, entry) for name, entry in header.items() if name != "__metadata__"
        }
        end = 0  # the tensors fill the data without holes and without sharing a byte
        for name, tensor in sorted(self.tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
            if tensor.begin != end:
                raise CheckpointError(f"{who}: tensor '{shortened(name)}' does not follow the one before it: damaged")
            end = tensor.end
        if end != self.data_bytes:
            raise CheckpointError(
                f"{who} holds {self.data_bytes} bytes of numbers, its header tells {end}: it was cut off or is damaged"
            )

    def read(self, name: str, into: Tensor) -> None:
        """Copy a tensor's numbers to their place, whatever its format and device.

        Args:
            name: of the tensor.
            into: contiguous, of the stored shape.

        Raises:
            CheckpointError: a number is not finite, or the file became shorter.
        """
        stored = self.tensors[name]
        assert tuple(into.shape) == stored.shape and into.is_contiguous(), f"place of {name}"
        dtype = DTYPES[stored.dtype]
        place, done = into.view(-1), 0
        buffer = self._buffer
        with self.path.open("rb", buffering=0) as file:
            file.seek(self._start + stored.begin)
            while done < place.numel():
                wanted = min(len(buffer), (place.numel() - done) * dtype.itemsize)
                _fill(file, memoryview(buffer)[:wanted], self.who)
                block = torch.frombuffer(buffer, dtype=dtype, count=wanted // dtype.itemsize)
                part = place[done : done + block.numel()]
                part.copy_(block)
                # a number too large for a narrower format is infinite only after the copy; the sum is finite where
                # all are: float64 holds it
                if part.dtype.is_floating_point and not math.isfinite(float(part.sum(dtype=torch.float64))):
                    raise CheckpointError(
                        f"{self.who}: tensor '{shortened(name)}' is not finite (in {part.dtype}): the file is damaged, "
                        "or its training has diverged"
                    )
                done += block.numel()

    def tensor(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a small tensor, read whole; CheckpointError as of `read`."""
        into = torch.empty(self.tensors[name].shape, dtype=dtype)
        self.read(name, into)
        return into

    def _checked(self, name: str, entry: Any) -> StoredTensor:
        who = f"{self.who}: tensor '{shortened(name)}'"
        try:
            dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{who} lacks dtype, shape or data_offsets: the file is damaged") from error
        if not isinstance(dtype, str) or not all(type(size) is int and size >= 0 for size in (*shape, begin, end)):
            raise CheckpointError(f"{who} has dtype {shortened(dtype)} and shape {shortened(shape)}: no such tensor")
        if not begin <= end <= self.data_bytes:
            raise CheckpointError(f"{who} lies at {begin} to {end} of {self.data_bytes} bytes: damaged or cut off")
        if dtype in DTYPES and math.prod(shape) * DTYPES[dtype].itemsize != end - begin:
            raise CheckpointError(f"{who} has shape {shape} of {dtype} in {end - begin} bytes: the file is damaged")
        return StoredTensor(dtype, shape, begin, end)


def _read_header(path: Path, who: str) -> tuple[int, dict[str, Any]]:
    """Return where the data begin and the header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > HEADER_BYTES:
            raise CheckpointError(
                f"{who} has a header of {length} bytes, expected at most {HEADER_BYTES}: no safetensors file"
            )
        text = file.read(length)
    if len(text) < max(length, 2):
        raise CheckpointError(f"{who} is no safetensors file, or it was cut off: copy it again")
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{who} has a header that is no JSON or names a tensor twice: it is damaged") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{who} has a header that is no JSON object: it is no safetensors file")
    return 8 + length, header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _fill(file: Any, place: memoryview, who: str) -> None:
    while place:
        count = file.readinto(place)
        if not count:
            raise CheckpointError(f"{who} became shorter while it was read: copy it again")
        place = place[count:]
