"""Words of an instruction as numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable

UNKNOWN = "<unknown>"


def split_words(instruction: str) -> list[str]:
    """Return the lower-case words of `instruction`."""
    return re.findall(r"[a-z0-9]+", instruction.lower())


def build_vocabulary(instructions: Iterable[str]) -> tuple[str, ...]:
    """Return the sorted words of `instructions` behind UNKNOWN at index 0."""
    return (UNKNOWN, *sorted({word for instruction in instructions for word in split_words(instruction)}))


class Tokenizer:
    """Turns an instruction into word numbers.

    Args:
        words: the vocabulary; a word that is not in it becomes 0.
        maximum_words: further words are cut off.
    """

    def __init__(self, words: tuple[str, ...], maximum_words: int) -> None:
        self._index = {word: index for index, word in enumerate(words)}
        self._maximum = maximum_words

    def __call__(self, instruction: str) -> list[int]:
        """Return the numbers of the words, padded with -1 to `maximum_words`."""
        numbers = [self._index.get(word, 0) for word in split_words(instruction)][: self._maximum]
        return numbers + [-1] * (self._maximum - len(numbers))
