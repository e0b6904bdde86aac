"""Message types: from the definitions in a bag, else from the suite's own interfaces, else those of ROS 2 Kilted.

Decoding is that of `rosbags`, which makes Python code from a definition; so names are checked first, and constants,
which decoding does not need, never reach it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from streaming_vla.bags.errors import WrongType
from streaming_vla.bags.topics import RawMessage, Topic

LARGEST_DEFINITION_BYTES = 1 << 18
LONGEST_SEQUENCE = 1 << 28
OWN_PACKAGE = "streaming_vla_interfaces"
_TYPE = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*/(msg|action|srv)/[A-Za-z][A-Za-z0-9_]*")
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class Decoder:
    """Decodes the messages of the topics of one bag."""

    def __init__(self, topics: Mapping[str, Topic]) -> None:
        self._topics = topics
        self._stores: dict[str, Any] = {}  # by type: two types of a bag may define a third differently

    def decode(self, message: RawMessage) -> Any:
        """Return the message as an object with the fields of its type; arrays are NumPy arrays.

        Raises:
            WrongType: the type is not known, or the bytes are not a message of it.
        """
        topic = self._topics[message.topic]
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
        if topic.type not in self._stores:
            own = _from_definition(topic.type, topic.definition, topic.definition_format)
            self._stores[topic.type] = own or _known(topic)
        return self._stores[topic.type]


def parse(text: str, kind: str, form: str = "ros2msg") -> dict[str, Any]:
    """Return the types of a definition with its dependencies, constants left out.

    Raises:
        ValueError: the text is no definition, or a name in it is none.
    """
    if len(text) > LARGEST_DEFINITION_BYTES:
        raise ValueError(f"the definition of {kind} has more than {LARGEST_DEFINITION_BYTES} characters")
    try:
        types = get_types_from_idl(text) if form == "ros2idl" else get_types_from_msg(text, kind)
    except Exception as error:  # the parser meets arbitrary text
        raise ValueError(_one_line(error)) from error
    for name, (_, fields) in types.items():
        for word in (field for field, _ in fields):
            if not _FIELD.fullmatch(word):
                raise ValueError(f"'{word}' is no name of a field")
        if not _TYPE.fullmatch(name):
            raise ValueError(f"'{name}' is no name of a type")
    return {name: ([], fields) for name, (_, fields) in types.items()}


@cache
def own_definitions() -> dict[str, str]:
    """Return the text of the suite's own message types by name, from the source tree or the ROS installation."""
    source = Path(__file__).resolve().parents[3] / "interfaces" / "msg"
    folder = source if source.is_dir() else _installed()
    files = sorted(folder.glob("*.msg")) if folder is not None else []
    return {f"{OWN_PACKAGE}/msg/{file.stem}": file.read_text(encoding="utf-8") for file in files}


@cache
def standard() -> Any:
    """Return the types of ROS 2 Kilted and the suite's own."""
    store = get_typestore(Stores.ROS2_KILTED)
    store.max_sequence_length = LONGEST_SEQUENCE
    types: dict[str, Any] = {}
    for name, text in own_definitions().items():
        types.update(parse(text, name))
    if types:
        store.register(types)
    return store


@lru_cache(maxsize=256)  # the bags of a robot share their definitions
def _from_definition(kind: str, text: str, form: str) -> Any | None:
    if not text:
        return None
    try:
        store = get_typestore(Stores.EMPTY)
        store.max_sequence_length = LONGEST_SEQUENCE
        store.register(parse(text, kind, form))
        store.get_msgdef(kind)
    except Exception:  # a type that is known otherwise can still be read
        return None
    return store


def _known(topic: Topic) -> Any:
    if topic.type in standard().fielddefs:
        return standard()
    raise WrongType(
        f"topic {topic.name} has type '{topic.type}', which neither the bag nor ROS 2 Kilted defines: record it with a "
        "recorder that stores definitions (MCAP)"
    )


def _installed() -> Path | None:
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    try:
        return Path(get_package_share_directory(OWN_PACKAGE)) / "msg"
    except PackageNotFoundError:
        return None


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
