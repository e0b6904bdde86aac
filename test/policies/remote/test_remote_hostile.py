"""Bad servers: one sentence each, nothing taken, little memory, and the policy goes on when the server is good."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hostile_groot import GROOT, BadGroot
from hostile_openpi import OPENPI, Bad
from meeting import meet_groot, meet_openpi

MOST_BYTES = 12_000_000  # in the whole process, the toy server's own messages included


def test_there_are_enough() -> None:
    for every in (OPENPI, GROOT):
        assert len(every) >= 30 and len({bad.name for bad in every}) == len(every)


@pytest.mark.parametrize("bad", OPENPI, ids=lambda bad: bad.name)
def test_openpi(bad: Bad) -> None:
    check(lambda: meet_openpi(bad), bad.says, "openpi://127.0.0.1:")


@pytest.mark.parametrize("bad", GROOT, ids=lambda bad: bad.name)
def test_groot(bad: BadGroot) -> None:
    check(lambda: meet_groot(bad), bad.says, "groot://127.0.0.1:")


def check(meet: Callable[[], str], says: str, address: str) -> None:
    """Compare the sentence, and look at time and memory."""
    tracemalloc.start()
    try:
        said = meet()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert says in said
    assert said.startswith(address) and "\n" not in said and len(said) < 400
    assert most < MOST_BYTES
