"""The how-to's Python runs as it stands there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HOW_TO = Path(__file__).parents[3] / "docs" / "how-to" / "lerobot.md"


def test_every_block_runs(copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied("smolvla")
    folder.rename(folder.parent / "my_policy")
    monkeypatch.chdir(folder.parent)
    blocks = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert names["actions"].shape == (12, 6) and np.isfinite(names["actions"]).all()
