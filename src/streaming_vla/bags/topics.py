"""What a bag is made of: topics and messages as they were recorded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """A topic of a bag; where publishers describe it differently, there is one of these for each description.

    Args:
        type: of its messages, as sensor_msgs/msg/Image.
        count: messages recorded; 0 where the bag does not tell.
        encoding: of the messages, cdr.
        definition: text of the type, "" when the bag does not hold it.
        definition_format: ros2msg, ros2idl or "".
        qos: offered QoS profiles, YAML.
        type_hash: RIHS01_... of the type, "" where the bag does not tell.
    """

    name: str
    type: str
    count: int = 0
    encoding: str = "cdr"
    definition: str = ""
    definition_format: str = ""
    qos: str = ""
    type_hash: str = ""

    def __hash__(self) -> int:
        """Return what is quick to find: recorder and reader look a topic up for every message."""
        return hash((self.name, self.type))

    @property
    def latched(self) -> bool:
        """True when a late subscription gets the last messages as well (durability transient local)."""
        return "transient_local" in self.qos or "durability: 1" in self.qos  # names from version 9 on, numbers before


@dataclass(slots=True)
class RawMessage:
    """One message as it was recorded; not frozen, which would triple the time of making one.

    Args:
        topic: its name.
        time_ns: when it was received.
        data: CDR.
        published_ns: when it was published, on the clock of its publisher; 0 where the bag does not tell.
        described: the topic as this message's own publisher describes it, with the type that decodes it.
    """

    topic: str
    time_ns: int
    data: bytes | memoryview
    published_ns: int = 0
    described: Topic | None = None


def full_type(name: str) -> str:
    """Return a type's name in three parts: some writers leave out `/msg/`, as ROS 1 and ROS 2 Crystal did."""
    parts = name.split("/")
    return f"{parts[0]}/msg/{parts[1]}" if len(parts) == 2 else name
