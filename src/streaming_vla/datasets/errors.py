"""What can be wrong with a data set: one sentence per message."""

from __future__ import annotations


class DatasetError(ValueError):
    """A data set cannot be written or read; the message is one sentence that names it and the fix."""
