"""What a Hugging Face model's cache must look like: asked of the model itself. Needs `transformers`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from kv_cache.rotary import apply_rotary
from kv_cache.spec import CacheSpec

EYES = ("vision", "visual")  # in the names of modules that are no part of the decoder
NEAR = 7  # a position at which keys are compared; the other one lies beyond the longest sequence of the training
OFF = 0.05  # of the largest number of a key: what bfloat16 rounds away is less


def spec_of(model: PreTrainedModel) -> CacheSpec:
    """Return the shape of a model's cache, with the model's own rotary frequencies.

    The model runs three times over one made-up token: what its layers do to a key at some position is compared with
    what the cache will undo.

    Raises:
        ValueError: the model is none that reads one sequence of tokens with the same rotary positions in all layers,
            turned in the half-split convention by angles that do not depend on the sequence's length.
    """
    who = f"spec of {type(model).__name__}"
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"{who}: expected a model of transformers; hand over the one inside")
    config = model.config.get_text_config()
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(f"{who}: it has an encoder beside its decoder; this cache is for decoders alone")
    if "mrope_section" in str(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)):
        raise ValueError(f"{who}: its rotary positions have several axes; this cache counts along one")
    heads = config.num_attention_heads
    found = {
        tuple(module.inv_freq.double().tolist())
        for name, module in model.named_modules()
        if not any(eye in name for eye in EYES) and isinstance(getattr(module, "inv_freq", None), Tensor)
    }
    if len(found) != 1:
        raise ValueError(
            f"{who}: {len(found)} sets of rotary frequencies (inv_freq) are found, expected 1 for all layers; a model "
            "that has several, or no rotary positions, cannot use this cache"
        )
    spec = CacheSpec(
        layers=config.num_hidden_layers,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        dtype=model.dtype,
        query_heads=heads,
        inverse_frequencies=next(iter(found)),
    )
    _check_rotation(who, model, spec, getattr(config, "max_position_embeddings", 4096) + NEAR)
    return spec


def rotation(spec: CacheSpec, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of positions [T] as the models compute them, in float32, so that turning back is exact."""
    used = torch.tensor(spec.frequencies, dtype=torch.float32, device=positions.device)
    turned = positions.float().unsqueeze(-1) * used
    return turned.cos(), turned.sin()


def sliding_window(model: PreTrainedModel) -> int | None:
    """Return how many tokens the layers that see the fewest see; None: all."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    slides = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    window: int | None = getattr(config, "sliding_window", None) if slides else None
    return window


def _check_rotation(who: str, model: PreTrainedModel, spec: CacheSpec, far: int) -> None:
    # a token alone attends to itself only: in every layer its position shows in its key's rotation and nowhere else
    start = _keys_at(model, 0)
    for position in (NEAR, far):
        angle = rotation(spec, torch.tensor([position], device=model.device))
        found = _keys_at(model, position)
        shapes = {tuple(key.shape) for key in found}
        if len(found) != spec.layers or shapes != {(1, spec.kv_heads, 1, spec.head_dim)}:
            raise ValueError(
                f"{who}: {len(found)} layers keep keys of shapes {sorted(shapes)}, expected {spec.layers} with "
                f"{spec.kv_heads} heads of {spec.head_dim} numbers: a model with other layers cannot use this cache"
            )
        for number, (key, at_start) in enumerate(zip(found, start, strict=True)):
            off = (key - apply_rotary(at_start, *angle)).abs().max()
            if not off <= OFF * at_start.abs().max():
                raise ValueError(
                    f"{who}: at position {position} layer {number} does not turn its keys by its rotary frequencies in "
                    "half-split pairs (x[i], x[i + d/2]); a model with interleaved pairs, with layers that have no "
                    "positions, or with angles that change with the sequence's length cannot use this cache"
                )


@torch.no_grad()
def _keys_at(model: PreTrainedModel, position: int) -> list[Tensor]:
    """Return the keys of a made-up token at a position, of every layer, each [1, Hkv, 1, d]."""
    width = model.get_input_embeddings().weight.shape[-1]
    token = torch.randn(1, 1, width, generator=torch.Generator().manual_seed(0)).to(model.device, model.dtype)
    cache: Any = DynamicCache()
    trained = model.training
    model.eval()  # no dropout
    try:
        model(
            inputs_embeds=token,
            position_ids=torch.tensor([[position]], device=model.device),
            past_key_values=cache,
            use_cache=True,
        )
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"spec of {type(model).__name__}: it does not run over one token with inputs_embeds, position_ids and "
            f"past_key_values ({error}); a model that cannot, cannot use this cache"
        ) from error
    finally:
        model.train(trained)
    return [layer.keys.float() for layer in cache.layers]
