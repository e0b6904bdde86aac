"""The interface of a cache policy: what stays as it is, what becomes a summary, and what is forgotten first."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kv_cache.chunks import Chunks, Queries, State
from kv_cache.spec import CacheSpec


@dataclass(frozen=True)
class Sizes:
    """What a cache is made of.

    Args:
        sinks: first tokens of a session, which always stay.
        recent: newest tokens, which always stay.
        chunk: tokens C that are judged together.
        summaries: most tokens that are held of older chunks: one is a summary, `chunk` are a chunk word for word.
        log_count: whether log(C) is added to the attention logits of a summary, because it stands for C tokens.
    """

    sinks: int
    recent: int
    chunk: int = 1
    summaries: int = 0
    log_count: bool = False

    @property
    def max_tokens(self) -> int:
        """Most tokens that are ever held."""
        return self.sinks + self.summaries + self.recent + self.chunk - 1

    @property
    def max_positions(self) -> int:
        """Positions that are ever used: 0 .. max_positions - 1."""
        return self.sinks + self.summaries * self.chunk + self.recent + self.chunk - 1


class CachePolicy(ABC):
    """A cache holds [sinks | summaries | recent tokens], in the order of the session.

    The first `sinks` tokens and the newest `recent` ones stay as they are. What is older is cut into chunks of
    `chunk` tokens; tokens that do not fill a chunk yet stay as well. A chunk is judged once, for all layers, heads,
    keys and values, when it leaves: its tokens stay if its score reaches `exact`, it becomes one summary token if it
    reaches `least_score`, otherwise it is dropped. Of more than `summaries` tokens the chunk of lowest utility, the
    oldest where utilities are equal, first becomes a summary and then goes.

    Positions close up: a kept chunk takes the `chunk` positions that it had, its summary stands in their middle, and
    what is dropped or evicted takes none. So nothing runs away in an endless session, and where nothing is dropped
    every token is where it was.

    A policy holds no state of a session: `start`, `score` and `observe` get and return it.
    """

    name: ClassVar[str]
    scored: ClassVar[bool] = True  # False: the scores say nothing, so nobody is shown them
    by_content: ClassVar[bool] = True  # False: sessions of one length keep the same chunks, whatever they hold
    reads_queries: ClassVar[bool] = False  # True: a reader of the cache should report its queries
    moves_tokens: ClassVar[bool] = True  # True: a kept token may get another position
    exact: float = math.inf  # score from which a chunk is kept word for word

    @property
    @abstractmethod
    def sizes(self) -> Sizes:
        """What the cache is made of."""

    @property
    def least_score(self) -> float:
        """Score that a chunk needs to be kept; minus infinity where the budget alone decides."""
        return -math.inf

    @property
    def remembers(self) -> bool:
        """Whether it keeps what no newer tokens replace; sinks do their work whichever tokens they are."""
        return self.sizes.summaries > 0

    @property
    def max_tokens(self) -> int:
        """Most tokens that are ever held; the cache reserves memory for so many."""
        return self.sizes.max_tokens

    @property
    def newest_tokens(self) -> int:
        """Newest tokens that are certain to live on as they are; an observation must fit into them."""
        return self.sizes.recent

    def staying(self, added: int) -> int:
        """Return how many of the newest tokens stay as they are behind an append of `added`."""
        return self.sizes.recent

    def check_spec(self, spec: CacheSpec) -> None:  # noqa: B027 (most policies fit any shape)
        """Check that the policy can serve caches of `spec`.

        Raises:
            ValueError: it was made for another shape.
        """

    def check_room(self, held: int, added: int) -> None:  # noqa: B027 (most policies have room)
        """Check that `added` tokens may be added to `held` ones.

        Raises:
            CacheFullError: the policy drops nothing and has no room for them.
        """

    def start(self, spec: CacheSpec, batch: int, device: torch.device) -> State:
        """Return what is remembered of `batch` sessions that begin."""
        return ()

    def state_bytes(self, spec: CacheSpec, batch: int) -> int:
        """Return the bytes of what is remembered of `batch` sessions."""
        return sum(part.numel() * part.itemsize for part in self.start(spec, batch, torch.device("meta")))

    def score(self, chunks: Chunks, state: State) -> tuple[Tensor, State]:
        """Return scores [B, n] and the state after `chunks.count` of them."""
        return chunks.mass.new_ones(chunks.mass.shape), state

    def summarise(self, chunks: Chunks) -> tuple[Tensor, Tensor]:
        """Return one key (before rotation) and value for every chunk, each [B, L, Hkv, n, d]."""
        return chunks.keys.mean(dim=4), chunks.values.mean(dim=4)

    def utilities(self, scores: Tensor, mass: Tensor) -> Tensor:
        """Return what decides about eviction, [..., M], from scores and attention received, both [..., M]."""
        return scores

    def observe(self, queries: Queries, mass: Tensor, state: State) -> tuple[Tensor, State]:
        """Take queries that read the cache; return the attention received [B, N] and the state."""
        return mass, state
