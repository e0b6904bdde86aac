"""metadata.yaml of a rosbag2 folder: which files there are, and how they are compressed; read and written."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from streaming_vla.bags.errors import BagError, CorruptBag, NotABag
from streaming_vla.bags.topics import Topic

NAME = "metadata.yaml"
ROOT = "rosbag2_bagfile_information"
NEWEST_VERSION = 9
LARGEST_BYTES = 1 << 24
ENDINGS = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where PyYAML has it


@dataclass(frozen=True)
class BagFiles:
    """The storage files of a bag in order, and whether each message in them is compressed by itself (zstd)."""

    files: tuple[Path, ...]
    messages_compressed: bool = False
    problems: tuple[BagError, ...] = ()


@dataclass(frozen=True)
class FileSpan:
    """What a storage file holds: its name, first and last time and messages."""

    name: str
    begin_ns: int
    end_ns: int
    messages: int


def find(path: Path) -> BagFiles:
    """Return the files of the bag at `path`: a folder of rosbag2, or one storage file.

    Files that the metadata does not name (the recorder was killed) are taken as well.

    Raises:
        NotABag: nothing is there, or nothing of it is a storage file.
    """
    if path.is_file():
        if not path.name.endswith(ENDINGS):
            raise NotABag(f"{path} is no bag: expected a folder of rosbag2, or a file ending in {', '.join(ENDINGS)}")
        return BagFiles((path,))
    if not path.is_dir():
        raise NotABag(f"{path} does not exist: name the folder or the file of a bag")
    there = sorted((file for file in path.iterdir() if file.name.endswith(ENDINGS)), key=_natural)
    problems: list[BagError] = []
    information: Mapping[str, Any] = {}
    if (path / NAME).exists():
        try:
            information = _read(path / NAME)
        except CorruptBag as problem:
            problems.append(problem)
    named = [path / PurePath(str(name)).name for name in information.get("relative_file_paths") or []]
    missing = [file.name for file in named if file not in there]
    if missing:
        problems.append(CorruptBag(f"{path}: {', '.join(missing)} is named in {NAME}, but it is not there"))
    files = [file for file in named if file in there]
    files += [file for file in there if file not in files]
    if not files:
        raise NotABag(f"{path} holds no bag: expected files ending in {', '.join(ENDINGS)}")
    compressed = str(information.get("compression_mode", "")).lower() == "message"
    return BagFiles(tuple(files), compressed, tuple(problems))


def _profiles(text: str) -> list[Any]:
    """Return the QoS profiles that a file tells; none where its text is damaged."""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return []
    return found if isinstance(found, list) else []


def write(folder: Path, topics: Sequence[Topic], hashes: Mapping[str, str], files: Sequence[FileSpan]) -> None:
    """Write the metadata of an MCAP bag; the file is replaced at once, so it is never half written.

    Args:
        hashes: type hash (RIHS01_...) by message type.
    """
    held = [file for file in files if file.messages]
    begin_ns = min((file.begin_ns for file in held), default=0)
    duration_ns = max((file.end_ns for file in held), default=0) - begin_ns
    information = {
        "version": NEWEST_VERSION,
        "storage_identifier": "mcap",
        "duration": {"nanoseconds": duration_ns},
        "starting_time": {"nanoseconds_since_epoch": begin_ns},
        "message_count": sum(file.messages for file in files),
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": topic.name,
                    "type": topic.type,
                    "serialization_format": topic.encoding,
                    "offered_qos_profiles": _profiles(topic.qos),
                    "type_description_hash": hashes.get(topic.type, ""),
                },
                "message_count": topic.count,
            }
            for topic in topics
        ],
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [file.name for file in files],
        "files": [
            {
                "path": file.name,
                "starting_time": {"nanoseconds_since_epoch": file.begin_ns},
                "duration": {"nanoseconds": file.end_ns - file.begin_ns},
                "message_count": file.messages,
            }
            for file in files
        ],
        "custom_data": None,
        "ros_distro": os.environ.get("ROS_DISTRO", "rolling"),
    }
    partial = folder / f".{NAME}"
    partial.write_text(yaml.safe_dump({ROOT: information}, sort_keys=False), encoding="utf-8")
    partial.replace(folder / NAME)


def _read(path: Path) -> Mapping[str, Any]:
    """Return the information of a metadata file; CorruptBag when it cannot be read."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise CorruptBag(f"{path} has more than {LARGEST_BYTES} bytes; the files beside it are read without it")
        information = yaml.load(path.read_text(encoding="utf-8"), LOADER)[ROOT]
        if not isinstance(information, dict) or not isinstance(information.get("relative_file_paths") or [], list):
            raise TypeError("not a mapping")
        return information
    except (yaml.YAMLError, KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        if isinstance(error, CorruptBag):
            raise
        raise CorruptBag(f"{path} is not readable as metadata of rosbag2; the files beside it are read") from error


def _natural(path: Path) -> list[int | str]:
    """Return a key that sorts bag_2 before bag_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
