"""Message types: from the definitions in a bag, else the suite's own, else those of the ROS 2 that recorded it.

Decoding is that of `rosbags`, which makes Python code from a definition; so names are checked first, and constants,
which decoding does not need, never reach it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from streaming_vla.bags.errors import BagError, CorruptBag, WrongType
from streaming_vla.bags.topics import RawMessage, Topic

LARGEST_DEFINITION_BYTES = 1 << 17
LONGEST_SEQUENCE = 1 << 28
MOST_LINES = 10_000  # of the code that reads one type
OWN_PACKAGE = "streaming_vla_interfaces"
_TYPE = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*/(msg|action|srv)/[A-Za-z][A-Za-z0-9_]*")
_IDL_SECTION = re.compile(r"^=+\nIDL: .*\n", re.MULTILINE)  # one for each type that the first one refers to
_IDL_INCLUDE = re.compile(r"^[ \t]*#.*$", re.MULTILINE)  # what it names stands in a section of its own
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class Decoder:
    """Decodes the messages of one bag, each by the description of its own publisher.

    Args:
        topics: of the bag, for messages that do not say where they are from.
        distro: ROS 2 whose types are taken where the bag defines none; "" takes Kilted.
        report: is told of a definition that cannot be read, so that another one is taken.
    """

    def __init__(self, topics: Mapping[str, Topic], distro: str = "", report: Callable[[BagError], None] | None = None):
        self._topics, self._report = topics, report
        self._standard = standard(distro)
        self._stores: dict[tuple[str, str], Any] = {}  # two types of a bag may define a third differently

    def decode(self, message: RawMessage) -> Any:
        """Return the message as an object with the fields of its type; arrays are NumPy arrays.

        Raises:
            WrongType: the type is not known, or the bytes are not a message of it.
        """
        topic = message.described or self._topics[message.topic]
        try:
            return self.store(topic).deserialize_cdr(message.data, topic.type)
        except WrongType:
            raise
        except Exception as error:  # generated code meets arbitrary bytes
            raise WrongType(
                f"topic {topic.name}: a message cannot be read as {topic.type} ({_one_line(error)}): it is damaged, or "
                "the bag's definition of the type is another one"
            ) from error

    def missing(self, topic: Topic) -> list[str]:
        """Return the fields that the suite's own type has and the bag's type of that name does not.

        Raises:
            WrongType: nothing defines the type.
        """
        there = {name for name, _ in self.store(topic).fielddefs[topic.type][1]}
        return [name for name, _ in standard().fielddefs[topic.type][1] if name not in there]

    def store(self, topic: Topic) -> Any:
        """Return the type store that knows the type of `topic`.

        Raises:
            WrongType: nothing defines the type.
        """
        if topic.encoding not in ("cdr", ""):
            raise WrongType(f"topic {topic.name} is encoded as '{topic.encoding}', expected cdr")
        key = topic.type, topic.definition
        if key not in self._stores:
            own = None
            try:
                own = _from_definition(topic.type, topic.definition, topic.definition_format)
            except ValueError as error:
                self._tell(topic, error)
            self._stores[key] = own or self._known(topic)
        return self._stores[key]

    def _known(self, topic: Topic) -> Any:
        if topic.type in self._standard.fielddefs:
            return self._standard
        raise WrongType(
            f"topic {topic.name} has type '{topic.type}', which neither the bag nor ROS 2 defines: record it with a "
            "recorder that stores definitions (MCAP)"
        )

    def _tell(self, topic: Topic, error: ValueError) -> None:
        if self._report is not None:
            self._report(
                CorruptBag(
                    f"topic {topic.name}: the bag's definition of {topic.type} cannot be read ({error}); that of ROS 2 "
                    "is taken where there is one"
                )
            )


def definition(topic: Topic, distro: str = "") -> tuple[str, str]:
    """Return the definition of a topic's type with all that it refers to, and the format of the text.

    What the bag says is kept; else it is that of the suite or of ROS 2 `distro`. Both are "" when nobody knows it.
    """
    if topic.definition:
        return topic.definition, topic.definition_format
    types = standard(distro)
    if topic.type not in types.fielddefs:
        return "", ""
    text: str = types.generate_msgdef(topic.type, ros_version=2)[0]
    return text, "ros2msg"


def parse(text: str, kind: str, form: str = "ros2msg") -> dict[str, Any]:
    """Return the types of a definition with its dependencies, constants left out.

    Raises:
        ValueError: the text is no definition, or a name in it is none.
    """
    if len(text) > LARGEST_DEFINITION_BYTES:
        raise ValueError(f"the definition of {kind} has more than {LARGEST_DEFINITION_BYTES} characters")
    text = text.replace("\r\n", "\n")
    try:
        if form == "ros2idl":
            parts = [part for part in _IDL_SECTION.split(_IDL_INCLUDE.sub("", text)) if part.strip()]
            types = {name: fields for part in parts for name, fields in get_types_from_idl(part).items()}
        else:
            types = get_types_from_msg(text, kind)
    except Exception as error:  # the parser meets arbitrary text
        raise ValueError(_one_line(error)) from error
    empty = _empty(types)
    for name, (_, fields) in types.items():
        for word in (field for field, _ in fields):
            if not _FIELD.fullmatch(word):
                raise ValueError(f"'{word}' is no name of a field")
        if not _TYPE.fullmatch(name):
            raise ValueError(f"'{name}' is no name of a type")
        if sum(_lines(field, empty) for _, field in fields) > MOST_LINES:
            raise ValueError(f"'{name}' has more than {MOST_LINES} fields, those of arrays counted one by one")
    return {name: ([], fields) for name, (_, fields) in types.items()}


def _empty(types: Mapping[str, Any]) -> set[str]:
    """Return the types that take no byte."""
    found: set[str] = set()
    while more := {
        name
        for name, (_, fields) in types.items()
        if name not in found and all(kind == Nodetype.NAME and inner in found for _, (kind, inner) in fields)
    }:
        found |= more
    return found


def _lines(field: Any, empty: set[str]) -> int:
    """Return how much code reads a field: `rosbags` writes a line for each text or message of a fixed array.

    Raises:
        ValueError: an array of messages without a field: any number of them takes no byte.
    """
    kind, inner = field
    if kind not in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        return 1
    (element, name), count = inner
    if element == Nodetype.NAME and name in empty:
        raise ValueError(f"there is an array of '{name}', which has no field")
    numbers = element == Nodetype.BASE and name[0] not in ("string", "wstring")
    return 1 if kind == Nodetype.SEQUENCE or numbers else int(count)


@cache
def own_definitions() -> dict[str, str]:
    """Return the text of the suite's own message types by name, from the source tree or the ROS installation."""
    source = Path(__file__).resolve().parents[3] / "interfaces" / "msg"
    folder = source if source.is_dir() else _installed()
    files = sorted(folder.glob("*.msg")) if folder is not None else []
    return {f"{OWN_PACKAGE}/msg/{file.stem}": file.read_text(encoding="utf-8") for file in files}


