"""What LeRobot does to an observation before the network sees it, and to a chunk of actions behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from streaming_vla.policies.errors import CheckpointError, shortened
from streaming_vla.policies.lerobot.action_data import ActionData, relative_dimensions
from streaming_vla.policies.lerobot.config import ACTION, STATE, PolicyConfig
from streaming_vla.policies.lerobot.folder import Folder
from streaming_vla.policies.lerobot.normalisation import NEEDED, Affine, Statistics, Values, affine, read_statistics
from streaming_vla.policies.lerobot.sample import Sample
from streaming_vla.policies.lerobot.steps import (
    AFTER,
    BEFORE,
    POSTPROCESSOR,
    PREPROCESSOR,
    Absolute,
    Normalise,
    Relative,
    Rename,
    Step,
    Tokenize,
    read_steps,
)
from streaming_vla.policies.lerobot.tensor_archive import TensorArchive
from streaming_vla.policies.lerobot.text import Tokenizer, find_tokenizer, with_new_line, with_state

NORMALISER = "normalizer_processor"
TOKENIZER = "tokenizer_processor"
NEW_LINE = ("smolvla_new_line_processor", "pi0_new_line_processor")
STATE_AS_TEXT = "pi05_prepare_state_tokenizer_processor_step"
Apply = Callable[[Sample], Sample]


class Preprocessor:
    """The steps of policy_preprocessor.json.

    Args:
        folder: of the checkpoint.
        config: of its policy.
        assets: folder with the tokenizer; None: the checkpoint has it itself.
        vocabulary: rows of the policy's embedding; 0: the policy reads no text.
        needed: steps without which it would be another policy; of each tuple one.

    Raises:
        CheckpointError: a step is not known or missing, statistics or the tokenizer are missing.

    Attributes:
        renamed: what the robot calls a feature, by the name that the policy has for it.
        relative: True for each action dimension that is a difference to the state.
        tokenizer: None where the policy reads no text.
        action_names: of the action dimensions; empty: the checkpoint has none.
        state_statistics: of the robot's state; empty: no file has them.
        state: normalises it.
        pictures_as_they_are: no statistics change them.
    """

    state: Affine
    pictures_as_they_are: bool

    def __init__(
        self,
        folder: Folder,
        config: PolicyConfig,
        assets: Folder | None,
        vocabulary: int,
        needed: tuple[tuple[str, ...], ...],
    ) -> None:
        self._folder, self._config = folder, config
        self.renamed: Mapping[str, str] = {}
        self.relative: npt.NDArray[np.bool_] = np.zeros(config.action_size, dtype=bool)
        self.state_statistics: Statistics = {}
        self.tokenizer: Tokenizer | None = None
        self.action_names: tuple[str, ...] = getattr(config, "action_feature_names", None) or ()
        self._apply: list[Apply] = []
        names: list[str] = []
        for step in read_steps(folder, PREPROCESSOR, BEFORE):
            names.append(step.name)
            if step.name == STATE_AS_TEXT and NORMALISER not in names:
                raise CheckpointError(f"{folder.who}: {PREPROCESSOR} writes the state as text before it is normalised")
            self._take(step, assets, vocabulary)
        for choice in needed:
            if not set(choice) & set(names):
                raise CheckpointError(
                    f"{folder.who}: {PREPROCESSOR} has no step '{choice[0]}', it is not of such a policy: copy the "
                    "checkpoint's own"
                )

    def __call__(self, sample: Sample) -> Sample:
        """Return an observation as the policy's network reads it."""
        for apply in self._apply:
            sample = apply(sample)
        return sample

    def _take(self, step: Step, assets: Folder | None, vocabulary: int) -> None:
        options = step.options
        if isinstance(options, Rename):
            self.renamed = {new: old for old, new in options.rename_map.items()}
        elif isinstance(options, Normalise):
            self._apply.append(self._normaliser(step, options))
        elif isinstance(options, Tokenize) and vocabulary:
            wanted = options.tokenizer_name or ""
            folders = tokenizer_folders(self._folder, assets, wanted)
            self.tokenizer = Tokenizer(find_tokenizer(folders, wanted), options.max_length, vocabulary)
            self._apply.append(self._tokenize)
        elif isinstance(options, Relative):
            self.relative = _relative(options, self._config, f"{self._folder.who}: {PREPROCESSOR}")
        elif step.name in NEW_LINE:
            self._apply.append(lambda sample: replace(sample, text=with_new_line(sample.text)))
        elif step.name == STATE_AS_TEXT:
            self._apply.append(lambda sample: replace(sample, text=with_state(sample.text, sample.state)))

    def _tokenize(self, sample: Sample) -> Sample:
        assert self.tokenizer is not None, "the step that calls it has made one"
        return replace(sample, tokens=self.tokenizer(sample.text))

    def _normaliser(self, step: Step, options: Normalise) -> Apply:
        folder, config = self._folder, self._config
        read = _Statistics(folder, step, options, config)
        self.state = state = read.affine(STATE, "STATE", (config.state_size,))
        self.state_statistics = read.of(STATE, (config.state_size,))
        self.pictures_as_they_are = read.mode("VISUAL") == "IDENTITY"
        pictures = {
            name: _picture_affine(read.affine(name, "VISUAL", (3, 1, 1)))
            for name in config.cameras
            if not self.pictures_as_they_are
        }

        def apply(sample: Sample) -> Sample:
            seen = {
                name: pictures[name](picture) if name in pictures else picture
                for name, picture in sample.pictures.items()
            }
            return replace(sample, pictures=seen, state=state.normalise(sample.state))

        return apply


