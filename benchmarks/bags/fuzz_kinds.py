"""What is fuzzed: a kind of file each, with a reader, and how a silent change of a value is found out.

A change is silent when the reader tells of nothing, and gives another value for bytes that were not touched: messages
(with their topic and time) whose record, topic and definition stand in the damaged file as in the whole one,
parameters whose line does, tensors whose bytes do, pictures whose codec has a checksum.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
import zstandard
from mutations import TOPICS, change, make_bags, mutate
from safetensors.torch import load_file

from kv_cache.gate import Gate, GateConfig
from kv_cache.gate_file import GateFileError, load_gate, save_gate
from streaming_vla.bags.definitions import standard
from streaming_vla.bags.errors import BagError
from streaming_vla.bags.reader import Bag
from streaming_vla.images.decode import COMPRESSED, IMAGE, POINTS, check_message, pixels_of
from streaming_vla.parameters.document import render
from streaming_vla.parameters.load import ParameterFileError, read
from streaming_vla.parameters.sections import EVERY_NODE, last_name

RECORD_BYTES = 48  # before the data of a message that stands in its file as it is: head of a record, or of a row
Read = set[tuple[str, int, str]]  # topic, time (ns) and content of messages


@dataclass(frozen=True)
class Outcome:
    """What came of one damaged file.

    Args:
        ended: what refused it, "-" when it was read.
        silent: a value that changed without a word, "" for none.
        read: values that were read: messages, parameters, tensors, pictures.
    """

    ended: str
    silent: str = ""
    read: int = 0


# ---------------------------------------------------------------- bags


def read_everything(path: Path) -> tuple[Read, int, str]:
    """Return the messages that were decoded, how many more were read, and what was told: "" when nothing is wrong."""
    found: Read = set()
    more = 0
    told = ""
    try:
        with Bag(path) as bag:
            for message in bag.messages():
                try:
                    found.add((message.topic, message.time_ns, repr(bag.decode(message))))
                except BagError as error:
                    more += 1
                    told = told or type(error).__name__
            for problem in bag.problems:
                assert str(problem) and "\n" not in str(problem)
                told = told or type(problem).__name__
    except BagError as error:
        assert str(error) and "\n" not in str(error)
        return found, more, type(error).__name__
    return found, more, told


def _storage(folder: Path) -> bytes:
    """Return the content of a bag's storage files, decompressed where a file is compressed as a whole."""
    parts = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        if file.suffix == ".zstd":
            try:
                data = zstandard.ZstdDecompressor().stream_reader(data).read(1 << 24)
            except zstandard.ZstdError:
                data = b""
        if file.suffix != ".yaml":
            parts.append(data)
    return b"".join(parts)


def _untouched(whole: bytes, damaged: bytes, said: list[tuple[str, int, bytes]]) -> Read:
    """Return the messages whose record, topic and definition are in the damaged storage as in the whole one."""
    store = standard()
    found: Read = set()
    kept = {}
    for name, kind in TOPICS.items():
        text = store.generate_msgdef(kind, ros_version=2)[0].encode()
        kept[name] = all(part in damaged for part in (name.encode(), kind.encode(), text) if part in whole)
    for name, time_ns, data in said:
        at = whole.find(data)
        if at >= 0 and kept[name] and whole[at - RECORD_BYTES : at + len(data)] in damaged:
            found.add((name, time_ns, repr(store.deserialize_cdr(data, TOPICS[name]))))
    return found


class Bags:
    """Bags of one storage, in every compression."""

    def __init__(self, folder: Path, ending: str, damaged: str = "") -> None:
        self._damaged = damaged
        bags, self._said = make_bags(folder)
        self._bags = [
            bag
            for bag in bags
            if any(ending in file.name for file in bag.iterdir()) and (not damaged or (bag / damaged).exists())
        ]
        self._whole = {bag: (read_everything(bag)[0], _storage(bag)) for bag in self._bags}

    def attempt(self, scratch: Path, seed: int) -> Outcome:
        """Read one damaged bag."""
        bag = self._bags[seed % len(self._bags)]
        target = scratch / "bag"
        mutate(bag, target, seed, self._damaged)
        try:
            found, more, told = read_everything(target)
            whole, storage = self._whole[bag]
            strict = bag.name.startswith("own_")  # every chunk has a checksum
            silent = "" if told else self._silent(found, whole, storage, _storage(target), strict)
        finally:
            shutil.rmtree(target)
        return Outcome(told or "-", silent, len(found) + more)

    def _silent(self, found: Read, whole: Read, storage: bytes, damaged: bytes, strict: bool) -> str:
        if strict or damaged == storage:
            return "" if found == whole else f"{len(found ^ whole)} messages differ"
        untouched = _untouched(storage, damaged, self._said)
        missing = untouched - found
        if missing:
            return f"{len(missing)} messages are missing or changed, first {min(missing)[:2]}"
        return ""


