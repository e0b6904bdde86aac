"""The thread that writes a bag: every message is in the bag or counted, whatever the disk does."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from making import STATE, STEPS, content, topic

from streaming_vla.bags import written_file as module
from streaming_vla.bags.reader import Bag
from streaming_vla.bags.recorder_options import WriterOptions
from streaming_vla.bags.writer import BagWriter
from streaming_vla.bags.writing_thread import WritingThread

SAID = [(time_ns, data) for name, time_ns, data in content() if name == STATE]
NO_FLUSH = WriterOptions(chunk_bytes=1 << 20, flush_s=60.0, sync_s=600.0)
SMALL = WriterOptions(chunk_bytes=10 * len(SAID[0][1]), flush_s=60.0, sync_s=600.0)


def record(folder: Path, options: WriterOptions, limit_bytes: int = 1 << 20) -> WritingThread:
    thread = WritingThread(BagWriter(folder, options), limit_bytes)
    for time_ns, data in SAID:
        thread.take(topic(STATE), data, time_ns, time_ns)
    thread.close()
    return thread


def full_disk(monkeypatch: pytest.MonkeyPatch, after: Callable[[bytes], bool]) -> None:
    write = module.Stream.write

    def writing(self: Any, data: bytes) -> int:
        if after(data):
            write(self, data[: len(data) // 2])  # a disk takes what has room
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(module.Stream, "write", writing)


def in_the_bag(folder: Path) -> int:
    with Bag(folder) as bag:
        return sum(1 for _ in bag.messages([STATE]))


def test_everything_is_written(tmp_path: Path) -> None:
    thread = record(tmp_path / "bag", NO_FLUSH)
    assert thread.failure == "" and not thread.dropped
    assert thread.written == thread.taken == STEPS == in_the_bag(tmp_path / "bag")


@pytest.mark.parametrize("chunks", [1, 2])
def test_what_waits_in_memory_when_the_disk_fails_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    sizes: list[int] = []

    def full(data: bytes) -> bool:
        sizes.extend([len(data)] if len(data) > SMALL.chunk_bytes else [])
        return len(sizes) > chunks

    full_disk(monkeypatch, full)
    thread = record(tmp_path / "bag", SMALL)
    assert thread.failure.endswith("cannot be written: No space left on device; nothing more is kept")
    written = in_the_bag(tmp_path / "bag")
    assert 0 < written == thread.written < STEPS
    assert written + thread.dropped["disk"] == STEPS


def test_a_disk_that_fails_at_the_end_takes_the_last_chunk_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch, lambda data: len(data) > 1000)
    thread = record(tmp_path / "bag", NO_FLUSH)
    assert "No space left" in thread.failure
    assert thread.written == 0 and thread.dropped == {"disk": STEPS}


def test_a_file_that_cannot_be_made_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(monkeypatch, lambda data: True)
    thread = record(tmp_path / "bag", NO_FLUSH)
    assert thread.written == 0 and thread.dropped == {"disk": STEPS}


@pytest.mark.parametrize(
    ("log_ns", "publish_ns", "data", "reason"),
    [
        (-1, 1, b"", "ValueError: the times of a message of /robot_state are -1 and 1 ns"),
        (1, 1 << 64, b"", "ValueError: the times of a message of /robot_state are 1 and 18446744073709551616 ns"),
        (1, 1, "no bytes", "TypeError: "),
    ],
)
def test_errors_of_every_kind_are_told(tmp_path: Path, log_ns: int, publish_ns: int, data: Any, reason: str) -> None:
    thread = WritingThread(BagWriter(tmp_path / "bag"), 1 << 20)
    thread.take(topic(STATE), data, log_ns, publish_ns)
    end_s = time.monotonic() + 20.0
    while not thread.failure and time.monotonic() < end_s:
        time.sleep(0.01)
    thread.take(topic(STATE), b"", 2, 2)
    thread.close()
    assert f"cannot be written: {reason}" in thread.failure
    assert thread.written == 0 and thread.dropped == {"disk": 2}


def test_what_does_not_fit_into_the_queue_is_counted(tmp_path: Path) -> None:
    thread = record(tmp_path / "bag", NO_FLUSH, limit_bytes=len(SAID[0][1]) - 1)
    assert thread.taken == 0 and thread.dropped == {"queue_full": STEPS}
