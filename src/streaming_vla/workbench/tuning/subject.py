"""What a study is about: bags, parameters and weights. Trials of another subject must not be taken for one's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import optuna

from kv_cache.tensor_file import file_digest
from streaming_vla.engine.options import InferenceOptions
from streaming_vla.policies.models import find_model, find_part
from streaming_vla.policies.registry import model_files
from streaming_vla.workbench.replay.run import ReplayJob

ATTRIBUTE = "subject"

Subject = dict[str, str]  # what the sentence of a refusal calls it: a digest


def subject_of(bags: Sequence[Path], job: ReplayJob) -> Subject:
    """Return the subject of a search on `bags`; the same on every machine that has the same files.

    Raises:
        CheckpointError: a model is not there.
        ParameterFileError: the parameter file cannot be used.
    """
    suite = job.suite()
    settings = (suite.values(), job.profile, job.namespace, job.instruction, job.action_topic, job.seed)
    return {
        "bags": _digest(sorted((bag.name, _size(bag)) for bag in bags)),
        "parameters": _digest(settings),
        "weights": _digest([file_digest(path) for path in _weights(suite.inference)]),
    }


def claim(study: optuna.Study, subject: Subject, where: str) -> None:
    """Say what an empty study is about; refuse one that is about something else.

    Args:
        where: what to name in the refusal.

    Raises:
        ValueError: its trials were made on another subject.
    """
    known = study.user_attrs.get(ATTRIBUTE)
    if known is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(ATTRIBUTE, subject)
    elif known != subject:
        other = [name for name in subject if not known or known.get(name) != subject[name]]
        raise ValueError(
            f"the trials of {where} were made with other {' and '.join(other)}, expected those of this search: "
            "remove the study or name another one"
        )


def _weights(inference: InferenceOptions) -> list[Path]:
    files = model_files(inference.model)
    predictor = files and find_part(inference.saliency_model, inference.model, "saliency")
    gate = inference.cache_policy == "gated" and find_model(inference.cache_gate)
    return [*files, *(path for path in (predictor, gate) if path)]


def _size(bag: Path) -> int:
    """Bytes of a bag, file or folder; 0 when it is not there, which its replay says better."""
    files = bag.iterdir() if bag.is_dir() else [bag]
    return sum(file.stat().st_size for file in files if file.is_file())


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