@cache
def standard(distro: str = "") -> Any:
    """Return the types of a ROS 2 distribution (Kilted where it is not known) and the suite's own."""
    names = {store.value.removeprefix("ros2_"): store for store in Stores if store.name.startswith("ROS2_")}
    store = get_typestore(names.get(distro, Stores.ROS2_KILTED))
    store.max_sequence_length = LONGEST_SEQUENCE
    types: dict[str, Any] = {}
    for name, text in own_definitions().items():
        types.update(parse(text, name))
    if types:
        store.register({name: fields for name, fields in types.items() if name not in store.fielddefs})
    return store


@lru_cache(maxsize=256)  # the bags of a robot share their definitions
def _from_definition(kind: str, text: str, form: str) -> Any | None:
    """Return the types of a definition, None of an empty one; ValueError when it cannot be read."""
    if not text:
        return None
    types = parse(text, kind, form)
    try:
        store = get_typestore(Stores.EMPTY)
        store.max_sequence_length = LONGEST_SEQUENCE
        store.register(types)
        store.get_msgdef(kind)
    except Exception as error:  # of a type that is not among those of the text
        raise ValueError(_one_line(error)) from error
    return store


def _installed() -> Path | None:
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    try:
        return Path(get_package_share_directory(OWN_PACKAGE)) / "msg"
    except PackageNotFoundError:
        return None


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
