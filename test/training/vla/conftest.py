"""Makes the helpers of this folder importable; makes runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
collect_ignore_glob = [] if find_spec("transformers") else ["test_*.py"]  # no release of it is for Python 3.10


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Any]:
    """Makes a run of one of the tiny policies and what is said of its checkpoint (see vla_runs.wanted)."""
    from vla_runs import prepared, wanted

    return lambda kind, head, folder="run", **more: prepared(wanted(kind, head, tmp_path / folder, **more))
