"""Another attention for a Hugging Face decoder, for as long as a block lasts. Needs `transformers`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

NAME = "kv_cache_training"

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]  # layer, queries, keys (rotated), values -> [B, Hq, T, d]

_active: list[Attend] = []


def _forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float | None = None, **more: Any
) -> tuple[Tensor, None]:
    if more.get("softcap") is not None:
        raise ValueError("gate: the model caps its attention logits (softcap), which the training's attention does not")
    size = query.shape[-1]
    if scaling is not None:  # ours divides by the root of the head size, as most models do
        query = query * (scaling * size**0.5)
    seen = _active[-1](int(module.layer_idx), query, key, value)  # type: ignore[arg-type]
    return seen.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)  # who sees whom is the attention's own business


def causal(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return what the model's own attention gives, [B, Hq, T, d]; keys are shared in groups."""
    group = queries.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
    return functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)


@contextmanager
def attending(model: PreTrainedModel, attend: Attend) -> Iterator[None]:
    """Let every layer of the text decoder attend through `attend`."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = NAME
    _active.append(attend)
    try:
        yield
    finally:
        _active.pop()
        config._attn_implementation = before
