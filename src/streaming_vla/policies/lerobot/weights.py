"""Puts a file's tensors into a network: every name, shape and format is compared before a byte of memory is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from streaming_vla.policies.errors import CheckpointError, listed, shortened
from streaming_vla.policies.lerobot.tensor_archive import TensorArchive

Network = TypeVar("Network", bound=nn.Module)
Shape = tuple[int, ...]
FORMATS = ("F32", "BF16", "F16")
"""Number formats of weights; each is converted to that of the network."""


@dataclass(frozen=True)
class Names:
    """How a network's tensors are called in a file.

    Args:
        modules: prefix of a module's tensors in the file, by the module's name in the network.
        optional: shapes of tensors that may be there and are not read (a head that is tied to the embedding).
        required: shapes of tensors that must be there and are not read (an encoder that only training uses).
        instead: names of which the second stands for the first where that is missing.
        added: what hub files may lack in front of every name.
    """

    modules: Mapping[str, str]
    optional: Mapping[str, Shape] = field(default_factory=dict)
    required: Mapping[str, Shape] = field(default_factory=dict)
    instead: Mapping[str, str] = field(default_factory=dict)
    added: str = ""

    def in_file(self, name: str) -> str:
        """Return what a tensor of the network is called in the file."""
        module = max((each for each in self.modules if f"{name}.".startswith(f"{each}.")), key=len)
        return self.modules[module] + name[len(module) :]


def build(make: Callable[[], Network]) -> Network:
    """Return a network that takes no memory yet."""
    with torch.device("meta"):
        return make().eval().requires_grad_(False)


def load(network: Network, archive: TensorArchive, names: Names, device: torch.device) -> Network:
    """Fill a network from `build`, tensor by tensor, each in the number format that it has there.

    Raises:
        CheckpointError: a name, shape or format is another one, all of them in one sentence; or a number is not finite.
    """
    filled: list[tuple[str, Tensor]] = []
    tensors = network.state_dict(keep_vars=True)
    for name, stored in compare(network, archive, names).items():
        value = tensors[name]
        filled.append((stored, torch.empty(value.shape, dtype=value.dtype, device=device)))
        _put(network, name, filled[-1][1])
    for stored, tensor in filled:  # when all have their place: what reading takes meanwhile leaves no gaps between them
        archive.read(stored, tensor)
    _fill_positions(network, device)
    left = [name for name, value in (*network.named_parameters(), *network.named_buffers()) if value.is_meta]
    assert not left, f"nothing was put into {left}"
    return network


def compare(network: nn.Module, archive: TensorArchive, names: Names) -> dict[str, str]:
    """Return what each tensor of a network is called in the file; no weights are read.

    Raises:
        CheckpointError: a name, shape or format is another one, all of them in one sentence.
    """
    places = {names.in_file(name): (name, value) for name, value in network.state_dict(keep_vars=True).items()}
    in_file = {name if name.startswith(names.added) else names.added + name: name for name in archive.tensors}
    shapes = {name: tuple(value.shape) for name, (_, value) in places.items()} | dict(names.required)
    source = {name: in_file.get(name) or in_file.get(names.instead.get(name, "")) for name in shapes}
    _compare(archive, shapes, source, in_file, names)
    return {name: str(source[file_name]) for file_name, (name, _) in places.items()}


def _compare(
    archive: TensorArchive,
    shapes: Mapping[str, Shape],
    source: Mapping[str, str | None],
    in_file: Mapping[str, str],
    names: Names,
) -> None:
    missing = [name for name in shapes if source[name] is None]
    extra = [own for name, own in in_file.items() if name not in shapes and name not in names.optional]
    other_shape, other_format = [], []
    for name, shape in (*shapes.items(), *names.optional.items()):
        own = source.get(name) or in_file.get(name)
        if own is None:
            continue
        stored = archive.tensors[own]
        if stored.shape != shape:
            other_shape.append(f"{shortened(own)} {stored.shape} for {shape}")
        if stored.dtype not in FORMATS:
            other_format.append(f"{shortened(own)} {shortened(stored.dtype)}")
    parts = {
        "misses": missing,
        "has unexpected": extra,
        "has other shapes": other_shape,
        f"has formats other than {', '.join(FORMATS)}": other_format,
    }
    wrong = [f"{what} ({len(found)}): {listed(found)}" for what, found in parts.items() if found]
    if wrong:
        raise CheckpointError(
            f"{archive.who} does not fit the policy that its configuration describes: it {'; it '.join(wrong)}"
        )


def _put(network: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = network.get_submodule(path)
    if leaf in module._parameters:
        setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))
    else:
        setattr(module, leaf, tensor)


def _fill_positions(network: nn.Module, device: torch.device) -> None:
    """Count the patches of a vision tower: a buffer that no file holds."""
    for module in network.modules():
        numbers = getattr(module, "position_ids", None)
        if isinstance(numbers, Tensor):
            module.position_ids = torch.arange(numbers.shape[-1], device=device).expand(numbers.shape)