# ---------------------------------------------------------------- parameter files


class Parameters:
    """The parameter file with every default."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "parameters.yaml"
        self._text = render()
        self._path.write_text(self._text)
        self._whole = read(self._path).values()

    def attempt(self, scratch: Path, seed: int) -> Outcome:
        """Read one damaged parameter file."""
        random_ = random.Random(seed)
        data = self._text.encode()
        for _ in range(random_.choice((1, 1, 2, 4))):
            data, _ = change(bytearray(data), random_, text=True)
        path = scratch / "parameters.yaml"
        path.write_bytes(data)
        try:
            found = read(path).values()
        except ParameterFileError as error:
            assert str(error)
            return Outcome(type(error).__name__)
        whole = {line: (section, key) for line, section, key in _keys(self._text)}
        for line, section, key in _keys(data.decode()):
            if whole.get(line) == (section, key):
                node = last_name(section)
                for name in [each for each in self._whole if node in (each, EVERY_NODE) and key in self._whole[each]]:
                    before, now = self._whole[name][key], found[name][key]
                    if now != before:
                        return Outcome("-", f"{section} {key} is {now!r} for {name}, {before!r} was written")
        return Outcome("-", "", sum(map(len, found.values())))


def _keys(text: str) -> list[tuple[str, str, str]]:
    """Return line, section and key of every parameter as it stands in the file; a line is told by its section too."""
    found, section = [], ""
    for line in text.split("\n"):
        if re.fullmatch(r"/\S+:", line):
            section = line[:-1]
        elif match := re.match(r"    (\w+): ", line):
            found.append((f"{section}\n{line}", section, match[1]))
    return found


# ---------------------------------------------------------------- checkpoints


class Checkpoints:
    """A small gate: the loader is that of every checkpoint."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self._path = folder / "gate.safetensors"
        save_gate(self._path, Gate(GateConfig(8, 2, 4)), 0.25, {"steps": 3})
        data = self._path.read_bytes()
        header = 8 + int.from_bytes(data[:8], "little")
        self._head, self._body = data[:header], data[header:]
        self._whole = load_file(self._path)
        self._kept = {  # with what is beside them: some are a single number, which stands elsewhere too
            name: self._body[max(0, begin - RECORD_BYTES) : end + RECORD_BYTES]
            for name, entry in json.loads(self._head[8:]).items()
            if name in self._whole
            for begin, end in [entry["data_offsets"]]
        }

    def attempt(self, scratch: Path, seed: int) -> Outcome:
        """Load one damaged checkpoint."""
        random_ = random.Random(seed)
        head, body = self._head, self._body
        for _ in range(random_.choice((1, 1, 2, 4))):
            if random_.random() < 0.7:
                head, _ = change(bytearray(head), random_, text=random_.random() < 0.5)
            else:
                body, _ = change(bytearray(body), random_)
        path = scratch / "gate.safetensors"
        path.write_bytes(head + body)
        try:
            gate = load_gate(path).gate
        except GateFileError as error:
            assert str(error)
            return Outcome(type(error).__name__)
        found = gate.state_dict()
        for name, before in self._whole.items():
            if self._kept[name] in body and not torch.equal(found[name], before):
                return Outcome("-", f"tensor {name} differs")
        return Outcome("-", "", len(found))


# ---------------------------------------------------------------- pictures


