"""Safetensors files that say what they are: opened with every check, refused in one sentence. Needs `safetensors`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

KINDS = ("F32", "F16", "BF16")  # of numbers, as safetensors names them

Made = TypeVar("Made", bound=nn.Module)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal: what tells weights from others of the same name."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(path: Path) -> str:
    """Return the SHA-256 of what a safetensors file says: its header comes in another order each time it is written.

    Raises:
        ValueError: it is no safetensors file.
    """
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > path.stat().st_size:
            raise ValueError(f"'{path}' is no safetensors file, or it was cut off: make it again")
        try:
            header = json.dumps(json.loads(file.read(length)), sort_keys=True)
        except ValueError as error:
            raise ValueError(f"'{path}' is no safetensors file, or it is damaged: make it again") from error
        digest = hashlib.sha256(header.encode())
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@dataclass(frozen=True)
class TensorFormat:
    """A kind of file.

    Args:
        kind: what sentences call it.
        name: what its metadata has as "format".
        maximum_bytes: a larger file is not opened.
        origin: where such a file comes from: the end of the sentence that refuses a missing or foreign one.
        error: what is raised.
    """

    kind: str
    name: str
    maximum_bytes: int
    origin: str
    error: type[ValueError]

    @contextmanager
    def open(self, path: Path) -> Iterator[TensorFile]:
        """Open a file of this format; what its reader cannot use inside of the block is refused as well.

        Raises:
            ValueError: `error`: missing, too large, no safetensors or another format; and in place of the KeyError,
                TypeError, ValueError, ArithmeticError or RuntimeError (torch's of a size that cannot be) of a reader
                that finds other metadata than it expects.
        """
        who = f"{self.kind} '{path}'"
        if not path.is_file():
            raise self.error(f"{who} does not exist; {self.origin}")
        if path.stat().st_size > self.maximum_bytes:
            raise self.error(f"{who} has {path.stat().st_size} bytes, expected at most {self.maximum_bytes}")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != self.name:
                    raise self.error(
                        f"{who} has format {metadata.get('format', 'none')!r}, expected {self.name!r}; {self.origin}"
                    )
                yield TensorFile(who, metadata, file, self.error)
        except self.error:
            raise
        except KeyError as error:
            raise self.error(f"{who} cannot be read: its metadata has no {error}") from error
        except (SafetensorError, TypeError, ArithmeticError, RuntimeError, json.JSONDecodeError) as error:
            raise self.error(f"{who} cannot be read ({error}); expected {self.name} safetensors") from error
        except ValueError as error:
            raise self.error(f"{who} does not fit this version: {error}") from error


class TensorFile:
    """An open file.

    Args:
        who: what sentences call it.
        metadata: as it stands in the file.
        tensors: what safe_open gives.
        error: what is raised.
    """

    def __init__(self, who: str, metadata: Mapping[str, str], tensors: Any, error: type[ValueError]) -> None:
        self.who, self.metadata = who, metadata
        self._tensors, self._error = tensors, error

    def build(self, make: Callable[[], Made]) -> Made:
        """Return what `make` makes, with the file's tensors as its state.

        It is made without memory at first: a shape that the file does not hold is refused before it is taken.

        Raises:
            ValueError: the format's `error`: a name or a shape is not that of the module, or numbers are of another
                kind than `KINDS` or not finite.
        """
        with torch.device("meta"):
            expected = {name: tuple(value.shape) for name, value in make().state_dict().items()}
        different = sorted(set(expected) ^ set(self._tensors.keys()))
        if different:
            raise self._error(f"{self.who} misses or adds tensors, first '{different[0]}' of {len(different)}")
        for name, shape in expected.items():
            tensor = self._tensors.get_slice(name)
            found, kind = tuple(tensor.get_shape()), tensor.get_dtype()
            if found != shape:
                raise self._error(f"{self.who}: tensor '{name}' has shape {found}, expected {shape}")
            if kind not in KINDS:  # whole numbers need scales, of complex ones half would be lost
                raise self._error(f"{self.who}: tensor '{name}' holds {kind}, expected one of {', '.join(KINDS)}")
        state: dict[str, Tensor] = {}
        for name in expected:
            state[name] = self._tensors.get_tensor(name).float()
            if not bool(torch.isfinite(state[name]).all()):
                raise self._error(f"{self.who}: tensor '{name}' is not finite; the file is damaged")
        module = make()
        module.load_state_dict(state)
        return module
