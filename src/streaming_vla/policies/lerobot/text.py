"""What LeRobot makes of an instruction, and the tokenizer that a local folder holds."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.policies.errors import CheckpointError, shortened

LOGGER = logging.getLogger(__name__)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
TOKENIZER_BYTES = 256 * 1024**2
BINS = np.linspace(-1.0, 1.0, 257)[:-1]


def with_new_line(text: str) -> str:
    """Return the text with a new line at its end."""
    return text if text.endswith("\n") else f"{text}\n"


def with_state(text: str, state: npt.NDArray[np.float32]) -> str:
    """Return pi0.5's prompt: the text in one line, and the normalised state in 256 bins of -1 to 1.

    Below -1 the bin is -1, above 1 it is 255.
    """
    bins = np.digitize(state, BINS) - 1
    cleaned = text.strip().replace("_", " ").replace("\n", " ")
    return f"Task: {cleaned}, State: {' '.join(map(str, bins))};\nAction: "


class Tokenizer:
    """A tokenizer of transformers, from a local folder.

    Args:
        folder: that holds it.
        most: tokens of a text; what is longer is cut, as LeRobot does, with a warning.
        vocabulary: rows of the policy's embedding.

    Raises:
        CheckpointError: the folder holds no tokenizer that can be read, or it belongs to another vocabulary.
    """

    def __init__(self, folder: Path, most: int, vocabulary: int) -> None:
        self._most, self._vocabulary, self._folder = most, vocabulary, folder
        self._tokenizer = _load(folder)
        self("a")

    def __call__(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text, without padding.

        Raises:
            CheckpointError: a token that the policy has no embedding of.
        """
        tokens: list[int] = self._tokenizer(text, truncation=False)["input_ids"]
        if len(tokens) > self._most:
            self._warn(text, len(tokens))
            tokens = self._tokenizer(text, truncation=True, max_length=self._most)["input_ids"]
        return self._known(tokens)

    def followed_by(self, text: str, end: str) -> tuple[int, ...]:
        """Return the tokens of a text and, tokenized on its own, of its end; see `__call__`."""
        tokens = [*self._tokenizer(text)["input_ids"], *self._tokenizer(end, add_special_tokens=False)["input_ids"]]
        if len(tokens) > self._most:
            self._warn(text, len(tokens))
        return self._known(tokens[: self._most])

    def _warn(self, text: str, count: int) -> None:
        LOGGER.warning(
            "The instruction %r has %d tokens, the policy reads %d: the rest is cut", text, count, self._most
        )

    def _known(self, tokens: list[int]) -> tuple[int, ...]:
        if not all(0 <= token < self._vocabulary for token in tokens):
            raise CheckpointError(
                f"the tokenizer in '{self._folder}' gives token {max(tokens)}, the policy knows {self._vocabulary}: it "
                "belongs to another model"
            )
        return tuple(tokens)

    @property
    def padding(self) -> int:
        """Token that fills a text up."""
        return int(self._tokenizer.pad_token_id)


def find_tokenizer(folders: list[Path], wanted: str) -> Path:
    """Return the first folder that holds a tokenizer.

    Args:
        wanted: the hub's name of the tokenizer that the checkpoint asks for.

    Raises:
        CheckpointError: none does; the message says what to give.
    """
    for folder in folders:
        if any((folder / name).is_file() for name in TOKENIZER_FILES):
            return folder
    looked = " and ".join(f"'{folder}'" for folder in folders)
    raise CheckpointError(
        f"the tokenizer is missing: none of {looked} has {' or '.join(TOKENIZER_FILES)}; give model_assets, a "
        f"folder with the tokenizer and config.json of '{shortened(wanted)}' (its weights are not needed)"
    )


def _load(folder: Path) -> Any:
    for name in TOKENIZER_FILES:
        file = folder / name
        if file.is_file() and file.stat().st_size > TOKENIZER_BYTES:
            raise CheckpointError(
                f"'{file}' has {file.stat().st_size} bytes, expected at most {TOKENIZER_BYTES}: it is no tokenizer"
            )
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # whatever its readers raise; a panic of its Rust part is no Exception
        raise CheckpointError(
            f"the tokenizer in '{folder}' cannot be read ({type(error).__name__}): copy it again from the model's page"
        ) from error