class Pictures:
    """Camera messages of every kind, damaged in their data or in what they say of them."""

    def __init__(self, folder: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3)).astype(np.uint8)
        scene = cv2.GaussianBlur(noise, (0, 0), 2)
        depth = (scene[..., 0].astype(np.uint16) * 20)[:, :, None]
        self._messages: list[tuple[str, Any]] = [
            (IMAGE, _raw(encoding, rows))
            for encoding, rows in (
                ("rgb8", scene), ("mono8", scene[..., :1]), ("bayer_rggb8", scene[..., :1]), ("yuyv", scene[..., :2]),
                ("16UC1", depth), ("32FC1", depth.astype(np.float32)),
            )
        ]  # fmt: skip
        wide = depth[..., 0]
        inverse = np.array([0], "<i4").tobytes() + np.array([10100.0, -1009.0], "<f4").tobytes()
        self._messages += [
            (COMPRESSED, SimpleNamespace(format=text, data=data))
            for text, data in (
                ("jpeg", _coded(".jpg", scene)),
                ("bgr8; jpeg compressed bgr8", _coded(".jpg", scene)),
                ("bgr8; png compressed bgr8", _coded(".png", scene)),
                ("mono16; png compressed ", _coded(".png", wide)),
                ("bayer_rggb8; png compressed ", _coded(".png", scene[..., 0])),
                ("16UC1; compressedDepth png", bytes(12) + _coded(".png", wide)),
                ("32FC1; compressedDepth png", inverse + _coded(".png", wide)),
                ("16UC1; compressedDepth rvl", bytes(12) + _rvl(wide)),
                ("webp", _coded(".webp", scene)),
                ("8UC3; tiff compressed ", _coded(".tiff", scene)),
            )
        ]
        self._messages.append((POINTS, _cloud(wide)))
        self._whole = [pixels_of(check_message(message, kind), kind) for kind, message in self._messages]

    def attempt(self, scratch: Path, seed: int) -> Outcome:
        """Decode one damaged message."""
        random_ = random.Random(seed)
        place = seed % len(self._messages)
        kind, whole = self._messages[place]
        message = SimpleNamespace(**vars(whole))
        for _ in range(random_.choice((1, 1, 2, 4))):
            _damage(message, random_)
        try:
            pixels = pixels_of(check_message(message, kind), kind)
        except ValueError as error:
            assert str(error)
            return Outcome(type(error).__name__)
        assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
        text = getattr(message, "format", "")
        same = "png" in text and text == whole.format and message.data[:12] == whole.data[:12]
        if same and not np.array_equal(pixels, self._whole[place]):
            return Outcome("-", "a damaged PNG is another picture")
        return Outcome("-", "", 1)


def _damage(message: SimpleNamespace, random_: random.Random) -> None:
    names = [name for name in vars(message) if name != "fields"]
    name = random_.choice(["data", *names])
    value = getattr(message, name)
    if isinstance(value, bytes):
        changed, _ = change(bytearray(value), random_)
        setattr(message, name, changed)
    elif isinstance(value, str):
        changed, _ = change(bytearray(value.encode()), random_)
        setattr(message, name, changed.decode(errors="replace"))
    else:  # an unsigned number of 32 bits
        setattr(
            message,
            name,
            (value ^ (1 << random_.randrange(32))) if random_.random() < 0.5 else random_.randrange(1 << 32),
        )


def _raw(encoding: str, rows: np.ndarray) -> SimpleNamespace:
    data = np.ascontiguousarray(rows).tobytes()
    height, width = rows.shape[:2]
    return SimpleNamespace(
        encoding=encoding, height=height, width=width, step=len(data) // height, is_bigendian=0, data=data
    )


def _coded(ending: str, values: np.ndarray) -> bytes:
    return bytes(cv2.imencode(ending, values)[1])


def _rvl(values: np.ndarray) -> bytes:
    """Return an RVL stream of one run with measurements."""
    flat = np.maximum(values.reshape(-1).astype(int), 1)
    differences = np.diff(flat, prepend=0)
    nibbles: list[int] = []
    for number in (0, len(flat), *((differences << 1) ^ (differences >> 63)).tolist()):
        rest = number
        while True:
            rest, low = rest >> 3, rest & 7
            nibbles.append(low | (8 if rest else 0))
            if not rest:
                break
    nibbles += [0] * (-len(nibbles) % 8)
    words = [int("".join(f"{nibble:x}" for nibble in nibbles[at : at + 8]), 16) for at in range(0, len(nibbles), 8)]
    return np.array(values.shape[::-1], "<u4").tobytes() + np.array(words, "<u4").tobytes()


def _cloud(depth: np.ndarray) -> SimpleNamespace:
    points = np.zeros((*depth.shape, 4), np.float32)
    points[..., 2] = depth / 1000
    fields = [SimpleNamespace(name=name, offset=4 * at, datatype=7, count=1) for at, name in enumerate("xyz")]
    return SimpleNamespace(
        fields=fields, height=depth.shape[0], width=depth.shape[1], point_step=16, row_step=16 * depth.shape[1],
        is_bigendian=0, data=points.tobytes(),
    )  # fmt: skip


KINDS: dict[str, Callable[[Path], Any]] = {
    "mcap": lambda folder: Bags(folder, ".mcap"),
    "db3": lambda folder: Bags(folder, ".db3"),
    "metadata": lambda folder: Bags(folder, "", "metadata.yaml"),
    "parameters": Parameters,
    "checkpoints": Checkpoints,
    "pictures": Pictures,
}
