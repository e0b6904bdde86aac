"""Everything that a LeRobot checkpoint lacks, at once: loading it ends at the first thing."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np

from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.lerobot.config import ACTConfig, PiConfig, SmolVLAConfig, read_config
from streaming_vla.policies.lerobot.flow_head.sidecar import read_sidecar
from streaming_vla.policies.lerobot.folder import Folder
from streaming_vla.policies.lerobot.geometry import read_geometry
from streaming_vla.policies.lerobot.load import assets_of, weights_of
from streaming_vla.policies.lerobot.options import LoadOptions
from streaming_vla.policies.lerobot.processors import NORMALISER, Postprocessor, Preprocessor, tokenizer_folders
from streaming_vla.policies.lerobot.specs import cameras_of
from streaming_vla.policies.lerobot.steps import tokenizer_named
from streaming_vla.policies.lerobot.text import find_tokenizer
from streaming_vla.policies.lerobot.vlm_config import read_vlm

Found = TypeVar("Found")


def survey(path: Path, options: LoadOptions) -> list[str]:
    """Return a sentence for everything that keeps a checkpoint from being loaded, as far as files tell it.

    No weights are read. An empty list does not say that it loads: tensors are compared then.
    """
    said: list[str] = []

    def attempt(look: Callable[[], Found]) -> Found | None:
        try:
            return look()
        except CheckpointError as error:
            said.append(str(error))
            return None

    attempt(lambda: options.torch_device)
    attempt(lambda: options.torch_dtype)
    folder = attempt(lambda: Folder(path))
    assets = attempt(lambda: assets_of(path, options))
    read = attempt(lambda: read_config(folder)) if folder is not None else None
    if folder is not None:
        attempt(lambda: weights_of(folder))
    if folder is None or read is None:
        return list(dict.fromkeys(said))
    kind, config = read
    attempt(lambda: read_sidecar(folder, config))
    if not isinstance(config, ACTConfig):
        if find_spec("transformers") is None:
            said.append(f"a {kind} needs transformers: pip install 'streaming_vla[vla]'")
        wanted = attempt(lambda: tokenizer_named(folder))
        if wanted is not None:
            attempt(lambda: find_tokenizer(tokenizer_folders(folder, assets, wanted), wanted))
            if isinstance(config, SmolVLAConfig):
                attempt(lambda: read_vlm(assets, wanted))
    if isinstance(config, PiConfig):
        attempt(lambda: read_geometry(folder, assets, config))
    before = attempt(lambda: Preprocessor(folder, config, assets, 0, ((NORMALISER,),)))  # the tokenizer is seen above
    if before is None:
        attempt(lambda: Postprocessor(folder, config, np.zeros(config.action_size, dtype=bool), {}))
    else:
        attempt(lambda: Postprocessor(folder, config, before.relative, before.state_statistics))
        attempt(lambda: cameras_of(config, before.renamed, options.cameras, isinstance(config, ACTConfig)))
    return list(dict.fromkeys(said))
