"""Sizes of SmolVLA's vision-language model: its config.json in model_assets, since the checkpoint only names it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streaming_vla.policies.errors import CheckpointError, shortened
from streaming_vla.policies.lerobot.config import CONFIG
from streaming_vla.policies.lerobot.folder import Folder
from streaming_vla.policies.lerobot.layers import LayerSizes

MOST = {"layers": 256, "width": 65536, "vocabulary": 1_048_576, "pixels": 4096}


@dataclass(frozen=True)
class VlmSizes:
    """What a SmolVLM is made of.

    Args:
        text: a layer of the text tower.
        vocabulary: rows of its embedding.
        shuffle: patches of a side that become one token.
        config: of transformers, for its vision tower and connector.
    """

    text: LayerSizes
    vocabulary: int
    shuffle: int
    config: Any

    def picture_tokens(self, width: int, height: int) -> int:
        """Return how many tokens a picture becomes.

        Raises:
            CheckpointError: it is not square, or does not consist of whole tokens.
        """
        side = int(self.config.vision_config.patch_size) * self.shuffle
        if width != height or width % side:
            raise CheckpointError(
                f"resize_imgs_with_padding is {width} x {height}, expected a square of a multiple of {side} pixels"
            )
        return (width // side) ** 2


def read_vlm(assets: Folder | None, wanted: str) -> VlmSizes:
    """Return the sizes that model_assets/config.json states.

    Args:
        wanted: the hub's name of the model.

    Raises:
        CheckpointError: it is missing, of another model, or a size is out of range.
    """
    give = f"give model_assets, a folder with config.json and tokenizer of '{shortened(wanted)}' (no weights)"
    if assets is None:
        raise CheckpointError(f"the configuration of the vision-language model is missing; {give}")
    content, who = assets.json(CONFIG, give), f"{assets.who}: {CONFIG}"
    if content.get("model_type") != "smolvlm":
        raise CheckpointError(f"{who} is of a '{shortened(content.get('model_type'))}', expected 'smolvlm'; {give}")
    from transformers import SmolVLMConfig

    try:
        config = SmolVLMConfig.from_dict(content)
    except Exception as error:  # its checks raise what each of them likes
        raise CheckpointError(f"{who} is refused by transformers ({type(error).__name__}); {give}") from error
    text, vision = config.text_config, config.vision_config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // max(1, text.num_attention_heads)
    _check(who, text, vision, head_dim, config.scale_factor)
    return VlmSizes(
        LayerSizes(
            width=text.hidden_size,
            mlp=text.intermediate_size,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head_dim=head_dim,
            norm_epsilon=text.rms_norm_eps,
        ),
        text.vocab_size,
        config.scale_factor,
        config,
    )


def _check(who: str, text: Any, vision: Any, head_dim: object, scale_factor: object) -> None:
    numbers = {
        "text_config.hidden_size": (text.hidden_size, "width"),
        "text_config.intermediate_size": (text.intermediate_size, "width"),
        "text_config.num_hidden_layers": (text.num_hidden_layers, "layers"),
        "text_config.num_attention_heads": (text.num_attention_heads, "layers"),
        "text_config.num_key_value_heads": (text.num_key_value_heads, "layers"),
        "text_config.head_dim": (head_dim, "width"),
        "text_config.vocab_size": (text.vocab_size, "vocabulary"),
        "vision_config.hidden_size": (vision.hidden_size, "width"),
        "vision_config.intermediate_size": (vision.intermediate_size, "width"),
        "vision_config.num_hidden_layers": (vision.num_hidden_layers, "layers"),
        "vision_config.num_attention_heads": (vision.num_attention_heads, "layers"),
        "vision_config.image_size": (vision.image_size, "pixels"),
        "vision_config.patch_size": (vision.patch_size, "pixels"),
        "scale_factor": (scale_factor, "layers"),
    }
    for name, (value, kind) in numbers.items():
        if type(value) is not int or not 1 <= value <= MOST[kind]:
            raise CheckpointError(f"{who}: {name} is {shortened(value)}, expected a whole number of 1 to {MOST[kind]}")
    if text.num_attention_heads % text.num_key_value_heads or head_dim % 2 or not 0.0 < text.rms_norm_eps < 1.0:  # type: ignore[operator]
        raise CheckpointError(
            f"{who}: {text.num_attention_heads} heads on {text.num_key_value_heads} of {head_dim} numbers with "
            f"rms_norm_eps {shortened(text.rms_norm_eps)} make no attention"
        )
    if vision.hidden_size % vision.num_attention_heads:
        raise CheckpointError(f"{who}: vision_config.hidden_size is no multiple of its num_attention_heads")
    wrong = [name for name in ("attention_bias", "mlp_bias") if getattr(text, name, False)]
    if wrong or text.hidden_act != "silu":
        raise CheckpointError(
            f"{who}: text_config has {', '.join(wrong) or 'hidden_act ' + shortened(text.hidden_act)}, expected a "
            "Llama without biases and with silu"
        )
