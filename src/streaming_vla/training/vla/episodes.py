"""A data set made ready for a VLA's training: numbers in memory, pictures as JPEGs as the robot's observer sends them.

Films are decoded once, in order; reading pictures at random out of them would decode all that lie before.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from kv_cache.tensor_file import content_digest
from streaming_vla.datasets.dataset import Dataset, Episode
from streaming_vla.datasets.errors import DatasetError
from streaming_vla.images.encode import encode_pixels
from streaming_vla.images.fit import fit
from streaming_vla.policies.layout import ActionLayout
from streaming_vla.training.own_episodes import JPEG_QUALITY, Part, ReadOptions, read_parts

Floats = npt.NDArray[np.float32]
Shown = Callable[[int, int], None]


@dataclass(frozen=True)
class Seeing:
    """How pictures are kept.

    Args:
        cameras: in the policy's order.
        size: pixels of their sides.
        how: PolicySpec.image_fit.
    """

    cameras: tuple[str, ...]
    size: int
    how: str


@dataclass(frozen=True)
class ReadyPart:
    """Steps of an episode with one instruction: T of its N.

    Args:
        file: of its pictures.
        offsets: where each begins and ends there, [T, cameras, 2].
        begin: the first of its steps in the episode.
        state, action: of the whole episode, [N, S] and [N, A].
    """

    file: Path
    instruction: str
    offsets: npt.NDArray[np.int64]
    begin: int
    state: Floats
    action: Floats

    def __len__(self) -> int:
        return len(self.offsets)

    def pictures(self, step: int) -> npt.NDArray[np.uint8]:
        """Return the pictures of one of the T steps, [cameras, size, size, 3] RGB."""
        with safe_open(self.file, framework="numpy") as opened:
            jpegs = opened.get_slice("jpeg")
            found = [jpegs[int(begin) : int(end)] for begin, end in self.offsets[step]]
        return np.stack([cv2.cvtColor(cv2.imdecode(each, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB) for each in found])


def make_ready(
    data: Dataset, folder: Path, layout: ActionLayout, seeing: Seeing, options: ReadOptions, show: Shown
) -> list[ReadyPart]:
    """Return the parts of a data set; what lies in `folder` of an earlier call with the same arguments is used.

    Args:
        layout: of the actions; those outside of its limits are cut, for which `check_limits` is asked before.
        show: is told how many episodes are ready, and of how many.

    Raises:
        DatasetError: an episode cannot be learned from, or the set has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made: list[ReadyPart] = []
    for number, (episode, part) in enumerate(read_parts(data, layout, options)):
        path = folder / f"{number:06d}_{_key(data, episode, part, seeing)}.safetensors"
        if not path.exists():
            _write(path, data, episode, part, seeing)
        with safe_open(path, framework="numpy") as opened:
            offsets = opened.get_tensor("offset")
        made.append(ReadyPart(path, part.instruction, offsets, part.begin, part.states, part.whole))
        show(len(made), max(len(data.entries), len(made)))
    if not made:
        raise DatasetError(f"data set '{data.folder}' has no episode")
    for path in set(folder.glob("*.safetensors")) - {part.file for part in made}:
        path.unlink()  # of another data set, or of pictures of another size
    return made


def fingerprint(parts: Sequence[ReadyPart]) -> dict[str, object]:
    """Return what identifies the data: how many parts, and a hash of all that they hold."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(content_digest(part.file).encode())
        digest.update(part.instruction.encode() + part.state.tobytes() + part.action.tobytes())
    return {"parts": len(parts), "steps": sum(map(len, parts)), "sha256": digest.hexdigest()}


def _key(data: Dataset, episode: Episode, part: Part, seeing: Seeing) -> str:
    """Return what tells the pictures of a part from those of others, hexadecimal."""
    entry = episode.entry
    sources = [entry.path, *(place.path for place in entry.films.values())]
    about = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    told = repr((about, entry.number, part.steps.tolist(), seeing)).encode()
    return hashlib.sha256(told).hexdigest()[:16]


def _write(path: Path, data: Dataset, episode: Episode, part: Part, seeing: Seeing) -> None:
    films = [data.pictures(episode, camera, part.steps.tolist()) for camera in seeing.cameras]
    blob, offsets = bytearray(), []
    for pictures in zip(*films, strict=True):
        spans = []
        for pixels in pictures:
            encoded = encode_pixels(fit(pixels, seeing.size, seeing.how, 0), JPEG_QUALITY)
            spans.append((len(blob), len(blob) + len(encoded)))
            blob += encoded
        offsets.append(spans)
    partial = path.with_suffix(".partial")
    save_file({"jpeg": np.frombuffer(bytes(blob), np.uint8), "offset": np.array(offsets, dtype=np.int64)}, partial)
    os.replace(partial, path)
