"""The configuration of the shipped policy and the folders of its training."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.language import build_vocabulary
from streaming_vla.sim.memory_tasks import MEMORY_TASKS
from streaming_vla.sim.tasks import TASKS
from streaming_vla.training.plan import Recordings

DEMONSTRATIONS = Path("data/demonstrations")
RUN = Path("data/policy")
PLAN = Path("config/training/compact.yaml")
GATE_RUN = Path("data/gate")
GATE_PLAN = Path("config/training/compact_gate.yaml")
DISTILL_RUN = Path("data/distilled_gate")  # of a Hugging Face decoder
DISTILL_PLAN = Path("config/training/distilled_gate.yaml")
SALIENCY_PLAN = Path("config/training/saliency.yaml")
OWN_RUN = Path("data/own")  # with recordings of one's own
OWN_PLAN = Path("config/training/own_data.yaml")
SHIPPED = Path("models/compact_mt10.safetensors")
SO101_PLAN = Path("config/training/so101.yaml")
SO101_DEMONSTRATIONS = Path("data/so101/demonstrations")


def compact_config(plan: Recordings) -> CompactConfig:
    """Return the shape of the policy that `plan` trains; it knows the words of all tasks.

    Raises:
        ValueError: the plan's model section does not fit CompactConfig.
    """
    tasks = TASKS | MEMORY_TASKS
    words = build_vocabulary(text for task in tasks.values() for text in task.instructions)
    return planned_config(plan, words=words)


def planned_config(plan: Recordings, words: tuple[str, ...], **known: Any) -> CompactConfig:
    """Return the shape that the plan's model section says.

    Args:
        words: the vocabulary, which no plan names.
        known: fields in place of the defaults, where the plan says nothing.

    Raises:
        ValueError: the section has an entry that no policy has, or sizes that do not go together.
    """
    entries = [field.name for field in fields(CompactConfig) if field.name != "words"]
    if unknown := sorted(set(plan.model) - set(entries)):
        raise ValueError(f"the plan's model section has no {', '.join(unknown)}; its entries are {', '.join(entries)}")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in plan.model.items()}
    return CompactConfig(words=words, **known | given)
