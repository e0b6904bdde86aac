"""What a bag is made of: topics and messages as they were recorded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """A topic of a bag.

    Args:
        type: of its messages, as sensor_msgs/msg/Image.
        count: messages recorded; 0 where the bag does not tell.
        encoding: of the messages, cdr.
        definition: text of the type, "" when the bag does not hold it.
        definition_format: ros2msg, ros2idl or "".
        qos: offered QoS profiles, YAML.
    """

    name: str
    type: str
    count: int = 0
    encoding: str = "cdr"
    definition: str = ""
    definition_format: str = ""
    qos: str = ""


@dataclass(frozen=True)
class RawMessage:
    """One message as it was recorded.

    Args:
        time_ns: when it was received.
        data: CDR.
        published_ns: when it was published, on the clock of its publisher; 0 where the bag does not tell.
    """

    topic: str
    time_ns: int
    data: bytes | memoryview
    published_ns: int = 0
