"""metadata.yaml of a rosbag2 folder: which files there are, and how they are compressed; read and written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import yaml

from streaming_vla import bounded_yaml
from streaming_vla.bags.errors import CONVERT_ROS1, BagError, CorruptBag, NotABag
from streaming_vla.bags.topics import Topic, full_type

NAME = "metadata.yaml"
ROOT = "rosbag2_bagfile_information"
NEWEST_VERSION = 9
ENDINGS = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")
ROS1_ENDING, ROS1_MAGIC = ".bag", b"#ROSBAG V"


@dataclass(frozen=True)
class BagFiles:
    """What is known of a bag before a storage file is opened.

    Args:
        files: of the storage, in order.
        messages_compressed: each message in them is compressed by itself (zstd).
        problems: what is wrong with the metadata.
        distro: of ROS that recorded the bag, "" where nothing tells.
        topics: type and count of messages that the metadata tell of, by topic.
    """

    files: tuple[Path, ...]
    messages_compressed: bool = False
    problems: tuple[BagError, ...] = ()
    distro: str = ""
    topics: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    def disagreements(self, found: Mapping[str, Topic]) -> Iterator[BagError]:
        """Yield what the files hold less of, or otherwise, than the metadata tell, in a sentence each."""
        folder = self.files[0].parent
        there = {name: found[name].count if name in found else 0 for name in self.topics}
        less = [
            f"{there[name]} of {count} of {name}" for name, (_, count) in self.topics.items() if there[name] < count
        ]
        if less:
            yield CorruptBag(f"{folder}: messages that {NAME} tells of are not there: {', '.join(less)} are readable")
        for name, (kind, _) in self.topics.items():
            if name in found and kind != found[name].type:
                yield CorruptBag(
                    f"{folder}: {NAME} says that {name} is of type {kind}, the file says {found[name].type}; it is "
                    "read as that"
                )


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
        _refuse_ros1(path)
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
        for file in path.glob(f"*{ROS1_ENDING}"):
            _refuse_ros1(file)
        raise NotABag(f"{path} holds no bag: expected files ending in {', '.join(ENDINGS)}")
    compressed = str(information.get("compression_mode", "")).lower() == "message"
    distro = str(information.get("ros_distro") or "")
    return BagFiles(tuple(dict.fromkeys(files)), compressed, tuple(problems), distro, _topics(information))


def _refuse_ros1(file: Path) -> None:
    with file.open("rb") as opened:
        begin = opened.read(len(ROS1_MAGIC))
    if begin == ROS1_MAGIC or (file.name.endswith(ROS1_ENDING) and not begin):
        convert = CONVERT_ROS1.format(source=file, target=file.with_suffix(""))
        raise NotABag(f"{file} is a bag of ROS 1: {convert}")


def _topics(information: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Return type and count of messages by topic, of as many as the metadata tell readably."""
    found: dict[str, tuple[str, int]] = {}
    entries = information.get("topics_with_message_count")
    for entry in entries if isinstance(entries, list) else ():
        topic = entry.get("topic_metadata") if isinstance(entry, dict) else None
        if isinstance(topic, dict) and isinstance(count := entry.get("message_count"), int) and "name" in topic:
            name, kind = str(topic["name"]), full_type(str(topic.get("type")))
            found[name] = kind, count + (found[name][1] if name in found else 0)
    return found


def _profiles(text: str) -> list[Any]:
    """Return the QoS profiles that a file tells; none where its text is damaged."""
    try:
        found = bounded_yaml.load(text)
    except bounded_yaml.YamlRefused:
        return []
    return found if isinstance(found, list) else []


def write(folder: Path, topics: Sequence[Topic], files: Sequence[FileSpan]) -> None:
    """Write the metadata of an MCAP bag; the file is replaced at once, so it is never half written."""
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
                    "type_description_hash": topic.type_hash,
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
    reason = "it is no mapping of rosbag2"
    try:
        content = bounded_yaml.load(bounded_yaml.read(path))
        information = content.get(ROOT) if isinstance(content, dict) else None
        if isinstance(information, dict) and isinstance(information.get("relative_file_paths") or [], list):
            return information
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
    raise CorruptBag(f"{path} is not readable as metadata of rosbag2 ({reason}); the files beside it are read")


def _natural(path: Path) -> list[int | str]:
    """Return a key that sorts bag_2 before bag_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
