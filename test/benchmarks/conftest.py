"""Makes the benchmarks' modules importable, and what the tests of the machines and of the workbench share."""

from __future__ import annotations

import sys
from pathlib import Path

TEST = Path(__file__).parents[1]
BENCHMARKS = TEST.parent / "benchmarks"
FOLDERS = (
    TEST / "machines",
    TEST / "workbench",
    *(BENCHMARKS / name for name in ("streaming", "policy", "ros_overhead", "recovery")),
)

for folder in FOLDERS:
    sys.path.append(str(folder))
