"""Weights of other kinds of numbers than the model's are refused, not converted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kv_cache.tensor_file import TensorFormat

FORMAT = TensorFormat("test weights", "test", 1 << 20, "make them again", ValueError)


def write(path: Path, kind: torch.dtype) -> Path:
    state = {name: value.detach().to(kind) for name, value in nn.Linear(3, 2).state_dict().items()}
    save_file(state, path, {"format": "test"})
    return path


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_floating_numbers_are_taken(tmp_path: Path, kind: torch.dtype) -> None:
    with FORMAT.open(write(tmp_path / "weights", kind)) as file:
        assert file.build(lambda: nn.Linear(3, 2)).weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (torch.int8, "I8"), (torch.uint8, "U8"), (torch.int32, "I32"), (torch.int64, "I64"), (torch.bool, "BOOL"),
        (torch.complex64, "C64"), (torch.float64, "F64"), (torch.float8_e4m3fn, "F8_E4M3"),
    ],
)  # fmt: skip
def test_other_numbers_are_refused(tmp_path: Path, kind: torch.dtype, name: str) -> None:
    path = write(tmp_path / "weights", kind)
    reason = f"tensor '(weight|bias)' holds {name}, expected one of F32, F16, BF16"
    with pytest.raises(ValueError, match=reason), FORMAT.open(path) as file:
        file.build(lambda: nn.Linear(3, 2))
