"""Whose run a folder of checkpoints holds, so that one is not taken for another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from kv_cache.tensor_file import file_digest

FILE = "run.json"
CHECKPOINT = "checkpoint.safetensors"


def weights_of(policy: Path) -> dict[str, str]:
    """Return what tells a checkpoint from others: its name and the hash of its bytes."""
    return {"name": policy.stem, "sha256": file_digest(policy)}


def claim(folder: Path, facts: Mapping[str, object]) -> None:
    """Make the folder of a run, or check that the run in it is this one.

    Args:
        facts: what makes the run: plan, seed, data, and the weights that it starts from; JSON can hold them.

    Raises:
        ValueError: the folder holds a run that differs in one of them (the message names it), or nobody's checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, given = folder / FILE, json.loads(json.dumps(facts))
    if not path.exists():
        if (folder / CHECKPOINT).exists():
            raise ValueError(
                f"the folder '{folder}' holds {CHECKPOINT} and no {FILE} that tells of which run: choose another "
                "--folder or remove this one"
            )
        path.write_text(json.dumps(given, indent=1) + "\n", encoding="utf-8")
        return
    there = facts_of(folder)
    if other := [name for name in given if given[name] != there.get(name)]:
        raise ValueError(
            f"the folder '{folder}' holds a run with another {' and another '.join(other)}: choose another --folder "
            "or remove this one"
        )


def facts_of(folder: Path) -> dict[str, object]:
    """Return what makes the run in a folder that was claimed."""
    facts: dict[str, object] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return facts
