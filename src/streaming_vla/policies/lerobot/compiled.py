"""The expert's steps as one compiled graph: every context is brought to one shape, so that it is compiled once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from streaming_vla.policies.lerobot.expert import ExpertContext, run_expert
from streaming_vla.policies.lerobot.layers import DecoderLayer

BACKEND = "inductor"  # of torch.compile; it needs a C++ compiler for a CPU


class CompiledExpert:
    """Runs an expert's layers as `run_expert` does, for contexts of `fixed` only.

    Args:
        room: tokens that a context has at most.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self._run = torch.compile(run_expert, backend=BACKEND, fullgraph=True, dynamic=False)

    def __call__(
        self, layers: Sequence[DecoderLayer], tokens: Tensor, context: ExpertContext, condition: Tensor | None = None
    ) -> Tensor:
        """Return the tokens [1, T, width] of a step behind the last layer."""
        return self._run(layers, tokens, context, condition)

    def fixed(self, context: ExpertContext) -> ExpertContext:
        """Return a context of `room` tokens, of which those that are added are seen by nobody.

        Raises:
            ValueError: it has more tokens than were said to be the most.
        """
        held, more = context.tokens, self.room - context.tokens
        if more < 0:
            raise ValueError(f"a context has {held} tokens, the policy was compiled for {self.room}")
        keys, values = (
            tuple(_longer(each, held, more) for each in tensors) for tensors in (context.keys, context.values)
        )
        count, kind = len(context.rotation.cos), context.keys[0]
        whole = kind.new_zeros(count, held + count) if context.mask is None else _added(context.mask, kind)
        bias = kind.new_zeros(count, held) if context.bias is None else context.bias
        mask, bias = (_longer(each, held, more, float("-inf"), 1) for each in (whole, bias))
        return replace(context, keys=keys, values=values, tokens=self.room, mask=mask, bias=bias)


def _added(mask: Tensor, kind: Tensor) -> Tensor:
    """Return a mask as numbers that are added to the logits: shapes and formats are to be the same for all contexts."""
    if mask.dtype != torch.bool:
        return mask
    return kind.new_zeros(mask.shape).masked_fill(~mask, float("-inf"))


def _longer(tensor: Tensor, held: int, more: int, value: float = 0.0, dim: int = 2) -> Tensor:
    """Return a tensor with `more` places behind the first `held` ones of a dimension."""
    padding = [0, 0] * (tensor.dim() - 1 - dim) + [0, more]
    front = functional.pad(tensor.narrow(dim, 0, held), padding, value=value)
    return torch.cat((front, tensor.narrow(dim, held, tensor.shape[dim] - held)), dim=dim)
