"""What can be wrong with a bag: one class per kind, one sentence per message.

`TruncatedBag`, `CorruptBag` and `ClockJump` are met while a bag is read: they are collected, and everything else of
the bag is read all the same. The others end the work.
"""

from __future__ import annotations

CONVERT_ROS1 = (
    "convert the bag of ROS 1 with 'rosbags-convert --src {source} --dst {target}' and name the folder it makes"
)


LONGEST_SENTENCE = 2000


def printable(text: str) -> str:
    """Return `text` with what a file may have put into it made visible: line ends and control characters as escapes."""
    text = text if len(text) <= LONGEST_SENTENCE else f"{text[:LONGEST_SENTENCE]}..."
    return text if text.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


class BagError(ValueError):
    """A bag cannot be used as asked; the message is one sentence that names the bag and the fix.

    Of several bags there is one sentence for each, a line each.
    """

    def __init__(self, *sentences: str) -> None:
        super().__init__("\n".join(map(printable, sentences)))


class NotABag(BagError):
    """There is no bag, or its storage format or version is not known."""


class EmptyBag(BagError):
    """The bag holds no message."""


class TruncatedBag(BagError):
    """A file ends in the middle: the recorder was killed, the disk was full or a copy was cut off."""


class CorruptBag(BagError):
    """Bytes in the middle of a file are not what was written."""


class ClockJump(BagError):
    """The time of the messages jumps, as that of a simulation that was reset or of a system clock that was set."""


class MissingTopic(BagError):
    """A topic that is needed is not in the bag."""


class WrongType(BagError):
    """A topic has another message type than what it is used for, or its definition cannot be read."""


class NoCamera(BagError):
    """The bag holds no picture topic."""
