"""The configuration of the shipped policy."""

from __future__ import annotations

from streaming_vla.policy.compact.config import CompactConfig
from streaming_vla.policy.compact.language import build_vocabulary
from streaming_vla.robots.tasks import TASKS


def mt10_config() -> CompactConfig:
    """Return the shape of a compact policy that knows the words of the ten tasks."""
    return CompactConfig(words=build_vocabulary(text for task in TASKS.values() for text in task.instructions))
