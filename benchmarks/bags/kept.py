"""The figures that are kept beside the scripts, in results.json; each script writes its own, the others stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from streaming_vla.workbench.report.results import write_json

RESULTS = Path(__file__).with_name("results.json")


def kept() -> dict[str, Any]:
    """Return every figure by its name."""
    return dict(json.loads(RESULTS.read_text(encoding="utf-8")))


def keep(figures: dict[str, Any]) -> None:
    """Put figures in the place of those of the same names, and print them."""
    write_json(kept() | figures, RESULTS)
    print(json.dumps(figures, indent=2))
