"""A checkpoint that cannot be used is refused in one sentence, before memory is taken for it."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from golden_files import folder_of
from hostile import HOSTILE, Hostile

from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.lerobot.load import load_lerobot
from streaming_vla.policies.lerobot.options import LoadOptions

BOUND_KB = 96 * 1024  # the largest of these checkpoints has 45 MB, and is read to its damaged end
LONGEST = 2000  # a dozen names of tensors, and how many more there are


@pytest.fixture(scope="module", autouse=True)
def libraries_are_loaded(load: Callable[..., object]) -> None:
    """What the libraries take for themselves is no part of the bound."""
    for policy in ("smolvla", "pi0"):
        load(policy)


@pytest.mark.parametrize("hostile", HOSTILE, ids=[each.name for each in HOSTILE])
def test_it_is_refused_in_one_sentence(hostile: Hostile, copied: Callable[[str], Path]) -> None:
    folder = copied(hostile.policy)
    hostile.spoil(folder)
    before_kb = start_of_peak()
    with pytest.raises(CheckpointError) as refused:
        load_lerobot(folder / "checkpoint", LoadOptions(**folder_of(folder)))
    said = str(refused.value)
    assert hostile.says in said
    assert "\n" not in said and "Traceback" not in said.replace("a?Traceback", "")
    assert len(said) <= LONGEST
    assert peak_kb() - before_kb <= BOUND_KB


def test_there_are_thirty_of_them_at_least() -> None:
    assert len({each.name for each in HOSTILE}) == len(HOSTILE) >= 30


def start_of_peak() -> int:
    """Let the kernel forget the largest size that this process has had; returns the present one, kB."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("the kernel does not let a process reset its peak")
    return status_kb("VmRSS")


def peak_kb() -> int:
    return status_kb("VmHWM")


def status_kb(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])
