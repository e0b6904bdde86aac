"""What the policies that summarise chunks have in common: their sizes, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

from kv_cache.policies.base import CachePolicy, Sizes
from kv_cache.policies.window import check_window


@dataclass(frozen=True)
class Chunked(CachePolicy):
    """Sizes of a cache with summaries, in tokens.

    Args:
        sinks: first tokens of the episode that always stay; may be 0.
        recent: newest tokens that stay.
        chunk: tokens C that become one summary.
        budget: most tokens that are held, sinks, recent and chunk - 1 waiting ones included; summaries get the rest.
        log_count: add log(chunk) to the attention logits of a summary; the reader must then add CacheView.bias.
        exact: score from which the tokens of a chunk stay as they are; infinity: every chunk becomes a summary.

    Raises:
        ValueError: a number out of range, or a budget below the tokens that always stay.
    """

    sinks: int
    recent: int
    chunk: int
    budget: int
    log_count: bool = field(default=False, kw_only=True)
    exact: float = field(default=math.inf, kw_only=True)

    def __post_init__(self) -> None:
        check_window(self.name, self.sinks, self.recent)
        if self.chunk < 1:
            raise ValueError(f"cache policy {self.name}: chunk is {self.chunk}, it must be at least 1 token")
        if self.sizes.summaries < 0:
            raise ValueError(
                f"cache policy {self.name}: budget is {self.budget} tokens, below the "
                f"{self.sinks + self.recent + self.chunk - 1} of the window (sinks + recent + chunk - 1)"
            )
        if math.isnan(self.exact) or (self.exact < math.inf and self.sizes.summaries < self.chunk):
            raise ValueError(
                f"cache policy {self.name}: exact is {self.exact}, but the budget leaves {self.sizes.summaries} tokens "
                f"for older chunks: to keep one of {self.chunk} word for word, raise the budget"
            )

    @cached_property
    def sizes(self) -> Sizes:
        """Summaries get what the budget leaves."""
        summaries = self.budget - self.sinks - self.recent - self.chunk + 1
        return Sizes(self.sinks, self.recent, self.chunk, summaries, self.log_count)
