"""A GPU that this machine does not have: tensors there compute here, and refuse to meet tensors of the CPU.

It finds what a GPU would refuse: a tensor that was made on the CPU and never moved.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device(
    "meta"
)  # the one beside the CPU that a torch without CUDA can name; here its tensors have numbers
_TENSOR = torch.tensor
CROSSING = ("aten::copy_", "aten::_to_copy", "aten::to")


def _tensor(data: Any, device: Any = None, **more: Any) -> Tensor:
    if device is None or torch.device(device) != DEVICE:
        return _TENSOR(data, device=device, **more)
    return _TENSOR(data, device="cpu", **more).to(DEVICE)


class There(Tensor):
    """A tensor that says it is on DEVICE; its numbers are in `here`, on the CPU."""

    here: Tensor
    is_meta = False

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        """Wrap a tensor of the CPU."""
        made: There = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, here.shape, strides=here.stride(), dtype=here.dtype, device=DEVICE
        )
        made.here = here
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        """Say where it is."""
        return f"There({self.here!r})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute; what comes out of anything there is there."""
        return _computed(function, args, kwargs or {})


class Elsewhere(TorchDispatchMode):
    """While it is on, tensors can be made on DEVICE and moved there."""

    def __enter__(self) -> Elsewhere:
        """Let torch.tensor make its tensors on the CPU and move them: it would forget their numbers."""
        torch.tensor = _tensor  # type: ignore[assignment]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Go back."""
        super().__exit__(*error)
        torch.tensor = _TENSOR

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute, see There."""
        return _computed(function, args, kwargs or {})


@torch.inference_mode(False)  # what is made in that mode cannot meet what was made before it
@torch.no_grad()
def _computed(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat = tree_flatten((args, kwargs))[0]
    tensors = [each for each in flat if isinstance(each, Tensor)]
    there = [each for each in tensors if isinstance(each, There)]
    name = function._schema.name
    alien = [each for each in tensors if not isinstance(each, There) and each.dim() > 0]
    if there and alien and name not in CROSSING:
        raise AssertionError(f"{name} got tensors of {DEVICE} and of {alien[0].device}: {tuple(alien[0].shape)}")
    wanted = [each for each in flat if isinstance(each, torch.device)]
    stays = wanted[0] == DEVICE if wanted else bool(there)
    same = {id(each.here): each for each in there}

    def moved(each: Any) -> Any:
        return each.here if isinstance(each, There) else torch.device("cpu") if isinstance(each, torch.device) else each

    args, kwargs = tree_map(moved, (args, kwargs))
    found = function(*args, **kwargs)
    if name == "aten::copy_" and not isinstance(tensors[0], There):  # into a tensor of the CPU
        return found

    def out(each: Any) -> Any:
        return same.get(id(each), There(each)) if isinstance(each, Tensor) and stays else each

    return tree_map(out, found)
