"""Small Hugging Face models of random weights, and tokens for them."""

from __future__ import annotations

from typing import Any

import torch
import transformers

TEXT = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IMAGE_TOKEN = 49  # beyond what `ids` gives; a picture has four
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


def llama(**changes: Any) -> Any:
    """Grouped keys and the base 10 000."""
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**TEXT, **changes}))


def scaled_llama() -> Any:
    """Frequencies that no base gives, and a key head per query head."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    return llama(rope_parameters=rope, num_key_value_heads=4)


def gemma() -> Any:
    """One key head."""
    return transformers.GemmaForCausalLM(transformers.GemmaConfig(**{**TEXT, "num_key_value_heads": 1}))


def paligemma() -> Any:
    """Gemma under a vision tower."""
    config = transformers.PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", "projection_dim": 32, **VISION},
        text_config={"model_type": "gemma", **TEXT, "num_key_value_heads": 1},
        projection_dim=32,
        hidden_size=32,
        image_token_id=IMAGE_TOKEN,
    )
    return transformers.PaliGemmaForConditionalGeneration(config)


def smolvlm() -> Any:
    """SmolLM (a Llama) under a vision tower."""
    rope = {"rope_type": "default", "rope_theta": 273_768.0}
    config = transformers.SmolVLMConfig(
        vision_config=VISION,
        text_config={
            "model_type": "llama",
            **TEXT,
            "rope_parameters": rope,
        },
        image_token_id=IMAGE_TOKEN,
        scale_factor=1,
    )
    return transformers.SmolVLMForConditionalGeneration(config)


def small(family: str, **changes: Any) -> Any:
    """Return a small model of another family."""
    config = getattr(transformers, f"{family}Config")(**{**TEXT, **changes})
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


def ids(count: int, rows: int = 1, seed: int = 0) -> torch.Tensor:
    """Return token ids [rows, count]."""
    return torch.randint(3, 48, (rows, count), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def stream(model: Any, cache: Any, tokens: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Return the logits of tokens that are fed piece by piece."""
    pieces = [
        model(input_ids=piece, past_key_values=cache, use_cache=True).logits for piece in tokens.split(sizes, dim=1)
    ]
    return torch.cat(pieces, dim=1)


def picture(seed: int) -> torch.Tensor:
    """Return a picture [1, 3, S, S] of random numbers."""
    size = VISION["image_size"]
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def observe(model: Any, cache: Any, pixels: torch.Tensor | None, text: torch.Tensor) -> torch.Tensor:
    """Return the logits of an observation: the tokens of a picture, if there is one, and of a text."""
    given: dict[str, Any] = {"input_ids": text}
    if pixels is not None:
        given["input_ids"] = torch.cat((torch.full((1, 4), IMAGE_TOKEN), text), dim=1)
        if "paligemma" in model.config.model_type:
            # as its processor does: a prompt's tokens see each other in full
            given |= {"pixel_values": pixels, "token_type_ids": torch.zeros_like(given["input_ids"])}
        else:
            given["pixel_values"] = pixels.unsqueeze(1)
    logits: torch.Tensor = model(**given, past_key_values=cache, use_cache=True).logits
    return logits