class Postprocessor:
    """The steps of policy_postprocessor.json.

    Args:
        folder: of the checkpoint.
        config: of its policy.
        relative, state: `relative` and `state_statistics` of the preprocessor.

    Raises:
        CheckpointError: a step is not known or missing, or statistics are missing.

    Attributes:
        data: what is known of the actions that the robot gets.
    """

    def __init__(
        self, folder: Folder, config: PolicyConfig, relative: npt.NDArray[np.bool_], state: Statistics
    ) -> None:
        steps = read_steps(folder, POSTPROCESSOR, AFTER)
        step = next((step for step in steps if isinstance(step.options, Normalise)), None)
        if step is None:
            raise CheckpointError(f"{folder.who}: {POSTPROCESSOR} has no step 'unnormalizer_processor'")
        assert isinstance(step.options, Normalise), "chosen so"
        read = _Statistics(folder, step, step.options, config)
        self._affine = read.affine(ACTION, "ACTION", (config.action_size,))
        self.data = ActionData(read.of(ACTION, (config.action_size,)), state, relative)
        made_absolute = any(isinstance(each.options, Absolute) and each.options.enabled for each in steps)
        if made_absolute != bool(relative.any()):
            raise CheckpointError(
                f"{folder.who}: relative actions are {'not ' * (not relative.any())}enabled in {PREPROCESSOR} and "
                f"{'not ' * (not made_absolute)}in {POSTPROCESSOR}, expected the same in both"
            )

    def actions(self, chunk: Values, raw_state: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return a chunk [H, A] of the network in action units.

        Args:
            raw_state: [S], as the robot said it with the chunk's observation.
        """
        return (self._affine.restore(chunk) + self._offset(raw_state)).astype(np.float64)

    def normalised(self, actions: npt.NDArray[np.float64], raw_state: npt.NDArray[np.float32]) -> Values:
        """Return actions [H, A] as the network would say them: the inverse of `actions`."""
        return self._affine.normalise(actions - self._offset(raw_state))

    def _offset(self, raw_state: npt.NDArray[np.float32]) -> Values:
        relative = self.data.relative
        offset = np.zeros(len(relative), dtype=np.float32)
        offset[relative] = raw_state[: len(relative)][relative[: len(raw_state)]]
        return offset


def tokenizer_folders(folder: Folder, assets: Folder | None, wanted: str) -> list[Path]:
    """Return where the tokenizer of a checkpoint may be.

    Args:
        wanted: name that the checkpoint has for it.
    """
    inside = folder.path / wanted  # newer lerobot saves the tokenizer in a folder of the checkpoint
    own = [inside] if wanted and "/" not in wanted and not wanted.startswith(".") else []
    return [*([assets.path] if assets else []), *own, folder.path]


class _Statistics:
    """Reads the statistics of a normalising step."""

    def __init__(self, folder: Folder, step: Step, options: Normalise, config: PolicyConfig) -> None:
        self._who, self._options = f"{folder.who}: {step.name}", options
        if options.norm_map != config.normalization_mapping:
            raise CheckpointError(
                f"{self._who} has norm_map {shortened(options.norm_map)}, config.json "
                f"{shortened(config.normalization_mapping)}: expected the same"
            )
        unknown = [mode for mode in options.norm_map.values() if mode not in NEEDED]
        if unknown:
            raise CheckpointError(
                f"{self._who} has the normalisation '{shortened(unknown[0])}', expected one of {', '.join(NEEDED)}"
            )
        self._archive: TensorArchive | None = None
        if step.state_file is not None:
            path = folder.file(step.state_file, "it holds the statistics: copy it too, or give a fine-tuned checkpoint")
            self._archive = TensorArchive(path, f"{folder.who}: {path.name}")

    def mode(self, kind: str) -> str:
        """Return how features of a kind are normalised."""
        return self._options.norm_map.get(kind, "IDENTITY")

    def of(self, feature: str, shape: tuple[int, ...]) -> Statistics:
        """Return the statistics of a feature, none where no file has them."""
        return read_statistics(self._archive, feature, shape) if self._archive is not None else {}

    def affine(self, feature: str, kind: str, shape: tuple[int, ...]) -> Affine:
        """Return the map of a feature; CheckpointError where statistics are missing."""
        mode, statistics = self.mode(kind), self.of(feature, shape)
        missing = [name for name in NEEDED[mode] if name not in statistics or feature not in self._options.features]
        if missing:
            raise CheckpointError(
                f"{self._who}: the statistics {', '.join(missing)} of '{shortened(feature)}' are missing, {mode} needs "
                "them; give a checkpoint that was fine-tuned on your robot's data, not a base model"
            )
        return affine(mode, statistics, self._options.eps)


def _picture_affine(found: Affine) -> Callable[[Tensor], Tensor]:
    offset, scale = (torch.from_numpy(np.asarray(each, dtype=np.float32)) for each in (found.offset, found.scale))

    def normalise(picture: Tensor) -> Tensor:
        shifted: Tensor = picture - offset.to(picture.device)
        return found.gain * shifted / scale.to(picture.device) - found.shift

    return normalise


def _relative(options: Relative, config: PolicyConfig, who: str) -> npt.NDArray[np.bool_]:
    """Return which action dimensions are relative."""
    count = config.action_size
    stated = getattr(config, "use_relative_actions", False)
    if options.enabled != stated:
        raise CheckpointError(
            f"{who} has relative_actions_processor.enabled = {options.enabled}, config.json use_relative_actions = "
            f"{stated}: expected the same"
        )
    if not options.enabled:
        return np.zeros(count, dtype=bool)
    if config.state_size < count:
        raise CheckpointError(f"{who}: {count} relative actions need as many numbers of state, {config.state_size} are")
    return relative_dimensions(count, options.action_names, options.exclude_joints)
